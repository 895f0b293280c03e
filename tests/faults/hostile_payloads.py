"""Payloads: bytes that might be a body, made of chance, each of a kind that has a name."""

from __future__ import annotations

import json
import pickle

import msgspec
import ormsgpack

BATCH = 50
DEPTHS = (64, 127, 128, 129, 200, 1000, 10_000, 100_000)
NUMBERS = ("0", "-0", "1e308", "1e400", "-1e999", "1" * 400, str(2**63), str(2**64), str(-(2**63) - 1), "1e-400", "NaN",
           "Infinity", "-Infinity", "00", "1.", ".5", "0x10", "9007199254740993", "1E+2", str(2**63 - 1))  # fmt: skip
TEXTS = ('""', '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"a\\u0000b"', '"\ufeff"', '"\\uFFFF"', '"\u202e"',
    '"' + "x" * 5000 + '"',
         '"\\x"', '"\n"', '"unclosed', '"\x1b[2J"', "'a'", '"😀"')  # fmt: skip
KINDS = ("delta", "trace_started", "trace_forked", "node_executed", "barrier_raised", "barrier_decided",
    "trace_ended", "note",
         "owner_changed", "node_intended", "branch_executed", "value_recorded", "node_routed", "decision_submitted",
         "cancel_requested", "graph_changed", "trace_reopened", "scope_entered", "checkpoint_put", "writes_put", "x",
         "")  # fmt: skip
FIELDS = ("node", "next", "name", "state", "decision", "barrier_id", "path", "key", "clears", "epoch", "reducers",
    "error",
          "success", "retry_at_us", "duration_ms", "withdrawn", "deltas", "value", "held", "puts", "graph_hash",
          "deadline_us",
          "action", "target", "values", "attempt", "token_cost", "default", "status", "data", "by")  # fmt: skip
OPS = ("put", "delete", "append", "splice", "merge", "sum", "max", "min", "clear", "", "PUT")


def payload(rng):
    """Bytes that may be a body: what they are like, and they."""
    name = rng.choice(tuple(MAKERS))
    data = MAKERS[name](rng)
    if rng.random() < 0.15:
        data = bent(rng, data)
        name += ", bent"
    return name, data


def value(rng, depth=0):
    """JSON, mostly; by hand, since no encoder would write it."""
    kind = rng.randrange(9 if depth < 4 else 5)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return (
            rng.choice(TEXTS)
            if rng.random() < 0.5
            else json.dumps(rng.choice(("chat", "messages", "node 1", "t1", "approve")))
        )
    if kind == 4:
        return rng.choice(("null", "true", "false", "[]", "{}", "nul"))
    if kind < 7:
        return "[" + ",".join(value(rng, depth + 1) for _ in range(rng.randrange(4))) + "]"
    keys = [rng.choice((*FIELDS, "k", "k")) for _ in range(rng.randrange(4))]
    return "{" + ",".join(f'"{key}":{value(rng, depth + 1)}' for key in keys) + "}"


def deep(rng):
    depth = rng.choice(DEPTHS) + rng.randrange(-9, 10)
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"k":', "}]")))
    whole = opening * depth + "1" + (closing * depth if rng.random() < 0.8 else "")
    return rng.choice(("%s", '[{"key":"k","value":%s}]', '[{"kind":"note","data":%s}]')).replace("%s", whole).encode()


