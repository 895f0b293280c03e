"""The doors that bytes come in through. Each method raises what should not have come out of one.

A payload is decoded by itself; stands in a file as a row, a base or a root, its digests and checksums right; in a
dump, its sums right; is a transcript, a word of the command line, a value of the API, a blob of LangGraph's.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import math

import apsw
import msgspec

import eventstore as es
from eventstore import codec, link
from eventstore.bases import Place, root_checksum
from eventstore.blaming import blame
from eventstore.chain import Chain, genesis
from eventstore.cli.app import main
from eventstore.integrations.langgraph.saver import EventStoreSaver
from eventstore.integrations.langgraph.values import decoded
from eventstore.readable import readable
from eventstore.recorded import KINDS
from eventstore.timeline import timeline
from eventstore.transfer.lines import line_sum
from eventstore.transfer.loading import load
from eventstore.transfer.outgoing import dump

from .foreign_worker import outcome
from .hostile_payloads import Built


class Doors:
    """What the payloads of a batch are put through, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "own.db"
        with es.open(str(self.path), durability="normal") as store:
            chat = store.start({"messages": [], "n": 0}, id="chat", name="chat", reducers={"n": "sum"})
            with chat.step("ask") as step:
                step.append("messages", {"role": "user"})
            chat.raise_barrier("soon")

    def decoded(self, data):
        """The decoders: ValueError alone; and what they decode, typed."""
        for decode in (codec.decode_rows, codec.decode_derived, link.decode_link, link.decode_whole):
            with contextlib.suppress(ValueError):
                decode(data)
        with contextlib.suppress(ValueError):
            codec.decode_some(data, KINDS)
        with contextlib.suppress(ValueError):
            for row in codec.decode_rows(data):
                with contextlib.suppress(ValueError):
                    codec.decode_event(row)

    def rows(self, batch):
        """As the second row of a trace each, the digests right."""
        path = self.folder / "rows.db"
        started = self.foreign(path, batch)
        with es.open(str(path), read_only=True) as store:
            self.read(store, started)

    def foreign(self, path, batch, table="log"):
        """A file in which each payload is the last row of a trace, or a base of it, or its root."""
        path.unlink(missing_ok=True)
        names = [f"t{number}" for number in range(len(batch))]
        with es.open(str(path), durability="normal") as store:
            for name in names:
                store.start({"n": 1, "messages": []}, id=name)
        connection = apsw.Connection(str(path))
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF; BEGIN")
        chain = Chain()
        heads = connection.execute("SELECT trace, first_seq + n, digest FROM log ORDER BY trace").fetchall()
        for (trace, seq, digest), data in zip(heads, batch, strict=True):
            body = "CAST(? AS TEXT)" if data[:1] < b"\x80" else "CAST(? AS BLOB)"
            if table == "log":
                count = number_of_events(data)
                own = chain.extend(digest, seq, count, 1, None, data)
                sql = f"INSERT INTO log (trace, first_seq, n, at_us, digest, body) VALUES (?, ?, ?, 1, ?, {body})"
                connection.execute(sql, (trace, seq, count, own, data))
            elif table == "base":
                parent = None if trace % 2 else 0
                place = Place(trace, seq - 1, parent, len(data), 2, 100, len(data))
                columns = f"{', '.join(place._fields)}, at_us, checksum, reason, body"
                sql = f"INSERT INTO base ({columns}) VALUES (?,?,?,?,?,?,?,1,?,'',{body})"
                connection.execute(sql, (*place, place.checksum(data), data))
            else:
                crc = root_checksum(trace, seq - 1, data)
                sql = f"INSERT INTO root (trace, seq, at_us, digest, checksum, body) VALUES (?, ?, 1, ?, ?, {body})"
                connection.execute(sql, (trace, seq - 1, digest, crc, data))
        connection.execute("COMMIT")
        connection.close()
        self.guards_back(path)
        return names

    def guards_back(self, path):
        """The triggers of an untouched file: a file without them is refused."""
        source, target = apsw.Connection(str(self.path)), apsw.Connection(str(path))
        for (sql,) in source.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            target.execute(sql)
        source.close()
        target.close()

    def read(self, store, names):
        """All that reads a trace."""
        reads = (
            store.state_at,
            lambda name: list(store.events(name)),
            lambda name: timeline(store, name),
            store.verify,
            lambda name: store.open_trace(name).at(-1).state,
            lambda name: blame(store, name, "n"),
            lambda name: dump(store, io.BytesIO(), trace_ids=[name], on_bad=lambda _: None),
        )
        for name, read in itertools.product(names, reads):
            with contextlib.suppress(es.EventStoreError):
                read(name)
        with contextlib.suppress(es.EventStoreError):
            store.verify()
        with contextlib.suppress(es.EventStoreError):
            store.stats()

    def bases(self, batch):
        path = self.folder / "bases.db"
        names = self.foreign(path, batch, "base")
        with es.open(str(path), read_only=True) as store:
            self.read(store, names)

    def roots(self, batch):
        path = self.folder / "roots.db"
        names = self.foreign(path, batch, "root")
        with es.open(str(path), read_only=True) as store:
            self.read(store, names)

    def dumps(self, batch):
        """As commits and roots of dumps, their digests and sums right; what is taken verifies."""
        path = self.folder / "loaded.db"
        path.unlink(missing_ok=True)
        with es.open(str(path), durability="normal") as store:
            for number, data in enumerate(batch):
                lines = io.BytesIO(dump_with(f"t{number}", data))
                with contextlib.suppress(es.EventStoreError):
                    load(store, lines, on_bad=None if number % 2 else lambda _: None)
            report = store.verify()
            assert report.ok, f"what was loaded does not verify: {report.problems[0]}"

    def transcripts(self, batch):
        for number, data in enumerate(batch):
            file = self.folder / f"run-{number}{('.json', '.jsonl')[number % 2]}"
            file.write_bytes(transcript(number, data))
            self.tell(outcome(main, ["--db", str(self.folder / "imported.db"), "import", str(file)], None))
            file.unlink()

    def commands(self, batch):
        """As words of the command line."""
        for number, data in enumerate(batch):
            word = data[:3000].replace(b"\0", b"").decode("utf-8", "surrogateescape")
            command = COMMANDS[number % len(COMMANDS)]
            words = ["--db", str(self.path), *(part.replace("%s", word) for part in command)]
            self.tell(outcome(main, words, None))

    def tell(self, ended):
        if ended not in ("ok", "refused"):
            raise AssertionError(ended[:300])

    def values(self, batch):
        """As values of the API: those that JSON or msgpack hold, and those that only Python does."""
        path = self.folder / "values.db"
        path.unlink(missing_ok=True)
        with es.open(str(path), durability="normal") as store:
            trace = store.start({"n": 1}, id="t")
            for number, data in enumerate(batch):
                self.through_the_api(store, trace, number, data)
            report = store.verify()
            assert report.ok, f"what was appended does not verify: {report.problems[0]}"
            before = store.state_at("t")
            store.drop_bases()
            assert codec.msgpack_encode(before) == codec.msgpack_encode(store.state_at("t"))

    def through_the_api(self, store, trace, number, data):
        held = python_value(number, data)
        word = data[:2000].decode("utf-8", "surrogateescape")
        calls = (
            lambda: trace.append([es.StateDelta.put("k", held)]),
            lambda: trace.append([es.StateDelta.put(word, 1)]),
            lambda: trace.append([es.StateDelta("n", "sum", held)]),
            lambda: trace.append([es.StateDelta.append("l", held)]),
            lambda: trace.note(word, held),
            lambda: store.start({word: held}, id=word or None),
            lambda: trace.append([es.StateDelta.put("o", es.Opaque("msgpack", data))]),
            lambda: trace.append([es.StateDelta.put("o", es.Opaque(word, data, number % 5))]),
            lambda: trace.append([es.StateDelta("k", "merge", held)], append_id=word),
            lambda: store.events(word),
            lambda: store.open_trace("t").at(word),
            lambda: store.fork("t", put={word: held}),
        )
        with contextlib.suppress(es.EventStoreError):
            calls[number % len(calls)]()
        trace.refresh()

    def blobs(self, batch):
        """As values of LangGraph's checkpoints, read by the adapter and shown by the command line."""
        before = Built.count
        with EventStoreSaver(":memory:") as saver:
            for number, data in enumerate(batch):
                codec = ("msgpack", "json", "pickle", "bytes", "null", "msgpack[]", "each", "x")[number % 8]
                opaque = es.Opaque(codec, data, (None, None, 1, 3)[number % 4])
                json.dumps(readable(opaque))
                with contextlib.suppress(*SERIALIZERS_ERRORS):
                    decoded(saver.serde, opaque)
        assert Built.count == before, "a blob had an object built"
        assert not saver.serde.pickle_fallback


