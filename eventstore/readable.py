"""Opaque values as data that people can read, and without making anything that their bytes name.

The bytes that can be read are JSON, and the msgpack of LangGraph's JsonPlusSerializer. Its extension types hold the
module, the name and the arguments of an object; a walk over the decoded tree writes dates, UUIDs and the like as
text, sets as lists, and any other object as `{"ClassName": fields}`. What cannot be read (encrypted, pickled,
damaged) is described by its kind and length. Nothing raises, and the result is always JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from math import isfinite
from typing import Any

import msgspec

from .opaque import Opaque, json_hook

DEEPEST = 64
"""Levels of nesting that are shown."""
DEEPER = f"… (more than {DEEPEST} levels)"
HIDDEN = "**********"
"""What a secret is written as."""
SHOWN_BYTES = 24
CONSTRUCTED, ARRAY, SNAPSHOT = range(6), 6, 7
"""The extension types: objects made of arguments or fields, a NumPy array, the value of a delta channel."""
DECODED = frozenset({"msgpack", "json"})
"""The codecs whose values are shown, not described."""
A_MESSAGE_HAS = {"content", "additional_kwargs", "response_metadata", "type"}
_UNREADABLE = (msgspec.DecodeError, RecursionError, ValueError)
_Decode = Callable[[bytes], Any]
_msgpack: _Decode = msgspec.msgpack.Decoder().decode
_json: _Decode = msgspec.json.Decoder().decode
_spelling = msgspec.json.Encoder(order="deterministic").encode


def readable(value: Any) -> Any:
    """An opaque value as JSON data that says what it holds; any other value as it is.

    >>> readable(Opaque("msgpack", msgspec.msgpack.encode({"n": float("inf"), 1: b"abc"})))
    {'n': 'inf', '1': {'bytes': 3, 'start': 'abc'}}
    >>> readable(Opaque("msgpack", b"\\x01\\xa1a", 2)), readable(Opaque("msgpack+aes", b"\\x07" * 40))
    ([1, 'a'], {'encrypted': 'aes', 'bytes': 40})
    """
    if not isinstance(value, Opaque):
        return value
    try:
        return _read(value)
    except _UNREADABLE:
        return json_hook(value)


def readable_hook(value: Any) -> Any:
    """JSON encoder hook: an `Opaque` is written as `readable` gives it.

    >>> msgspec.json.encode(Opaque("null", b""), enc_hook=readable_hook)
    b'null'
    """
    if isinstance(value, Opaque):
        return readable(value)
    raise TypeError(f"objects of type {type(value).__name__} are not JSON values")


def _read(value: Opaque) -> Any:
    codec, count = value.codec, value.count
    if codec == "msgpack":
        return _plain(_msgpack(value.data), 0) if count is None else [_item(item) for item in value.items()]
    kind, _, cipher = codec.removesuffix("[]").partition("+")
    if cipher:
        chunks = {} if count is None else {"chunks": count}
        return {"encrypted": cipher, **chunks, "bytes": value.size_bytes}
    if count is None and codec == "null":
        return None
    if count is None and kind in ("bytes", "bytearray"):
        return _bytes(value.data)
    if count is None and codec == "json":
        return _plain(_json(value.data), 0)
    return json_hook(value)


def _item(data: bytes) -> Any:
    """One item of a list: a damaged one is described alone."""
    try:
        return _plain(_msgpack(data), 0)
    except _UNREADABLE:
        return json_hook(Opaque("msgpack", data))


def _plain(value: Any, depth: int) -> Any:
    """What msgpack or JSON was decoded to, as JSON that any reader takes."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, date):
        return value.isoformat()
    if depth >= DEEPEST:
        return DEEPER
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return _mapping(value, depth)
    return _extension(value.code, bytes(value.data), depth + 1)


def _bytes(data: bytes) -> dict[str, Any]:
    start = repr(data[:SHOWN_BYTES])[2:-1]
    return {"bytes": len(data), "start": start + "…" if len(data) > SHOWN_BYTES else start}


def _mapping(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    """With keys as text; as entries where two keys have one text."""
    texts = [_key(key, depth) for key in value]
    items = [_plain(item, depth + 1) for item in value.values()]
    if len(set(texts)) == len(texts):
        return dict(zip(texts, items, strict=True))
    return {"entries": [[_plain(key, depth + 2), item] for key, item in zip(value, items, strict=True)]}


def _key(key: Any, depth: int) -> str:
    if isinstance(key, str):
        return key
    plain = repr(key)[2:-1] if isinstance(key, bytes) else _plain(key, depth + 1)
    return plain if isinstance(plain, str) else _spelling(plain).decode()


def _extension(code: int, data: bytes, depth: int) -> Any:
    try:
        content = _msgpack(data)
        if code == SNAPSHOT:
            return _plain(content, depth)
        if code == ARRAY:
            dtype, shape, _, buffer = content
            return {"ndarray": {"dtype": _plain(dtype, depth), "shape": _plain(shape, depth), "bytes": len(buffer)}}
        if code in CONSTRUCTED and isinstance(content, list):
            module, name, argument = content[:3]
            if type(module) is type(name) is str:
                return _object(module, name, _plain(argument, depth))
    except (*_UNREADABLE, TypeError):
        pass  # it is not what its code says, and so described like any other
    return {"extension": code, "bytes": len(data)}


def _object(module: str, name: str, argument: Any) -> Any:
    natural = _NATURAL.get((module.removesuffix("._local"), name))  # where Python 3.13 has its paths
    if natural is not None:
        try:
            return natural(argument)
        except (TypeError, ValueError, LookupError, OverflowError):
            return {name: argument}
    if name.startswith("Secret"):
        return HIDDEN
    if isinstance(argument, dict) and argument.keys() >= A_MESSAGE_HAS:
        return {name: _message(name, argument)}
    return {name: argument} if isinstance(argument, dict | list) else argument  # an enum's value, an address, a time


def _message(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A chat message without what it leaves empty, and without the type where the class's name tells it."""
    is_told = name.lower().startswith(str(fields["type"]).lower())
    return {
        field: value
        for field, value in fields.items()
        if field == "content" or not (value in (None, "", [], {}) or (field == "type" and is_told))
    }


def _path(parts: list[str]) -> str:
    """The parts of a path joined again; the first is a root where it ends so."""
    root, rest = (parts[0], parts[1:]) if parts and parts[0][-1:] in ("/", "\\") else ("", parts)
    return root + ("\\" if root[-1:] == "\\" else "/").join(rest) or "."


def _time(fields: dict[str, Any]) -> str:
    if fields["tzinfo"] is not None:
        raise ValueError("a time of day with a zone keeps its fields")
    micros = f".{fields['microsecond']:06}" if fields["microsecond"] else ""
    return f"{fields['hour']:02}:{fields['minute']:02}:{fields['second']:02}{micros}"


_NATURAL: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("builtins", "set"): lambda items: sorted(items, key=_spelling),
    ("builtins", "frozenset"): lambda items: sorted(items, key=_spelling),
    ("collections", "deque"): list,
    ("datetime", "date"): lambda parts: date(*parts).isoformat(),
    ("datetime", "time"): _time,
    ("datetime", "timedelta"): lambda parts: str(timedelta(*parts)),
    ("langgraph.types", "Send"): lambda parts: {"Send": dict(zip(("node", "arg", "timeout"), parts, strict=False))},
    ("pathlib", "PosixPath"): _path,
    ("pathlib", "WindowsPath"): _path,
    ("re", "compile"): lambda parts: parts[0],
    ("uuid", "UUID"): lambda text: "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])),
}
"""How what the standard library makes is written."""
