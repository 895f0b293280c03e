"""What an engine finds in the files that a power cut left, and whether that is what the caller was told.

Each image is opened by the engine as a user would, verified, read and written to. `Found` is what came out: kept by
the image's hash, it is compared with what had been told by each of the cuts that left this image.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apsw

import eventstore as es

CONTENT = (
    "SELECT trace_id, name, status, parent, fork_seq FROM trace ORDER BY id",
    "SELECT trace, first_seq, n, append_id, digest FROM log ORDER BY trace, first_seq",
    "SELECT trace, seq, digest FROM root ORDER BY trace, seq",
    "SELECT trace_id, version, digest FROM tombstone ORDER BY trace_id",
    "SELECT checkpoint_id, trace, seq, node, triggers FROM checkpoint ORDER BY checkpoint_id",
    "SELECT trace, barrier_id, raised_seq, decided_seq FROM barrier ORDER BY trace, barrier_id",
)
EMPTY = hashlib.blake2b(repr([[]] * len(CONTENT)).encode(), digest_size=16).digest()


class Stand(NamedTuple):
    """How a trace stands: its version, and its state there and at earlier places."""

    version: int
    states: dict[int, object]
    erased: bool = False


class Found(NamedTuple):
    """What an image holds. `broken`: why it cannot be used, empty where it can; `content`: a hash of all but bases."""

    broken: str
    content: bytes = b""
    traces: dict[str, Stand] = {}


def content(connection):
    """A hash of all that a store holds, but for what is derived, and for owners."""
    if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'tombstone'").get:
        return EMPTY
    rows = [connection.execute(sql).fetchall() for sql in CONTENT]
    return hashlib.blake2b(repr(rows).encode(), digest_size=16).digest()


def hash_of(image, shm=b""):
    """What tells one image from another."""
    hashed = hashlib.blake2b(shm, digest_size=16)
    for path, data in sorted(image.items()):
        hashed.update(f"{path}\0{len(data)}\0".encode())
        hashed.update(data)
    return hashed.digest()


class Bench:
    """A folder in which images are put back, one at a time."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._number = 0

    def put_back(self, image, path, shm=b""):
        """The files of one store in a folder of their own; the path of the store there."""
        self._number += 1
        folder = self.folder / f"image-{self._number}"
        folder.mkdir(parents=True)
        for name, data in image.items():
            if name.startswith(path):
                (folder / os.path.basename(name)).write_bytes(data)  # noqa: PTH119 - names, not paths
        target = folder / os.path.basename(path)  # noqa: PTH119
        if shm and target.exists():
            Path(f"{target}-shm").write_bytes(shm)
        return str(target)

    def away(self, path):
        """Remove them."""
        shutil.rmtree(Path(path).parent)

    def committed(self, image, path):
        """The content of an image as SQLite alone reads it."""
        target = self.put_back(image, path)
        try:
            if not Path(target).exists():
                return EMPTY
            connection = apsw.Connection(target)
            try:
                return content(connection)
            finally:
                connection.close()
        finally:
            self.away(target)

    def recovered(self, image, path, versions, *, shm=b"", durability="full", then=None):
        """What the engine finds. `versions`: of which traces which versions to read the state at, where they are.

        `then(store)`: what else to do there; its assertions count.
        """
        target = self.put_back(image, path, shm)
        try:
            store = es.open(target, durability=durability)
            try:
                found = examine(store, versions, then)
            finally:
                store.close()
        except Exception as error:  # whatever it is, the image is of no use
            return Found(f"{type(error).__name__}: {error}")
        finally:
            self.away(target)
        return found


def examine(store, versions, then=None):
    """Verify a store, read it, and write to it."""
    report = store.verify()
    if not report.ok:
        return Found(f"verify: {report.problems[0]}")
    with store._database.reader() as connection:
        found = content(connection)
    traces = {}
    for trace_id, wanted in versions.items():
        with suppress(es.TraceNotFound):
            traces[trace_id] = stand(store, trace_id, wanted)
    after = store.start({"n": 1}, id="after")
    after.append([es.StateDelta("n", "sum", 1)], append_id="a")
    assert store.state_at("after") == {"n": 2}
    if then is not None:
        then(store)
    for trace_id, found_stand in traces.items():
        if then is None and not found_stand.erased:
            assert store.append(trace_id, [es.Note("after")]).version == found_stand.version + 1
            break
    assert store.verify("after").ok, "verify after an append"
    return Found("", found, traces)


def stand(store, trace_id, wanted):
    """How a trace stands."""
    try:
        version = store.open_trace(trace_id).version
    except es.TraceErased:
        return Stand(0, {}, erased=True)
    states = {}
    for seq in {*wanted, version}:
        try:
            states[seq] = store.state_at(trace_id, seq)
        except es.Trimmed:
            states[seq] = "trimmed"
        except es.SeqOutOfRange:
            continue
    return Stand(version, states)


def missing(found, known, under_way=(), *, exact=False):
    """What was told and is not there, in words; empty where all of it is. `known`: by trace.

    `exact`: whatever is there beyond what was told must be what a deed under way would have come to.
    """
    if found.broken:
        return found.broken
    removing = {trace_id for deed in under_way for trace_id, then in deed.known.items() if then.erased}
    trimming = {trace_id for deed in under_way if deed.what == "trim" for trace_id in deed.known}
    for trace_id, told in known.items():
        stands = found.traces.get(trace_id)
        if stands is None:
            return f"trace {trace_id} is not there"
        if told.erased or stands.erased:
            if not stands.erased or not (told.erased or trace_id in removing):
                return f"trace {trace_id}: erased is {stands.erased}, told {told.erased}"
            continue
        if stands.version < told.version:
            return f"trace {trace_id} is at {stands.version}, told {told.version}"
        state = stands.states[told.version]
        if state != told.state and not (state == "trimmed" and trace_id in trimming):
            return f"trace {trace_id} at {told.version} has another state than was told"
        if exact and (wrong := beyond(stands, trace_id, told, under_way)):
            return wrong
    return ""


def beyond(stands, trace_id, told, under_way):
    """What is there and was neither told nor asked for, in words."""
    allowed = [told.state, *(deed.known[trace_id].state for deed in under_way if trace_id in deed.known)]
    if stands.states[stands.version] not in allowed:
        return f"trace {trace_id} at {stands.version} has a state that nobody asked for"
    if stands.version != told.version and len(allowed) == 1:
        return f"trace {trace_id} is at {stands.version}, told {told.version}, and nobody asked for more"
    return ""
