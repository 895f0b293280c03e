"""Chat transcripts into traces: losslessly, one durable step an item, and at most once.

A run is an object with `messages`, SWE-agent style `steps`, or both (lists of objects). Its other fields
are the trace's initial state; the lists start empty and every item is appended by a step of its own, so
the last state is the run itself. The trace id is a hash of the run's canonical JSON and of its ordinal
among identical runs of the file. A second import therefore finds the trace: one that has ended is passed
over, one that a killed import left behind goes on after the items it holds.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import UUID

import msgspec

from .codec import normalise, normalise_state
from .control import ENDED
from .errors import (
    EventStoreError,
    TraceEndedError,
    TraceErased,
    TraceExists,
    TraceNotFound,
    ValueRefused,
    WrongExpectedVersion,
)
from .record import ExecutionMetadata
from .reduce import Reducer
from .store import Store
from .trace import Trace

LISTS = ("messages", "steps")
MAX_LINE_BYTES = 256 * 1024 * 1024
MAX_JSON_BYTES = 1024 * 1024 * 1024
MAX_DIGITS = 1000
_SUFFIX = re.compile(r"(.+)\.(jsonl|ndjson|json)(\.gz)?", re.DOTALL | re.IGNORECASE)
_ROLE = re.compile(r"[\w./:+-]{1,64}")
_COMMAND = re.compile(r"[A-Za-z_][\w.-]{0,31}")
_SPACE = re.compile(r"[ \t\r\n]*")
_IMPORTED = ExecutionMetadata(duration_ms=0.0, token_cost=0.0, has_side_effects=False)


class MalformedRun(EventStoreError):
    """A line that is no run, or none that the store can hold.

    Attributes: `path` (str), `line` (int, 1-based), `reason` (str).

    >>> print(MalformedRun("runs.jsonl", 7, "not JSON: Expecting value at column 1"))
    runs.jsonl:7: not JSON: Expecting value at column 1
    """

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class Counts(msgspec.Struct):
    """What became of a file's runs. `continued`: begun by an import that was cut short; `steps`: written now.

    >>> Counts(added=2, steps=9)
    Counts(added=2, continued=0, present=0, skipped=0, steps=9)
    """

    added: int = 0
    continued: int = 0
    present: int = 0
    skipped: int = 0
    steps: int = 0


class SourceRun(NamedTuple):
    """A run and the line on which it begins."""

    line: int
    run: dict[str, Any]


class Transcript:
    """One file of runs: `.jsonl` (a run a line) or `.json` (one run or a list of them), gzipped or not.

    Iterating gives each run, and a `MalformedRun` in the place of each that is none; a `.jsonl` is never
    held whole. `fraction` tells how far the file has been read, 0 to 1; `stem` is its name without suffixes.
    Raises ValueError for any other suffix, OSError when it cannot be read.

    >>> Transcript("data/airline.jsonl.gz").stem
    'airline'
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        found = _SUFFIX.fullmatch(self.path.name)
        if found is None:
            raise ValueError(f"{self.path}: not a .jsonl, .jsonl.gz, .json or .json.gz file")
        self.stem = found[1]
        self.fraction = 0.0
        self._whole = found[2].lower() == "json"

    def __iter__(self) -> Iterator[SourceRun | MalformedRun]:
        size_bytes = max(1, self.path.stat().st_size)
        with self.path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
            found = self._document(stream) if self._whole else self._lines(stream)
            for run in found:
                if not self._whole:
                    self.fraction = raw.tell() / size_bytes
                yield run
        self.fraction = 1.0

    def _lines(self, stream: IO[bytes]) -> Iterator[SourceRun | MalformedRun]:
        line = 0
        while True:
            line += 1
            try:
                text = stream.readline(MAX_LINE_BYTES + 1)
                if len(text) > MAX_LINE_BYTES:
                    while text and not text.endswith(b"\n"):
                        text = stream.readline(MAX_LINE_BYTES)
                    yield self._bad(line, f"the line is longer than {MAX_LINE_BYTES} bytes")
                    continue
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield self._bad(line, f"the gzip stream ends or breaks here: {error}")
                return
            if not text:
                return
            if not text.isspace():
                yield self._run(line, text.removeprefix(b"\xef\xbb\xbf") if line == 1 else text)

    def _run(self, line: int, text: bytes) -> SourceRun | MalformedRun:
        try:
            run = _decoder.decode(text.decode())
        except (ValueError, RecursionError) as error:
            return self._bad(line, _reason(error))
        return self._checked(line, run)

    def _document(self, stream: IO[bytes]) -> Iterator[SourceRun | MalformedRun]:
        try:
            data = _read(stream, MAX_JSON_BYTES + 1)
            if len(data) > MAX_JSON_BYTES:
                raise ValueError(f"longer than {MAX_JSON_BYTES} bytes; write one run a line (.jsonl)")
            text = data.decode("utf-8-sig")
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
            yield self._bad(1, _reason(error))
            return
        at, line, counted = _skip_space(text, 0), 1, 0
        many = text.startswith("[", at)
        at = _skip_space(text, at + 1) if many else at
        if many and text.startswith("]", at):
            return
        while True:
            line, counted = line + text.count("\n", counted, at), at
            try:
                run, at = _decoder.raw_decode(text, at)
                yield self._checked(line, run)
                at = _skip_space(text, at)
                self.fraction = at / len(text)
                if not many:
                    break
                if text[at : at + 1] not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
                if text[at] == "]":
                    at = _skip_space(text, at + 1)
                    break
                at = _skip_space(text, at + 1)
            except (ValueError, RecursionError) as error:
                yield self._bad(getattr(error, "lineno", line), _reason(error))
                return
        if at < len(text):
            yield self._bad(line + text.count("\n", counted, at), "text after the end; is it a .jsonl file?")

    def _checked(self, line: int, run: Any) -> SourceRun | MalformedRun:
        reason = _why_no_run(run)
        return SourceRun(line, run) if reason is None else self._bad(line, reason)

    def _bad(self, line: int, reason: str) -> MalformedRun:
        return MalformedRun(str(self.path), line, reason)


