"""A LangGraph checkpoint as a `checkpoint_put` event, and back.

The event holds what changed since the checkpoint before it in its line: the versions of channels, those that the
nodes which ran have seen. Its fold stands in control, so a checkpoint is put together from state and control alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from eventstore.codec import json_encode
from eventstore.control import CHECKPOINT_DEFAULTS
from eventstore.event import EPOCH, utc
from eventstore.scope_event import packed_id

from .values import Serializer, decoded, encoded

KNOWN = frozenset(
    ("v", "id", "ts", "channel_values", "channel_versions", "versions_seen", "updated_channels"),
)
"""The keys of a checkpoint that have a place of their own."""
_NOTHING: Mapping[str, Any] = {}
_decode = msgspec.json.Decoder().decode
_has_long_number = re.compile(rb"\d{19}").search


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
    is_whole, versions, seen = _changed(checkpoint["channel_versions"], checkpoint["versions_seen"], control)
    updated: Any = checkpoint.get("updated_channels", False)
    if updated is not None and updated is not False:
        changed = sorted(channel for _, channels in versions for channel in channels)
        updated = True if updated == changed else list(updated)
    other = {key: value for key, value in checkpoint.items() if key not in KNOWN}
    data = [
        packed_id(checkpoint["id"]),
        _in_us(checkpoint["ts"]),
        versions,
        seen,
        dict(metadata) if is_json(metadata) else encoded(serde, dict(metadata)),
        follows,
        updated,
        checkpoint["v"],
        parent,
        is_whole,
        encoded(serde, other) if other else None,
    ]
    return _trimmed(data)


def _changed(
    versions: Mapping[str, Any], seen: Mapping[str, Any], before: Mapping[str, Any]
) -> tuple[bool, list[list[Any]], dict[str, Any]]:
    """Whether some are gone since that control; `[version, channels]` and what nodes have seen, the changed or all."""
    versions_before, seen_before = before.get("versions", _NOTHING), before.get("seen", _NOTHING)
    is_whole = not (versions.keys() >= versions_before.keys() and seen.keys() >= seen_before.keys())
    if is_whole:
        versions_before = seen_before = _NOTHING
    by_version: dict[Any, list[str]] = {}
    for channel, version in versions.items():
        was = versions_before.get(channel)
        if was != version or type(was) is not type(version):
            by_version.setdefault(version, []).append(channel)
    news = {node: dict(found) for node, found in seen.items() if seen_before.get(node) != found}
    return is_whole, [[version, channels] for version, channels in by_version.items()], news


def _trimmed(data: list[Any]) -> list[Any]:
    """Without the defaults at its end."""
    while len(data) > 2:
        default = CHECKPOINT_DEFAULTS[len(data) - 3]
        if data[-1] != default or type(data[-1]) is not type(default):
            break
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
        "channel_versions": dict(control.get("versions", _NOTHING)),
        "versions_seen": {node: dict(found) for node, found in control.get("seen", _NOTHING).items()},
    }
    if kept["updated"] is not False:
        checkpoint["updated_channels"] = None if kept["updated"] is None else list(kept["updated"])
    if "rest" in kept:
        checkpoint.update(decoded(serde, kept["rest"]))
    return checkpoint


def metadata_of(serde: Serializer, control: Mapping[str, Any]) -> Any:
    """The metadata that are none of JSON. Raises what the serializer raises."""
    return decoded(serde, control["checkpoint"]["metadata"])


def is_json(value: Any) -> bool:
    """Whether JSON gives it back as it is; a tuple counts as a list, as LangGraph's serializers have it.

    >>> is_json({"step": 1, "parents": {}}), is_json({1: 2}), is_json(float("nan"))
    (True, False, False)
    """
    try:
        text = json_encode(value)
        if _has_long_number(text):
            return False  # beyond 64 bits, perhaps
        return bool(_decode(text) == value) or bool(_decode(text) == _as_lists(value))
    except (TypeError, ValueError, RecursionError, OverflowError, msgspec.DecodeError):
        return False


def _as_lists(value: Any) -> Any:
    if type(value) is dict:
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if type(value) is list or type(value) is tuple else value


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
    is_whole, versions, seen = _changed(control.get("versions", _NOTHING), control.get("seen", _NOTHING), before)
    return _trimmed(
        [
            packed_id(kept["name"]),
            kept["at"],
            versions,
            seen,
            kept.get("metadata", metadata),
            follows,
            kept["updated"],
            kept["format"],
            parent,
            is_whole,
            kept.get("rest"),
        ]
    )