def deep_packed(rng):
    depth = rng.choice(DEPTHS) + rng.randrange(-9, 10)
    body = rng.choice((b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01")) * depth + b"\x01"
    return body if rng.random() < 0.5 else b"\x91\x82\xa3key\xa1k\xa5value" + body


def announced(rng):
    """Headers that promise billions of items or bytes."""
    header = rng.choice((b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
                         b"\xc9\xff\xff\xff\xff\x01", b"\xdc\xff\xff", b"\xde\xff\xff",
                         b"\xdd\x7f\xff\xff\xff"))  # fmt: skip
    return (
        rng.choice((b"", b"\x91", b"\x91\x82\xa3key\xa1k\xa5value", b"\x92\xc0"))
        + header * rng.choice((1, 2, 2000))
        + rng.randbytes(rng.randrange(9))
    )


def extension(rng):
    code = rng.choice((1, 2, 0, 5, 127, 255, 254))
    inner = rng.choice(
        (
            b"",
            b"\x93\xc0\xc0\xc4\x00",
            b"\x93\xa1x\xff\xc4\x01a",
            b"\x93\xa1x\xce\xff\xff\xff\xff\xc4\x02ab",
            rng.randbytes(12),
        )
    )
    ext = b"\xc7" + bytes((len(inner), code)) + inner
    stamp = rng.choice((b"\xd6\xff" + rng.randbytes(4), b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12))
    return b"\x91\x82\xa3key\xa1k\xa5value" + rng.choice((ext, stamp)) + rng.randbytes(rng.choice((0, 0, 3)))


def number(rng):
    first = f'{{"key":"n","op":"{rng.choice(OPS)}","value":{rng.choice(NUMBERS)}}}'
    return f'[{first},{{"key":"n","op":"sum","value":{rng.choice(NUMBERS)}}}]'.encode()


def text(rng):
    word = rng.choice(TEXTS)
    return rng.choice(('[{"key":%s,"value":1}]', '[{"key":"k","value":%s}]', '[{"kind":%s}]',
    '[{"kind":"note","data":{"name":%s}}]')).replace(
        "%s", word
    ).encode("utf-8", "surrogatepass")  # fmt: skip


def not_utf8(rng):
    raw = rng.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xe2\x28\xa1"))
    return (
        rng.choice((b'[{"key":"%b"}]', b'[{"key":"k","value":"%b"}]', b'[{"kind":"%b"}]', b"%b", b'[{"%b":1}]')) % raw
    )


def repeated(rng):
    return rng.choice((b'[{"key":"a","key":"b","value":1,"value":2}]', b'[{"kind":"note","kind":"delta","data":1}]',
                       b'[{"key":"k","value":{"a":1,"a":2}}]', b'[{"key":"k","value":1}]' * 2))  # fmt: skip


def events(rng):
    """Events of known kinds whose data are anything."""
    return ("[" + ",".join(event(rng) for _ in range(rng.randrange(1, 5))) + "]").encode("utf-8", "surrogatepass")


def event(rng):
    kind = rng.choice(KINDS)
    if kind == "delta":
        return f'{{"key":"{rng.choice(("n", "messages", "k", ""))}","op":"{rng.choice(OPS)}","value":{value(rng)}}}'
    if rng.random() < 0.3:
        return f'{{"kind":"{kind}","data":{value(rng)}}}'
    fields = [(name, value(rng, 2)) for name in rng.sample(FIELDS, rng.randrange(8))]
    fields += [("node", '"a"'), ("name", '"n"'), ("barrier_id", '"b#1"'), ("path", '"a"')]
    return f'{{"kind":"{kind}","data":{{{",".join(f"{json.dumps(name)}:{data}" for name, data in fields)}}}}}'


def link(rng):
    """What a base could hold."""
    entries = {
        rng.choice(FIELDS): [rng.randrange(-1, 9), rng.choice((1, [1], {}, "x", None, 2**63 - 1, 1e308))]
        * rng.randrange(3)
        for _ in "12"
    }
    body = rng.choice(([[["a"], entries], [[], entries]], [entries, entries], [entries], [[], []], [[1], {}], [[[1],
    {}], [[], {"k": []}]],
                       [[["retry/"], {"steps": [4, [1e400]]}], [[], {}]], [{"steps": "x", "waits": []},
                       {"k": 1}]))  # fmt: skip
    return msgspec.msgpack.encode(body) if rng.random() < 0.7 else json.dumps(body).encode()


def blob(rng):
    """What LangGraph's serializer would build an object of, or Python itself."""
    named = rng.choice(
        (("tests.faults.hostile_payloads", "Built"), ("os", "system"), ("builtins", "eval"), ("subprocess", "Popen"))
    )
    content = ormsgpack.packb(
        (*named, rng.choice((f"echo {rng.random()}", ["echo evil"], {"args": rng.random()})), "__init__")
    )
    return rng.choice((
        ormsgpack.packb(ormsgpack.Ext(rng.randrange(7), content)),
        pickle.dumps(Built, protocol=4)[:-1] + b")\x81.",
        json.dumps({"lc": 2, "type": "constructor", "id": list(named), "kwargs": {}}).encode(),
        json.dumps({"lc": 1, "type": "secret", "id": ["PATH"]}).encode(),
        rng.randbytes(30),
    ))  # fmt: skip


def random_bytes(rng):
    return rng.randbytes(rng.choice((0, 1, 2, 20, 500)))


def bent(rng, data):
    """A few bytes of it changed, or its end cut off."""
    bytes_ = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if bytes_:
            bytes_[rng.randrange(len(bytes_))] = rng.randrange(256)
    return bytes(bytes_[: rng.randrange(len(bytes_) + 1)] if rng.random() < 0.4 else bytes_)


MAKERS = {made.__name__.replace("_", " "): made for made in (deep, deep_packed, announced, extension, number, text,
    not_utf8,
          repeated, events, link, blob, random_bytes)} | {"events again": events,
          "any value": lambda rng: value(rng).encode("utf-8", "replace")}  # fmt: skip


class Built:
    """Nothing may ever build one of these from a blob."""

    count = 0

    def __init__(self, *_, **__):
        type(self).count += 1