SERIALIZERS_ERRORS = (ValueError, NotImplementedError, TypeError, LookupError, AttributeError, EOFError, RecursionError)
"""What LangGraph's serializer raises; the saver's doors hand it on."""
DOORS = (
    "rows",
    "rows",
    "rows",
    "bases",
    "roots",
    "dumps",
    "dumps",
    "transcripts",
    "commands",
    "values",
    "values",
    "blobs",
)
COMMANDS = (
    ["state", "chat", "--at", "%s"], ["state", "%s"], ["log", "%s"], ["blame", "chat", "%s"], ["why", "chat", "%s"],
    ["diff", "chat", "%s"], ["diff", "chat", "--at", "%s", "--to", "1"], ["decide", "chat", "%s", "approve"],
    ["decide", "chat", "soon#1", "modify", "--set", "n=%s"], ["decide", "chat", "soon#1", "modify", "--set", "%s"],
    ["decide", "chat", "soon#1", "reject", "--reason", "%s", "--by", "%s"], ["fork", "chat", "--put", "n=%s"],
    ["fork", "chat", "--id", "%s", "--name", "%s"], ["fork", "chat", "--at", "%s"], ["runs", "--name", "%s"],
    ["runs", "--after", "%s"], ["verify", "%s"], ["verify", "--head", "%s"], ["timeline", "%s"], ["checkpoints", "%s"],
    ["threads", "%s"], ["barriers", "%s"], ["cancel", "%s"], ["log", "chat", "--after", "%s"], ["export", "jsonl",
    "-", "%s"],
)  # fmt: skip


