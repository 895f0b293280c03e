"""A LangGraph checkpoint as a `checkpoint_put` event, and back.

The event holds what changed since the checkpoint before it in its line: the versions of channels, those that the
nodes which ran have seen. Its fold stands in control, so a checkpoint is put together from state and control alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from eventstore.control import CHECKPOINT_DEFAULTS
from eventstore.event import EPOCH, utc
from eventstore.fold import INT_MAX, INT_MIN
from eventstore.opaque import Opaque

from .values import Serializer, decoded, encoded

KNOWN = frozenset(
    ("v", "id", "ts", "channel_values", "channel_versions", "versions_seen", "updated_channels"),
)
"""The keys of a checkpoint that have a place of their own."""


def checkpoint_data(
    serde: Serializer,
    checkpoint: Mapping[str, Any],
    metadata: Mapping[str, Any],
    control: Mapping[str, Any],
    *,
    follows: bool,
    parent: str | None,
) -> list[Any]:
    """The event's data, with its defaults left out at the end. `control`: of the place before it.

    >>> from langgraph.checkpoint.base import empty_checkpoint
    >>> from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    >>> fresh = {**empty_checkpoint(), "id": "1f", "channel_versions": {"n": "1"}}; _ = fresh.pop("pending_sends")
    >>> data = checkpoint_data(JsonPlusSerializer(), fresh, {"source": "input"}, {}, follows=True, parent=None)
    >>> data[0], data[2:]
    ('1f', [[['1', ['n']]], {}, {'source': 'input'}, True, None, 2])
    """
    by_version: dict[Any, list[str]] = {}
    versions = checkpoint["channel_versions"]
    for channel, version in versions.items():
        if control.get("version/" + channel) != version:
            by_version.setdefault(version, []).append(channel)
    seen = {
        node: dict(versions_seen)
        for node, versions_seen in checkpoint["versions_seen"].items()
        if control.get("seen/" + node) != versions_seen
    }
    unversioned = [key[8:] for key in control if key.startswith("version/") and key[8:] not in versions]
    unseen = [key[5:] for key in control if key.startswith("seen/") and key[5:] not in checkpoint["versions_seen"]]
    updated: Any = checkpoint.get("updated_channels", False)
    if updated is not None and updated is not False:
        changed = sorted(channel for channels in by_version.values() for channel in channels)
        updated = True if updated == changed else list(updated)
    other = {key: value for key, value in checkpoint.items() if key not in KNOWN}
    data = [
        checkpoint["id"],
        _in_us(checkpoint["ts"]),
        [[version, channels] for version, channels in by_version.items()],
        seen,
        dict(metadata) if is_json(metadata) else encoded(serde, dict(metadata)),
        follows,
        updated,
        checkpoint["v"],
        parent,
        unversioned,
        unseen,
        encoded(serde, other) if other else None,
    ]
    while data[-1] == CHECKPOINT_DEFAULTS[len(data) - 3] and type(data[-1]) is type(CHECKPOINT_DEFAULTS[len(data) - 3]):
        data.pop()
    return data


def nodes_of(data: list[Any]) -> str:
    """Which nodes ran, for the log: those that saw new versions, or what else made the checkpoint."""
    ran = sorted(node for node in data[3] if not node.startswith("__")) if len(data) > 3 else []
    if ran:
        return ", ".join(ran)[:512]
    metadata = data[4] if len(data) > 4 else {}
    source = metadata.get("source") if isinstance(metadata, dict) else None
    return source if isinstance(source, str) and source else "checkpoint"


def checkpoint_of(serde: Serializer, control: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint whose fold `control` is, with these channel values. Raises what the serializer raises."""
    kept = control["checkpoint"]
    at = kept["at"]
    checkpoint = {
        "v": kept["format"],
        "id": kept["name"],
        "ts": utc(at).isoformat() if type(at) is int else at,
        "channel_values": values,
        "channel_versions": {key[8:]: value for key, value in control.items() if key.startswith("version/")},
        "versions_seen": {key[5:]: dict(value) for key, value in control.items() if key.startswith("seen/")},
    }
    if kept["updated"] is not False:
        checkpoint["updated_channels"] = None if kept["updated"] is None else list(kept["updated"])
    if "rest" in kept:
        checkpoint.update(decoded(serde, kept["rest"]))
    return checkpoint


def metadata_of(serde: Serializer, control: Mapping[str, Any]) -> Any:
    """The metadata that are none of JSON. Raises what the serializer raises."""
    return decoded(serde, control["checkpoint"]["metadata"])


def is_json(value: Any, depth: int = 32) -> bool:
    """Whether JSON, at most `depth` deep, holds it as it is; a tuple counts as a list, as LangGraph's serializers do.

    >>> is_json({"step": 1, "parents": {}}), is_json({1: 2}), is_json(float("nan"))
    (True, False, False)
    """
    kind: Any = type(value)
    if kind is str:
        return _is_text(value)
    if value is None or kind is bool:
        return True
    if kind is int:
        return bool(INT_MIN <= value <= INT_MAX)
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return depth > 0 and all(
            type(key) is str and is_json(key) and is_json(item, depth - 1) for key, item in value.items()
        )
    if kind is list or kind is tuple:
        return depth > 0 and all(is_json(item, depth - 1) for item in value)
    return False


def is_opaque(value: Any) -> bool:
    """Whether the metadata stand as bytes."""
    return isinstance(value, Opaque)


def _is_text(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_us(ts: Any) -> Any:
    """A time in µs since 1970 where that gives the text back, else as it is."""
    try:
        at = datetime.fromisoformat(ts)
        at_us = (at - EPOCH) // _MICROSECOND
        return at_us if utc(at_us).isoformat() == ts else ts
    except (TypeError, ValueError):
        return ts


_MICROSECOND = utc(1) - utc(0)


def moved_data(
    control: Mapping[str, Any], before: Mapping[str, Any], metadata: Any, *, follows: bool, parent: str | None
) -> list[Any]:
    """The data of the event that puts a checkpoint anew, over `before`. `metadata`: where control has none."""
    kept = control["checkpoint"]
    by_version: dict[Any, list[str]] = {}
    for key, version in control.items():
        if key.startswith("version/") and before.get(key) != version:
            by_version.setdefault(version, []).append(key[8:])
    seen = {key[5:]: value for key, value in control.items() if key.startswith("seen/") and before.get(key) != value}
    gone = [key for key in before if key not in control]
    return [
        kept["name"],
        kept["at"],
        [[version, channels] for version, channels in by_version.items()],
        seen,
        kept.get("metadata", metadata),
        follows,
        kept["updated"],
        kept["format"],
        parent,
        [key[8:] for key in gone if key.startswith("version/")],
        [key[5:] for key in gone if key.startswith("seen/")],
        kept.get("rest"),
    ]
