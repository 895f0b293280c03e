"""A draft of what a checkpoint changes in its channels.

The values were made here, of what a serializer gave: there is nothing to normalise in them and nothing to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from eventstore.codec import Row, check_key
from eventstore.opaque import Opaque
from eventstore.reduce import ReducerRegistry
from eventstore.step import Draft

_NO_REDUCERS = ReducerRegistry()


class ChannelDraft(Draft):
    """Deltas of opaque values over the `state` of a line, whose values are opaque too.

    >>> draft = ChannelDraft({"l": Opaque("msgpack", b"a", 1)})
    >>> draft.change("l", "append", Opaque("msgpack", b"b", 1))
    >>> draft.growth_bytes, draft.wire[0].op
    (1, 'append')
    """

    __slots__ = ()

    def __init__(self, state: Mapping[str, Any], source: str = "node") -> None:
        super().__init__(state, _NO_REDUCERS)  # type: ignore[arg-type]
        self.opaque = True
        self.source = source

    def change(self, channel: str, op: str, value: Any) -> None:
        """One delta. Raises ValueRefused for the name of a channel that can be no key."""
        before = self._state.get(channel)
        if before is None:
            check_key(channel)
        if type(value) is Opaque:
            size = value.size_bytes
            self.growth_bytes += (
                size if op == "append" else size + len(channel) + 4 if before is None else size - _size(before)
            )
        else:
            self.is_exact = False
        self.live.append((channel, op, value))
        self.wire.append(Row("delta", channel, op, value, self.source))

    def drop(self, channel: str) -> None:
        """The channel has no value any more."""
        self.growth_bytes -= _size(self._state[channel]) + len(channel) + 4
        self.live.append((channel, "delete", None))
        self.wire.append(Row("delta", channel, "delete", msgspec.UNSET, self.source))

    def body(self) -> list[Any]:
        """The deltas as their body holds them."""
        return self.wire


def _size(value: Any) -> int:
    return value.size_bytes if type(value) is Opaque else 0
