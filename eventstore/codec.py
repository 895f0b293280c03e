"""Values at the door, and bodies in and out.

A value is normalised by one round trip through JSON: what the decoder gives back is what the live
state shows, and the encoded bytes go into the body as they are, so a restore gives the same. Equal
msgpack before and after certifies the common case at C speed (no NaN turned null, no integer beyond
64 bits, no key written twice); only a difference is looked into. A body is TEXT (JSON), or BLOB
(msgpack) when it holds opaque bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from .errors import ValueRefused
from .event import StateDelta
from .fold import INT_MAX, INT_MIN
from .opaque import Opaque, enc_hook, ext_hook, json_hook
from .recorded import KIND_OF, KINDS, ControlEvent

MAX_DEPTH = 128
MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 64 * 1024 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_TRACE_EVENTS = 2**31
"""More than a terabyte of them: whoever comes so far runs in a circle."""

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder(enc_hook=enc_hook)
json_encode = _json.encode
_described = msgspec.json.Encoder(enc_hook=json_hook).encode
msgpack_encode = _msgpack.encode
_json_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_msgpack_decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(ext_hook=ext_hook).decode


class Row(msgspec.Struct, omit_defaults=True, gc=False):
    """One event of a body, as the fold reads it."""

    kind: str = "delta"
    key: str = ""
    op: str = "put"
    value: Any = UNSET
    source: str = "node"
    data: Any = UNSET


class Envelope(msgspec.Struct, gc=False):
    """A control event of a body, as it is written."""

    kind: str
    data: Any


_rows_from_json: Callable[[bytes], list[Row]] = msgspec.json.Decoder(list[Row]).decode
_rows_from_msgpack: Callable[[Any], list[Row]] = msgspec.msgpack.Decoder(list[Row], ext_hook=ext_hook).decode


_has_uint64 = re.compile(rb"\xcf[\x80-\xff]").search  # msgpack's mark of an integer beyond 2**63 - 1


def check_key(key: str) -> None:
    """Raise ValueRefused unless `key` can be a state key: a non-empty string of at most 1 KiB."""
    if type(key) is not str or not key:
        raise ValueRefused(repr(key), "a key is a non-empty string")
    if len(key) <= MAX_KEY_BYTES and key.isascii():
        return
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise ValueRefused(repr(key), "the key holds a lone surrogate") from None
    if len(encoded) > MAX_KEY_BYTES:
        raise ValueRefused(key[:40] + "…", f"the key has {len(encoded)} bytes, the limit is {MAX_KEY_BYTES}")


def normalise(key: str, value: Any) -> tuple[Any, Any, int]:
    """The value as `(wire, live, size_bytes)`: for the body, for the live state, and its JSON size.

    Takes JSON values and whatever msgspec encodes to JSON (tuples, datetimes, UUIDs, dataclasses,
    Structs, …); the live form is the plain JSON value. Raises ValueRefused, naming the path.

    >>> normalise("when", (1, 2))[1:]
    ([1, 2], 5)
    >>> normalise("x", {"a": [float("nan")]})
    Traceback (most recent call last):
    eventstore.errors.ValueRefused: value at 'x.a[0]' refused: nan is not a JSON value
    """
    kind = type(value)
    if kind is int:
        if not INT_MIN <= value <= INT_MAX:
            raise ValueRefused(key, f"{value} is beyond 64 bits")
        return value, value, len(json_encode(value))
    if value is None or kind is bool:
        return value, value, 5
    if kind is float:
        if not math.isfinite(value):
            raise ValueRefused(key, f"{value} is not a JSON value")
        return value, value, len(json_encode(value))
    if kind is Opaque:
        try:
            value.check()
        except ValueError as error:
            raise ValueRefused(key, str(error)) from None
        return value, value, value.size_bytes
    try:
        raw = json_encode(value)
        if len(raw) > MAX_VALUE_BYTES:
            raise ValueRefused(key, f"{len(raw)} bytes, the limit is {MAX_VALUE_BYTES}")
        if kind is str:
            return msgspec.Raw(raw), value, len(raw)
        live = _json_decode(raw)
        # replace() and find() go by memchr, count() and `in` do not: ten times as fast on a long text.
        if len(raw) - len(raw.replace(b"[", b"").replace(b"{", b"")) > MAX_DEPTH and _depth(live) > MAX_DEPTH:
            raise ValueRefused(key, f"nested deeper than {MAX_DEPTH}")
        packed = msgpack_encode(live)
        if (packed.find(b"\xcf") >= 0 and _has_uint64(packed)) or packed != msgpack_encode(value):
            _explain(key, value)
            if json_encode(live) != raw:
                raise ValueRefused(key, "two of its keys have the same text")
    except (TypeError, UnicodeEncodeError, RecursionError, OverflowError, ValueError) as error:
        if isinstance(error, ValueRefused):
            raise
        _explain(key, value)
        raise ValueRefused(key, _reason(error)) from None
    return msgspec.Raw(raw), live, len(raw)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
    return depth


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"nested deeper than {MAX_DEPTH}"
    if isinstance(error, UnicodeEncodeError):
        return "a string holds a lone surrogate"
    return str(error)


def _explain(path: str, value: Any) -> None:
    """Raise ValueRefused at the first part of `value` that JSON cannot hold, if there is one."""
    stack: list[tuple[str, Any, int]] = [(path, value, 0)]
    while stack:
        path, value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ValueRefused(path[:200], f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, Mapping):
            for name in value:
                if isinstance(name, str):
                    _explain_scalar(f"{path} (a key of it)", name)
            stack.extend((f"{path}.{name}", item, depth + 1) for name, item in reversed(list(value.items())))
        elif isinstance(value, list | tuple | set | frozenset):
            items = list(enumerate(value))
            stack.extend((f"{path}[{index}]", item, depth + 1) for index, item in reversed(items))
        elif isinstance(value, Opaque):
            raise ValueRefused(path, "an opaque value stands alone, never inside another value")
        elif isinstance(value, str | int | float | None):
            _explain_scalar(path, value)
        else:
            try:
                builtins = msgspec.to_builtins(value)
            except (TypeError, UnicodeEncodeError, RecursionError) as error:
                raise ValueRefused(path, _reason(error)) from None
            if not isinstance(builtins, type(value)):
                stack.append((path, builtins, depth))


def _explain_scalar(path: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueRefused(path, f"{value} is not a JSON value")
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise ValueRefused(path, f"{value} is beyond 64 bits")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueRefused(path, "a string holds a lone surrogate") from None


def normalise_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state through `normalise`. Raises ValueRefused."""
    if not isinstance(state, Mapping):
        raise ValueRefused("state", f"a state is a mapping of keys to values, not {type(state).__name__}")
    result = {}
    for key, value in state.items():
        check_key(key)
        result[key] = normalise(key, value)[1]
    return result