def number_of_events(data):
    try:
        return max(1, len(codec.decode_rows(data)))
    except ValueError:
        return 1


def python_value(number, data):
    """A Python object out of a payload."""
    kinds = (
        lambda: msgspec.json.decode(data),
        lambda: msgspec.msgpack.decode(data),
        lambda: json.loads(data),
        lambda: data.decode("utf-8", "surrogateescape"),
        lambda: {data[:20]: 1},
        lambda: nested(len(data) % 3000),
        lambda: [math.nan, math.inf][len(data) % 2],
        lambda: 2 ** (len(data) % 500),
        lambda: {1: "a", "1": "b"},
        lambda: {frozenset((1, 2))},
        lambda: itself(),
    )
    try:
        return kinds[number % len(kinds)]()
    except (ValueError, RecursionError):
        return data


def nested(depth):
    inner = []
    for _ in range(depth):
        inner = [inner]
    return inner


def itself():
    held = []
    held.append(held)
    return held


def transcript(number, data):
    if number % 3 == 0:
        return data
    if number % 3 == 1:
        return b'{"id":"r","messages":' + data + b"}"
    return b'{"messages":[{"role":"user","content":' + data.replace(b"\n", b" ") + b"}]}\n"


def dump_with(name, data):
    """A dump of one small trace whose last commit has the payload as its body."""
    chain = Chain()
    begin = b'[{"kind":"trace_started","data":{"name":"n","state":{"n":1,"l":[]}}}]'
    first = chain.extend(genesis(name), 1, 1, 5, None, begin)
    count = number_of_events(data)
    last = chain.extend(first, 2, count, 6, None, data)
    one_line = data[:1] == b"[" and data[-1:] == b"]" and b"\n" not in data and len(data) % 2
    held = b'"body":' + data if one_line else b'"body64":"' + base64.b64encode(data) + b'"'
    header = b'{"format":1,"file_format":6,"version":"0","dumped_at":"x","whole":false}'
    one, other = first.hex().encode(), last.hex().encode()
    lines = [
        sealed("eventstore", header, ""),
        sealed("trace", json.dumps({"trace_id": name, "name": "n", "created_us": 5}).encode(), ""),
        b'{"commit":{"first_seq":1,"n":1,"append_id":null,"at_us":5,"digest":"%b","body":%b}}\n' % (one, begin),
        b'{"commit":{"first_seq":2,"n":%d,"append_id":null,"at_us":6,"digest":"%b",%b}}\n' % (count, other, held),
    ]
    if len(data) % 4 == 0:
        root = b'{"seq":1,"at_us":5,"digest":"%b","body64":"%b"}' % (first.hex().encode(), base64.b64encode(data))
        lines[2:3] = [sealed("root", root, name)]
        lines[3:] = []
    return b"".join(lines)


def sealed(kind, content, name):
    return b'{"%b":%b,"sum":"%b"}\n' % (kind.encode(), content, line_sum(kind, content, name).encode())
