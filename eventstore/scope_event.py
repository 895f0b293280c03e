"""What an adapter writes that keeps another framework's checkpoints: LangGraph calls them so.

A *line* is a trace of such checkpoints, each one commit: the channels' deltas and one `CheckpointPut`. A *journal*
is a trace of the writes that wait for the checkpoint after theirs. In a body these events stand as arrays, since
there are two of them a step.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from .event import JsonMixin

Version = str | int | float
if TYPE_CHECKING:
    Id = str
else:
    Id = Any
"""An id, which stands in a body as text or as the 16 bytes of a UUID, and is text once it is read."""


_is_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def packed_id(text: str) -> str | bytes:
    """An id as it stands in a body.

    >>> len(packed_id("1f0a1c7e-0d6c-6f2a-8001-5d3c9f0a7b11")), packed_id("other")
    (16, 'other')
    """
    return bytes.fromhex(text.replace("-", "")) if _is_uuid(text) else text


def unpacked_id(packed: str | bytes) -> str:
    """The inverse of `packed_id`. Raises TypeError for what is no id.

    >>> unpacked_id(packed_id("1f0a1c7e-0d6c-6f2a-8001-5d3c9f0a7b11"))
    '1f0a1c7e-0d6c-6f2a-8001-5d3c9f0a7b11'
    """
    if isinstance(packed, str):
        return packed
    if type(packed) is not bytes or len(packed) != 16:
        raise TypeError(f"a text or 16 bytes is an id, not {packed!r:.60}")
    text = packed.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class ArrayRecord(JsonMixin, msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """Base of the records that stand as arrays.

    >>> ScopeEntered.from_json(ScopeEntered("langgraph", "t1").to_json()).thread_id
    't1'
    """


class ScopeEntered(ArrayRecord, frozen=True):
    """The trace belongs to a thread of another framework: one of the first events of a line and of a journal.

    >>> ScopeEntered("langgraph", "t1").to_json()
    b'["langgraph","t1",""]'
    """

    adapter: str
    thread_id: str
    namespace: str = ""


class CheckpointPut(ArrayRecord, frozen=True):
    """A checkpoint of another framework stands here.

    `name`: its id there; `at`: its time, µs since 1970 or as it was given; `versions`: the channels whose version
    changed, `[version, channels]`; `seen`: what the nodes that ran have seen of them; `follows`: its parent is the
    checkpoint before it in this history; otherwise `parent` is, by name (it may be gone), or it has none. `updated`:
    the channels updated, True for those in `versions`; `is_whole`: `versions` and `seen` are all there are, since
    some are gone; `metadata`: an object, or opaque where it is none of JSON; `rest`: whatever else the framework
    keeps, opaque.

    >>> CheckpointPut("1f0a", 0, versions=[("3", ["messages"])]).versions
    [('3', ['messages'])]
    """

    name: Id
    at: int | str
    versions: list[tuple[Version, list[str]]] = []
    seen: dict[str, dict[str, Version]] = {}
    metadata: Any = {}
    follows: bool = False
    updated: list[str] | bool | None = None
    format: int = 4
    parent: str | None = None
    is_whole: bool = False
    rest: Any = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "name", unpacked_id(self.name))


class WritesPut(ArrayRecord, frozen=True):
    """A task's writes to channels, which wait for the checkpoint after `checkpoint`.

    `values`: opaque, a list with one item for each of `channels`. `path`: of the task, for the order of writes.

    >>> WritesPut("1f0a", "task-1", ["messages"]).channels
    ['messages']
    """

    checkpoint: Id
    task: Id
    channels: list[str]
    values: Any = None
    path: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "checkpoint", unpacked_id(self.checkpoint))
        msgspec.structs.force_setattr(self, "task", unpacked_id(self.task))