def envelope(event: ControlEvent) -> Envelope:
    """A control event as its body holds it, its values normalised. Raises ValueRefused.

    >>> from .event import Note
    >>> envelope(Note("seen", (1, 2))).data
    {'name': 'seen', 'data': [1, 2]}
    """
    kind = KIND_OF.get(type(event))
    if kind is None:
        raise ValueRefused(type(event).__name__, "not an event")
    data = normalise(kind, event)[1]
    try:
        msgspec.convert(data, KINDS[kind])
    except msgspec.ValidationError as error:
        raise ValueRefused(kind, str(error)) from None
    if kind in ("node_executed", "branch_executed"):
        check_cost(data.get("duration_ms", 0), data.get("token_cost", 0))
    return Envelope(kind, data)


def check_text(what: str, text: str | None) -> None:
    """Raise ValueRefused for text that no file can hold.

    >>> check_text("by", chr(0xdcff))
    Traceback (most recent call last):
    eventstore.errors.ValueRefused: value at 'by' refused: it holds a lone surrogate
    """
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise ValueRefused(what, "it holds a lone surrogate") from None


def check_append_id(append_id: Any) -> None:
    """Raise ValueRefused unless it is None, a string of 1 to 1,024 bytes, or a 64-bit integer."""
    if append_id is None or (type(append_id) is int and INT_MIN <= append_id <= INT_MAX):
        return
    if type(append_id) is not str:
        raise ValueRefused("append_id", f"{append_id!r} is neither a plain string nor a 64-bit integer")
    check_key(append_id)


def check_cost(duration_ms: Any, token_cost: Any) -> None:
    """Raise ValueRefused unless both are finite numbers of 0 or more, and integers fit 64 bits."""
    for name, value in (("duration_ms", duration_ms), ("token_cost", token_cost)):
        fits = type(value) in (int, float) and 0 <= value <= (INT_MAX if type(value) is int else math.inf)
        if not fits or not math.isfinite(value):
            raise ValueRefused(name, f"{value!r} is not a finite, non-negative number")


