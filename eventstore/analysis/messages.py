"""Chat messages in a list of the state, as cells; and values as JSON text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from eventstore.opaque import Opaque

Cells = tuple[Any, ...]


def _described(value: Any) -> Any:
    if isinstance(value, Opaque):
        return {"opaque": value.codec, "items": value.count, "bytes": len(value.data)}
    raise TypeError(f"objects of type {type(value).__name__} are not JSON values")


_encode = msgspec.json.Encoder(enc_hook=_described).encode


def json_text(value: Any) -> str:
    """A value as JSON; opaque parts as what they are and how long.

    >>> json_text({"n": 1, "kept": Opaque("msgpack", b"\\x01\\x02", 2)})
    '{"n":1,"kept":{"opaque":"msgpack","items":2,"bytes":2}}'
    """
    return _encode(value).decode()


def messages(items: list[Any]) -> Iterator[tuple[int, Cells]]:
    """The chat messages of a list, each with its place: role, name, content, tool_calls (JSON), tool_call_id.

    >>> list(messages([{"role": "user", "content": "hi"}, {"n": 1}]))
    [(0, ('user', None, 'hi', None, None))]
    """
    for place, item in enumerate(items):
        if isinstance(item, dict) and isinstance(item.get("role"), str) and ("content" in item or "tool_calls" in item):
            calls = item.get("tool_calls")
            yield (
                place,
                (
                    item["role"],
                    _name(item.get("name")),
                    content_text(item.get("content")),
                    None if calls is None else json_text(calls),
                    _name(item.get("tool_call_id")),
                ),
            )


def _name(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json_text(value)


def content_text(content: Any) -> str | None:
    """A message's content as text: of a list of parts, the texts that it holds, each from a new line.

    >>> content_text([{"type": "text", "text": "look:"}, {"type": "image_url", "image_url": {}}, "done"])
    'look:\\ndone'
    """
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_texts(content))
    return json_text(content)


def _texts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            text, inner = part.get("text"), part.get("content")
            if isinstance(text, str):
                yield text
            elif isinstance(inner, str):
                yield inner
            elif isinstance(inner, list):
                yield from _texts(inner)
