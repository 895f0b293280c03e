"""Chat messages in a list of the state, as cells; and values as JSON text. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from eventstore.readable import readable_hook

Cells = tuple[Any, ...]
LANGCHAIN = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}
"""The roles of its messages, by what it calls them."""
_encode = msgspec.json.Encoder(enc_hook=readable_hook).encode


def json_text(value: Any) -> str:
    """A value as JSON; opaque parts as data that people can read.

    >>> from eventstore.opaque import Opaque
    >>> json_text({"n": 1, "kept": Opaque("msgpack", b"\\x01\\x02", 2)})
    '{"n":1,"kept":[1,2]}'
    """
    return _encode(value).decode()


def messages(items: list[Any]) -> Iterator[tuple[int, Cells]]:
    """The chat messages of a list, each with its place: role, name, content, tool_calls (JSON), tool_call_id.

    >>> list(messages([{"role": "user", "content": "hi"}, {"n": 1}, {"AIMessage": {"content": "yes?"}}]))
    [(0, ('user', None, 'hi', None, None)), (2, ('assistant', None, 'yes?', None, None))]
    """
    for place, item in enumerate(items):
        found = _message(item) if isinstance(item, dict) else None
        if found is not None:
            role, message = found
            calls = message.get("tool_calls")
            yield (
                place,
                (
                    role,
                    _name(message.get("name")),
                    content_text(message.get("content")),
                    None if calls is None else json_text(calls),
                    _name(message.get("tool_call_id")),
                ),
            )


def may_hold_messages(text: str) -> bool:
    """Whether a value, as JSON, is worth looking into."""
    return '"role"' in text or "Message" in text


def _message(item: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The role and the fields of a message, as it is or in the readable form of LangChain's: `{"AIMessage": {…}}`."""
    role = item.get("role")
    if isinstance(role, str) and ("content" in item or "tool_calls" in item):
        return role, item
    if len(item) != 1:
        return None
    name, fields = next(iter(item.items()))
    if not isinstance(fields, dict) or "content" not in fields:
        return None
    kind = name.removesuffix("Chunk").removesuffix("Message")
    role = fields.get("role", fields.get("type", LANGCHAIN.get(kind.lower())))
    if not name.startswith(f"{kind}Message") or not isinstance(role, str) or role == "remove":
        return None
    return LANGCHAIN.get(role, role), fields


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
