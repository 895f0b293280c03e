"""Ways to build checkpoints by hand, to look at what a saver gives, and to compare it to the letter."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple


def at(thread: str = "t", checkpoint_id: str | None = None, namespace: str = "") -> RunnableConfig:
    """The config of a thread, or of one checkpoint of it."""
    named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, **named}}


def id_of(config: RunnableConfig | None) -> str | None:
    """The checkpoint that a config names."""
    return None if config is None else config["configurable"].get("checkpoint_id")


def uuid_of(number: int) -> str:
    """An id that sorts by its number, in the shape that LangGraph gives them."""
    return f"{number:08x}-0000-6000-8000-000000000000"


def put(saver, number, *, under=None, thread="t", namespace="", values=None, versions=None, **metadata):
    """Put checkpoint `number` under checkpoint `under`; every value gets a version of its own and is new.

    `versions`: of all channels, where they are not just those of `values`.
    """
    versions = dict.fromkeys(values or {}, number + 1) if versions is None else versions
    checkpoint = {
        "v": 4, "id": uuid_of(number), "ts": "2026-01-01T00:00:00+00:00", "channel_values": dict(values or {}),
        "channel_versions": dict(versions), "versions_seen": {}, "updated_channels": sorted(values or {}),
    }  # fmt: skip
    new = {channel: version for channel, version in versions.items() if version == number + 1}
    config = at(thread, None if under is None else uuid_of(under), namespace)
    known = {"source": "loop", "step": number, "parents": {}, **metadata}
    if bare := [channel for channel in versions if channel not in (values or {})]:
        known["counters_since_delta_snapshot"] = dict.fromkeys(
            bare, (1, 1)
        )  # that is how LangGraph marks delta channels
    return saver.put(config, checkpoint, known, new)


def write(saver, number, *writes, task="task", path="", thread="t", namespace=""):
    """Writes of a task at checkpoint `number`."""
    saver.put_writes(at(thread, uuid_of(number), namespace), writes, task, path)


def plain(value: Any) -> Any:
    """Without the difference between tuples and lists, which metadata do not keep."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def exact(found: CheckpointTuple | None) -> Any:
    """A checkpoint tuple as what is equal only to its like: 1, 1.0 and True differ, the order in values counts."""
    if found is None:
        return None
    checkpoint: dict[str, Any] = dict(found.checkpoint)
    return {
        "config": _place(found.config),
        "parent": found.parent_config and _place(found.parent_config),
        "values": {channel: repr(value) for channel, value in checkpoint.pop("channel_values").items()},
        "versions": {channel: repr(version) for channel, version in checkpoint.pop("channel_versions").items()},
        "checkpoint": {key: repr(value) if key != "versions_seen" else value for key, value in checkpoint.items()},
        "metadata": {key: repr(plain(value)) for key, value in found.metadata.items()},
        "writes": [repr(written) for written in found.pending_writes or []],
    }


def _place(config: RunnableConfig) -> tuple[Any, ...]:
    known = config["configurable"]
    return known["thread_id"], known.get("checkpoint_ns", ""), known["checkpoint_id"]


def told(graph, config):
    """What a graph tells of its thread, newest first, without what differs from run to run: ids and times."""
    return [told_state(state) for state in graph.get_state_history(config)]


def told_state(state):
    """What a state says, without ids and times."""
    kept = {key: plain(value) for key, value in state.metadata.items() if key not in ("parents", "run_id", "thread_id")}
    tasks = [
        (task.name, repr(task.error), [sent.value for sent in task.interrupts], task.result) for task in state.tasks
    ]
    return repr(state.values), state.next, repr(sorted(kept.items(), key=str)), tasks
