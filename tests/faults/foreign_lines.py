"""Dumps with bent lines, and files that are neither a dump nor a database."""

from __future__ import annotations

from .foreign_sql import NUMBERS


def bend_line(lines, rng):
    at = rng.randrange(len(lines))
    line = bytearray(lines[at])
    for _ in range(rng.choice((1, 1, 3, 20))):
        line[rng.randrange(len(line))] = rng.randrange(256)
    lines[at] = bytes(line)


def bend_number(lines, rng):
    at = rng.randrange(len(lines))
    number = str(rng.choice((*NUMBERS, 10**30, "1e999", "-0", "NaN", '"1"', "null", "[]"))).encode()
    colon = lines[at].find(b":", rng.randrange(len(lines[at])))
    if colon > 0:
        lines[at] = lines[at][: colon + 1] + number + lines[at][colon + 2 :]


def swap_lines(lines, rng):
    one, other = (rng.randrange(len(lines)) for _ in "12")
    lines[one], lines[other] = lines[other], lines[one]


def drop_line(lines, rng):
    del lines[rng.randrange(len(lines))]


def repeat_line(lines, rng):
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))


def deep_line(lines, rng):
    depth = rng.choice((64, 1000, 100_000))
    value = rng.choice((b"[", b'{"a":')) * depth
    lines.insert(
        rng.randrange(len(lines)),
        rng.choice((b'{"commit":%b', b'{"trace":%b', b"%b", b'{"root":{"seq":1,"state":%b')) % value + b"\n",
    )


def long_line(lines, rng):
    lines.insert(rng.randrange(len(lines)), b'{"commit":{"body":"' + b"x" * 3_000_000 + b'"}}\n')


def cut_lines(lines, rng):
    del lines[rng.randrange(len(lines)) :]
    lines[-1:] = [lines[-1][: rng.randrange(len(lines[-1]))]] if lines else []


LINES = (
    bend_line,
    bend_line,
    bend_line,
    bend_number,
    bend_number,
    swap_lines,
    drop_line,
    repeat_line,
    deep_line,
    long_line,
    cut_lines,
)
OTHERS = (
    b"", b"\0", b"SQLite format 3\0", b"SQLite format 3\0" + bytes(84), b"\x89PNG\r\n\x1a\n" + bytes(5000), b"{}",
    b"[]",
    b'{"eventstore":{"format":1}}', b'{"messages":"x"}', b'{"messages":[{"role":1,"content":[[[]]]}]}', b"\x1f\x8b",
    b"\x1f\x8b" + bytes(40),
    b'{"eventstore":{"format":1e999}}\n', b"\xff\xfe[\0]\0", b"[" * 100_000, b'{"messages":' + b"[" * 100_000,
    b"null\n" * 1000,
    b'{"messages":[{"role":"user","content":"\\ud800"}]}', b'{"messages":[{"role":"user","content":1e400}]}',
    b'{"messages":[{"role":"user","content":"x","role":"y"}],"trajectory":{}}', b"\xef\xbb\xbf[]",
    b'[{"messages":[]},1]',
    b'{"id":' + b"9" * 5000 + b',"messages":[{"role":"user"}]}',
)  # fmt: skip
