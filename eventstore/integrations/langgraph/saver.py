"""The face that LangGraph sees: a checkpointer, sync and async.

The async methods run the sync ones on threads of the saver's own, so that a running event loop never waits for the
disk and no pool of the application's can be starved.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from typing import Any, Self, TypeVar

from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventstore.database import Durability
from eventstore.errors import StoreClosed, ValueRefused
from eventstore.log import trace_by_row
from eventstore.scopes import ScopeKey
from eventstore.store import Store
from eventstore.store import open as open_store
from eventstore.windows import Windows

from .journal import Journals, writes_of
from .lines import Lines, Put
from .reading import ADAPTER, Reading
from .removing import Removing
from .sealed import guarded

T = TypeVar("T")
THREADS = 8
"""How many async calls are carried out at a time."""


class EventStoreSaver(BaseCheckpointSaver[str]):
    """LangGraph's checkpoints in an event store: deltas instead of snapshots, every verb of the store beside them.

    `store`: an open `Store`, or the path of one, which is then opened with that `durability` and closed with the
    saver. `serde`: LangGraph's serializer; by default one that builds only the types that LangGraph knows to be
    safe (`with_allowlist`, or `JsonPlusSerializer(allowed_msgpack_modules=[…])`, adds yours). `exact`: compare lists
    by their bytes at every put of their channel, so that an old item which a node changed in place is seen.
    `writes_wait_ms`: how long `put_writes` may wait for the `put` that follows it in a run, on another thread, to
    share its commit: one sync a step instead of two. Where no `put` comes, later writes do not wait; those of async
    runs never do.

    A checkpoint is a place in a trace: `place(config)` says which.

    >>> from langgraph.graph import END, START, StateGraph
    >>> graph = StateGraph(dict).add_node("count", lambda state: {"n": state["n"] + 1})
    >>> graph = graph.add_edge(START, "count").add_edge("count", END)
    >>> config = {"configurable": {"thread_id": "t1"}}
    >>> with EventStoreSaver(":memory:") as saver:
    ...     graph.compile(checkpointer=saver).invoke({"n": 1}, config)
    ...     trace_id, seq = saver.place(config)
    ...     saver.store.verify(trace_id).ok
    {'n': 2}
    True
    """

    def __init__(
        self,
        store: Store | str | PathLike[str],
        *,
        serde: Any = None,
        durability: Durability = "full",
        exact: bool = False,
        writes_wait_ms: float = 3,
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=None))
        self._owns_store = not isinstance(store, Store)
        self.store = store if isinstance(store, Store) else open_store(store, durability=durability)
        if self.store.redact is not None:
            raise ValueError("the store redacts values, and a saver's are serialized before: redact in the serializer")
        windows = Windows(self.store)
        self._journals = Journals(self.store, writes_wait_ms)
        self._lines = Lines(self.store, windows, exact, self._journals.commit_with)
        self._reading = Reading(self.store, windows)
        self._removing = Removing(self.store, windows, self._forget)
        self._closed = threading.Event()  # shared with the clones of `with_allowlist`
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="eventstore-langgraph")

    @classmethod
    def from_conn_string(cls, conn_string: str, **options: Any) -> Self:
        """A saver on the file of that path, for `with` and for `async with`; options as of the class."""
        return cls(conn_string, **options)

    def setup(self) -> None:
        """There is nothing to set up; other savers have such a method."""

    def close(self) -> None:
        """Close the store, if the saver has opened it; the clones of `with_allowlist` are closed with it.

        Closing twice is fine.
        """
        self._closed.set()
        self._pool.shutdown()
        if self._owns_store:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    # Reading

    def place(self, config: Any) -> tuple[str, int] | None:
        """Where a checkpoint (or a thread's latest) stands: trace id and seq, for every verb of the store."""
        row = self._reading.row(_key(config), _name(config))
        if row is None or row.trace is None or row.seq is None:
            return None
        with self.store._database.reader() as connection:
            return trace_by_row(connection, row.trace).trace_id, row.seq

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        """The checkpoint of a config, or a thread's latest. Raises LogCorrupted, what the serializer raises."""
        key, name = _key(config), _name(config)
        found = self._reading.get(guarded(self.serde), key, name, config if name else None)
        if found is None:
            return None
        row, checkpoint = found
        self._lines.remember(row, checkpoint.checkpoint["channel_values"], self._reading.size_bytes(row))
        return _as_asked(checkpoint, config)

    def list(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,
        before: Any = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints by descending id: of a namespace, of a thread, or all.

        `filter`: values that metadata must have at their top level; `before`: only smaller ids. The states given
        share the items of their lists, which are not to be changed. Raises as `get_tuple`.
        """
        key, thread_id, name = None, None, None
        if config is not None:
            thread_id, name = str(config["configurable"]["thread_id"]), _name(config)
            if "checkpoint_ns" in config["configurable"]:
                key = _key(config)
        before_name = None if before is None else _name(before)
        found = self._reading.listed(
            guarded(self.serde), key, thread_id, name=name, before=before_name, filter=filter, limit=limit
        )
        return found if config is None else (_as_asked(checkpoint, config) for checkpoint in found)

    def get_delta_channel_history(self, *, config: Any, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """The writes that make up delta channels at a checkpoint, oldest first, and what they begin with."""
        if not channels:
            return {}
        return self._reading.delta_history(guarded(self.serde), _key(config), _name(config), channels)

    # Writing

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Commit a checkpoint; gives the config that addresses it.

        Its parent is the checkpoint of `config`. Where that is not the last of its line (someone went back in time,
        or another process was faster), the checkpoint begins a branch, a trace forked there. Raises ValueRefused,
        storage errors, what the serializer raises.
        """
        key = _key(config)
        if type(checkpoint["id"]) is not str or not checkpoint["id"]:
            raise ValueRefused("id", f"a checkpoint's id is text, not {checkpoint['id']!r}")
        put = Put(checkpoint, get_checkpoint_metadata(config, metadata), _name(config), new_versions)
        self._lines.put(guarded(self.serde), key, put)
        return {
            "configurable": {
                "thread_id": config["configurable"]["thread_id"],
                "checkpoint_ns": key.namespace,
                "checkpoint_id": checkpoint["id"],
            }
        }

    def put_writes(self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """Commit a task's writes, which wait for the checkpoint after that of `config`, whether that has come or not.

        Raises storage errors, what the serializer raises.
        """
        self._lines.written(_key(config), config["configurable"]["checkpoint_id"], [value for _, value in writes])
        self._put_writes(config, writes, task_id, task_path, may_wait=True)

    def _put_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str, *, may_wait: bool
    ) -> None:
        if writes:
            name = config["configurable"]["checkpoint_id"]
            for what, text in (("checkpoint_id", name), ("task_id", task_id), ("task_path", task_path)):
                if type(text) is not str:
                    raise ValueRefused(what, f"it is text, not {text!r}")
            found = writes_of(guarded(self.serde), name, writes, task_id, task_path)
            self._journals.put(_key(config), found, may_wait=may_wait)

    def delete_thread(self, thread_id: str) -> None:
        """Erase a thread: its traces leave tombstones, unless a copy of it or a fork stands on them."""
        self._removing.delete_thread(str(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints whose metadata have one of these run ids; later ones stay whole.

        The values that later checkpoints have of them stay in the log.
        """
        self._removing.delete_for_runs(_several("run_ids", run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Give a new thread all checkpoints and writes of another, by reference.

        Raises ValueError for a target that exists.
        """
        self._removing.copy_thread(str(source_thread_id), str(target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Erase all but the latest checkpoint of each namespace (`keep_latest`), or all (`delete`).

        What the delta channels of the latest one need is kept, unlisted. Raises ValueError for another strategy.
        """
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"a strategy is keep_latest or delete, not {strategy!r}")
        names = [str(thread_id) for thread_id in _several("thread_ids", thread_ids)]
        if strategy == "keep_latest":
            self._removing.prune(names)
            return
        for thread_id in names:
            self._removing.delete_thread(thread_id)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """The version after `current`: a count, and random digits that keep branches apart.

        >>> saver = EventStoreSaver(":memory:")
        >>> saver.get_next_version(None, None) < saver.get_next_version(saver.get_next_version(None, None), None)
        True
        >>> saver.close()
        """
        given = "" if current is None else str(current)
        count, _, _ = given.partition(".")
        width = len(count) if count and not isinstance(current, int) else VERSION_DIGITS
        return f"{(int(count) if count else 0) + 1:0{width}}.{random.getrandbits(24):06x}"

    # Async

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        """`get_tuple`, on a thread."""
        return await self._run(self.get_tuple, config)

    async def alist(
        self,
        config: Any,
        *,
        filter: dict[str, Any] | None = None,
        before: Any = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """`list`, some at a time on a thread."""
        found = self.list(config, filter=filter, before=before, limit=limit)
        while batch := await self._run(_some, found):
            for item in batch:
                yield item

    async def aget_delta_channel_history(
        self, *, config: Any, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`get_delta_channel_history`, on a thread."""
        return await self._run(lambda: self.get_delta_channel_history(config=config, channels=channels))

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """`put`, on a thread."""
        return await self._run(self.put, config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """`put_writes`, on a thread."""
        self._lines.written(_key(config), config["configurable"]["checkpoint_id"], [value for _, value in writes])
        await self._run(lambda: self._put_writes(config, writes, task_id, task_path, may_wait=False))

    async def adelete_thread(self, thread_id: str) -> None:
        """`delete_thread`, on a thread."""
        await self._run(self.delete_thread, thread_id)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """`delete_for_runs`, on a thread."""
        await self._run(self.delete_for_runs, run_ids)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """`copy_thread`, on a thread."""
        await self._run(self.copy_thread, source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """`prune`, on a thread."""
        await self._run(lambda: self.prune(thread_ids, strategy=strategy))

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        if self._closed.is_set():
            raise StoreClosed(self.store.path, "the saver was closed, and its threads with it")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def _forget(self, key: ScopeKey) -> None:
        self._lines.forget(key)
        self._journals.forget()


VERSION_DIGITS = 8
"""Of the count in a new thread's versions; one that came from elsewhere keeps its own."""
SOME = 16


def _some(found: Iterator[CheckpointTuple]) -> list[CheckpointTuple]:
    return [item for _, item in zip(range(SOME), found, strict=False)]


def _key(config: Any) -> ScopeKey:
    configurable = config["configurable"]
    return ScopeKey(ADAPTER, str(configurable["thread_id"]), configurable.get("checkpoint_ns") or "")


def _as_asked(found: CheckpointTuple, config: Any) -> CheckpointTuple:
    """With the thread's id as the config has it, which may be no string."""
    thread_id = config["configurable"]["thread_id"]
    if type(thread_id) is str:
        return found
    for each in (found.config, found.parent_config):
        if each is not None and each is not config:
            each["configurable"]["thread_id"] = thread_id
    return found


def _name(config: Any) -> str | None:
    """The checkpoint that a config addresses; None for the latest."""
    return get_checkpoint_id(config) or None


def _several(what: str, ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str):
        raise TypeError(f"{what} is a sequence of ids, not one: {ids!r}")
    return ids
