"""What an adapter writes that keeps another framework's checkpoints: LangGraph calls them so.

A *line* is a trace of such checkpoints, each one commit: the channels' deltas and one `CheckpointPut`. A *journal*
is a trace of the writes that wait for the checkpoint after theirs. In a body these events stand as arrays, since
there are two of them a step.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .event import JsonMixin

Version = str | int | float


class ArrayRecord(JsonMixin, msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """Base of the records that stand as arrays.

    >>> ScopeEntered.from_json(ScopeEntered("langgraph", "t1").to_json()).thread_id
    't1'
    """


class ScopeEntered(ArrayRecord, frozen=True):
    """The trace belongs to a thread of another framework: one of the first events of a line and of a journal.

    >>> ScopeEntered("langgraph", "t1").to_json()
    b'["langgraph","t1"]'
    """

    adapter: str
    thread_id: str
    namespace: str = ""


class CheckpointPut(ArrayRecord, frozen=True):
    """A checkpoint of another framework stands here.

    `name`: its id there; `at`: its time, µs since 1970 or as it was given; `versions`: the channels whose version
    changed, `[version, channels]`; `seen`: what the nodes that ran have seen of them; `follows`: its parent is the
    checkpoint before it in this history; otherwise `parent` is, by name (it may be gone), or it has none. `updated`:
    the channels updated, True for those in `versions`; `unversioned`, `unseen`: channels and nodes that are gone;
    `metadata`: an object, or opaque where it is none of JSON; `rest`: whatever else the framework keeps, opaque.

    >>> CheckpointPut("1f0a", 0, versions=[("3", ["messages"])]).to_json()
    b'["1f0a",0,[["3",["messages"]]]]'
    """

    name: str
    at: int | str
    versions: list[tuple[Version, list[str]]] = []
    seen: dict[str, dict[str, Version]] = {}
    metadata: Any = {}
    follows: bool = False
    updated: list[str] | bool | None = None
    format: int = 4
    parent: str | None = None
    unversioned: list[str] = []
    unseen: list[str] = []
    rest: Any = None


class WritesPut(ArrayRecord, frozen=True):
    """A task's writes to channels, which wait for the checkpoint after `checkpoint`.

    `values`: opaque, a list with one item for each of `channels`. `path`: of the task, for the order of writes.

    >>> WritesPut("1f0a", "task-1", ["messages"]).channels
    ['messages']
    """

    checkpoint: str
    task: str
    channels: list[str]
    values: Any = None
    path: str = ""