def encode_body(events: list[Any], opaque: bool) -> bytes:
    """Events (deltas and envelopes) as a body: JSON, or msgpack (with live values) when `opaque`.

    Raises ValueRefused when the body passes `MAX_BODY_BYTES`.
    """
    body = msgpack_encode(events) if opaque else json_encode(events)
    if len(body) > MAX_BODY_BYTES:
        raise ValueRefused("the step", f"{len(body)} bytes, the limit is {MAX_BODY_BYTES}")
    return body


def check_length(version: int) -> None:
    """Raise ValueRefused where a trace would come to have more than `MAX_TRACE_EVENTS`.

    >>> check_length(MAX_TRACE_EVENTS + 1)
    Traceback (most recent call last):
    eventstore.errors.ValueRefused: value at 'the trace' refused: 2147483649 events, the limit is 2147483648
    """
    if version > MAX_TRACE_EVENTS:
        raise ValueRefused("the trace", f"{version} events, the limit is {MAX_TRACE_EVENTS}")


def decode_rows(body: bytes) -> list[Row]:
    """A body's events: JSON, or msgpack, whose arrays begin at 0x80. Raises ValueError on anything else."""
    try:
        return _rows_from_json(body) if body[:1] < b"\x80" else _rows_from_msgpack(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"not an event body: {error}") from None


class _Outline(msgspec.Struct, gc=False):
    """One event of a body, of which nothing is built yet but its kind."""

    kind: str = "delta"
    data: msgspec.Raw = msgspec.Raw()


_outlines_from_json: Callable[[bytes], list[_Outline]] = msgspec.json.Decoder(list[_Outline]).decode
_outlines_from_msgpack: Callable[[Any], list[_Outline]] = msgspec.msgpack.Decoder(list[_Outline]).decode


def decode_some(body: bytes, decoders: Mapping[str, type[Any]]) -> list[tuple[int, Any]]:
    """The events of the kinds in `decoders`, each with its index; the values of all others are passed over.

    Raises ValueError.
    """
    is_json = body[:1] < b"\x80"
    decode: Any = msgspec.json.decode if is_json else msgspec.msgpack.decode
    try:
        outlines = _outlines_from_json(body) if is_json else _outlines_from_msgpack(body)
        return [
            (index, decode(outline.data, type=decoders[outline.kind]))
            for index, outline in enumerate(outlines)
            if outline.kind in decoders
        ]
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"not an event body: {error}") from None


def decode_event(row: Row) -> Any:
    """The typed event of a row. Raises ValueError on an unknown kind or a malformed one."""
    try:
        if row.kind == "delta":
            return msgspec.convert({"key": row.key, "op": row.op, "source": row.source} | _value(row.value), StateDelta)
        return msgspec.convert(row.data, KINDS[row.kind])
    except (msgspec.ValidationError, KeyError) as error:
        raise ValueError(f"not an event of kind {row.kind!r}: {error}") from None


def _value(value: Any) -> dict[str, Any]:
    return {} if value is UNSET else {"value": value}


def state_size_bytes(state: dict[str, Any]) -> int:
    """About the JSON size of a state, opaque values by their bytes."""
    return 2 + sum(len(key) + 4 + size_bytes(value) for key, value in state.items())


def encode_derived(value: Any, json_bytes: int | None) -> bytes:
    """A base's body: msgpack, or JSON where that is smaller (many short floats) than `json_bytes` of msgpack.

    Raises ValueError for what neither holds, and no append lets in: numbers beyond 64 bits beside opaque values.
    """
    try:
        packed = msgpack_encode(value)
    except OverflowError as error:
        try:
            return json_encode(value)
        except TypeError:
            raise ValueError(str(error)) from None
    if json_bytes is not None and len(packed) > json_bytes:
        try:
            text = json_encode(value)
        except TypeError:
            return packed
        if len(text) < len(packed):
            return text
    return packed


def decode_derived(body: bytes) -> Any:
    """The inverse of `encode_derived`. Raises ValueError."""
    try:
        return _json_decode(body) if body[:1] < b"\x80" else _msgpack_decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"not a base: {error}") from None


def size_bytes(value: Any) -> int:
    """The JSON size of a live value; an opaque one counts its bytes."""
    return value.size_bytes if type(value) is Opaque else len(_described(value))


def as_column(body: bytes) -> str | bytes:
    """A body as its column holds it: JSON as TEXT, msgpack as BLOB."""
    return body.decode() if body[:1] < b"\x80" else body


def same(one: Any, other: Any) -> bool:
    """Equality as JSON sees it: 1, 1.0 and true are three values.

    >>> same({"a": [1]}, {"a": [1]}), same(1, True)
    (True, False)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)  # 0.0 and -0.0 are two texts
    return bool(one == other)
