"""The pending writes of an old file as the events of a journal, one for each task, and what is to be read of them.

The journal knows a write by its place in its event, or by its channel where that is a special one. So the ordinary
writes of a task stand at the index that they had, and special ones fill the gaps that they had left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key

from eventstore.opaque import Opaque

from .journal import Writes
from .pieces import Piece, Pieces, msgpack_of
from .sqlite_file import StoredWrite
from .values import EACH

IN_A_LIST = frozenset(("msgpack", "null", "bytes"))
"""The type tags of values that a msgpack list gives back as they were."""
_each = msgspec.msgpack.Encoder().encode


def writes_events(pieces: Pieces, checkpoint: str, rows: Iterable[StoredWrite]) -> list[Writes]:
    """The events of a checkpoint's writes. `rows`: by path, task and index. Raises what the cipher raises.

    >>> from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    >>> rows = [StoredWrite("t", "", -3, "__interrupt__", "null", b""), StoredWrite("t", "", 0, "n", "msgpack", b"1")]
    >>> writes_events(Pieces(JsonPlusSerializer()), "1f", rows)[0].channels
    ['n', '__interrupt__']
    """
    events = []
    for (path, task), group in groupby(rows, key=lambda row: (row.path, row.task)):
        placed = _placed(list(group))
        values = _together([pieces.seal(row.codec, row.data) for row in placed])
        events.append(Writes(checkpoint, task, [row.channel for row in placed], values, path))
    return events


def writes_expected(pieces: Pieces, rows: Iterable[StoredWrite]) -> list[tuple[str, str, Any]]:
    """What `pending_writes` is to give of them, the values as their msgpack. Raises as `Pieces.loads_typed`."""
    in_turn = sorted(
        rows, key=lambda row: writes_sort_key(row.path, row.task, WRITES_IDX_MAP.get(row.channel, row.idx))
    )
    return [(row.task, row.channel, msgpack_of(pieces.loads_typed((row.codec, row.data)))) for row in in_turn]


def _placed(rows: Sequence[StoredWrite]) -> list[StoredWrite]:
    """The rows of a task in the order of their places; a gap that nothing is left for takes a special one again."""
    ordinary = {row.idx: row for row in rows if row.idx >= 0}
    special = [row for row in rows if row.idx < 0]
    left = iter(special)
    placed = []
    for index in range(max(ordinary, default=-1) + 1):
        row = ordinary.get(index) or next(left, special[-1] if special else None)
        if row is not None:
            placed.append(row)
    return [*placed, *left]


def _together(typed: Sequence[tuple[str, bytes]]) -> Opaque:
    if all(codec in IN_A_LIST for codec, _ in typed):
        items: list[Any] = [msgpack_of(Piece(codec, data)) for codec, data in typed]
        return Opaque("msgpack", b"".join(items), len(items))
    return Opaque(EACH, b"".join(map(_each, typed)), len(typed))