def _read(stream: IO[bytes], most: int) -> bytes:
    """Up to so many bytes, piece by piece: a stream asked for all at once sets aside memory for all."""
    pieces: list[bytes] = []
    while most > 0 and (piece := stream.read(min(most, 1 << 20))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def import_transcript(
    store: Store,
    transcript: Transcript,
    counts: Counts,
    *,
    on_bad: Callable[[MalformedRun], None] | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Import every run of a file, adding to `counts` as it goes.

    `on_bad`: is told of a malformed run, which is then skipped; without it the first one is raised, and what
    was imported before it stays. `on_step`: called after each committed step and each run.

    Raises MalformedRun, OSError, and the store's own errors.
    """
    seen: Counter[bytes] = Counter()
    for found in transcript:
        try:
            if isinstance(found, MalformedRun):
                raise found
            digest = _digest(found.run)
            trace_id = trace_id_of(digest, seen[digest])
            seen[digest] += 1
            try:
                _import_run(store, found.run, trace_id, name_of(found.run, transcript.stem), counts, on_step)
            except (ValueRefused, TraceErased, _OtherContent) as error:
                raise MalformedRun(str(transcript.path), found.line, str(error)) from None
        except MalformedRun as error:
            if on_bad is None:
                raise
            counts.skipped += 1
            on_bad(error)
        on_step()


def _import_run(
    store: Store, run: dict[str, Any], trace_id: str, name: str, counts: Counts, on_step: Callable[[], None]
) -> None:
    lists = [key for key in LISTS if key in run]
    trace, added = _open(store, run, lists, trace_id, name)
    if trace.status in ENDED:
        counts.present += 1
        return None
    if added:
        counts.added += 1
    else:
        counts.continued += 1
    while True:
        try:
            for key, item in _left(trace, run, lists):
                with trace.step(node_of(key, item), _IMPORTED) as step:
                    step.put(key, [item])
                counts.steps += 1
                on_step()
            return trace.end()
        except (WrongExpectedVersion, TraceEndedError):
            # Another import of the same run is at work: go on behind what it wrote.
            trace.refresh()
            if trace.status in ENDED:
                return None


def _open(store: Store, run: dict[str, Any], lists: list[str], trace_id: str, name: str) -> tuple[Trace, bool]:
    try:
        return store.open_trace(trace_id), False
    except TraceNotFound:
        initial = {key: [] if key in lists else value for key, value in run.items()}
        try:
            return store.start(initial, name=name, reducers=dict.fromkeys(lists, Reducer.APPEND), id=trace_id), True
        except TraceExists:
            return store.open_trace(trace_id), False


class _OtherContent(EventStoreError):
    """The trace of a run's id holds something else."""


def _left(trace: Trace, run: dict[str, Any], lists: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The items that the trace does not hold yet."""
    state = trace.state
    held = {key: len(state[key]) for key in lists if isinstance(state.get(key), list)}
    if state != {key: value[: held.get(key, 0)] if key in lists else value for key, value in run.items()}:
        raise _OtherContent(f"trace {trace.id} has this run's id and other content")
    return [(key, item) for key in lists for item in run[key][held[key] :]]


def node_of(key: str, item: dict[str, Any]) -> str:
    """The node that an item of `messages` or `steps` was: its role, or its action's command.

    >>> node_of("messages", {"role": "user"}), node_of("steps", {"action": "edit 1:1\\n…"}), node_of("steps", {})
    ('user', 'edit', 'step')
    """
    if key == "messages":
        role = item.get("role")
        return role if isinstance(role, str) and _ROLE.fullmatch(role) else "message"
    action = item.get("action")
    words = action.split(None, 1) if isinstance(action, str) else []
    return words[0] if words and _COMMAND.fullmatch(words[0]) else "step"


def name_of(run: dict[str, Any], stem: str) -> str:
    """A run's name: its `name`, else after its `task_id`, else the file's stem.

    >>> name_of({"name": "crypto"}, "runs"), name_of({"task_id": 7}, "runs"), name_of({}, "runs")
    ('crypto', 'task-7', 'runs')
    """
    name, task = run.get("name"), run.get("task_id")
    if isinstance(name, str) and name:
        return name
    if isinstance(task, str) and task:
        return task
    return f"task-{task}" if type(task) is int else stem


def trace_id_of(digest: bytes, ordinal: int) -> str:
    """The id of the run with that digest, the `ordinal`-th of its kind (from 0): a UUID, version 8 of RFC 9562.

    >>> trace_id_of(bytes(32), 0)
    '673cbd9a-83cb-876e-ba3e-0bcd63a2b414'
    """
    value = int.from_bytes(blake2b(digest + ordinal.to_bytes(8, "big"), digest_size=16).digest(), "big")
    value = value & ~(0xF << 76) | 8 << 76
    return str(UUID(int=value & ~(3 << 62) | 2 << 62))


def _digest(run: dict[str, Any]) -> bytes:
    """Of the canonical JSON: keys sorted, no spaces, ASCII."""
    return blake2b(json.dumps(run, sort_keys=True, separators=(",", ":")).encode(), digest_size=32).digest()


def _why_no_run(run: Any) -> str | None:
    """Checked before the first step, so that a refused run leaves no half of itself behind."""
    if not isinstance(run, dict):
        return f"a run is an object, this is {_kind(run)}"
    if not any(key in run for key in LISTS):
        return "the object has neither messages nor steps"
    path = ""
    try:
        normalise_state({key: value for key, value in run.items() if key not in LISTS})
        for key in LISTS:
            items = run.get(key, [])
            if not isinstance(items, list):
                return f"{key} is {_kind(items)}, not a list of objects"
            for index, item in enumerate(items):
                if not isinstance(item, dict):
                    return f"{key}[{index}] is {_kind(item)}, not an object"
                path = f"{key}[{index}]"
                normalise(key, [item])
    except ValueRefused as error:
        _, first, rest = error.path.partition("[0]")
        return str(ValueRefused(path + rest, error.reason) if path and first else error)
    return None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: {error.reason} at byte {error.start + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "not JSON that can be read: nested too deep"
    return str(error)


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"not JSON that can be kept: key {twice!r} stands twice in one object")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"not JSON: {name} is no JSON value")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"not JSON that can be kept: a number of {len(digits)} digits")
    return int(digits)


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
