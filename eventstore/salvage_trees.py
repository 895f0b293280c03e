"""Rows out of pages: which page belongs to which table, and the records on it, each judged alone.

A page belongs to the tree whose node points to it and which the file's map names as its parent (files of this package
have such a map: auto-vacuum needs it). Where a node is damaged, the map alone still leads from a leaf up to its root.
What neither claims is a stray: it may be a page of the log whose way up is gone. A cell that does not hold (it points
outside of its page, its overflow breaks off, its text is no UTF-8) is counted and passed over; its neighbours are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from struct import Struct
from typing import Any

from .salvage_pages import FREE, NODE, OVERFLOW, Pages

INTERIOR = {2, 5}
OF_TABLE = {5, 13}
KINDS = {2, 5, 10, 13}
MOST_LEVELS = 20
MOST_COLUMNS = 64
MOST_READ = 64
"""An honest page is read once or twice; cells that all claim one long record would never come to an end."""
_double = Struct(">d").unpack
Value = int | float | str | bytes | None
Record = tuple[int | None, list[Value]]
"""A row id (of a table that has them), and the values."""


class Unreadable(Exception):
    """A cell or a page that is not what the file format says."""


class Tree:
    """A page's cells. Raises Unreadable where it is no page of a tree."""

    def __init__(self, pages: Pages, number: int, data: bytes | None = None) -> None:
        self.pages, self.number = pages, number
        self.data = data = pages.page(number) if data is None else data
        begin = 100 if number == 1 else 0
        if not data or data[begin] not in KINDS:
            raise Unreadable(f"page {number} is no page of a tree")
        self.kind = data[begin]
        count = int.from_bytes(data[begin + 3 : begin + 5], "big")
        head = begin + (12 if self.kind in INTERIOR else 8)
        if head + 2 * count > pages.usable:
            raise Unreadable(f"page {number} has no room for {count} cells")
        self.rightmost = int.from_bytes(data[begin + 8 : begin + 12], "big") if self.kind in INTERIOR else 0
        self.cells = [int.from_bytes(data[at : at + 2], "big") for at in range(head, head + 2 * count, 2)]
        self.head = head + 2 * count

    def children(self) -> Iterator[int]:
        """The pages below, as far as the cells are there."""
        if self.kind in INTERIOR:
            for at in self.cells:
                if self.head <= at <= self.pages.usable - 4:
                    yield int.from_bytes(self.data[at : at + 4], "big")
            yield self.rightmost

    def records(self) -> Iterator[Record | None]:
        """Each record; None for one that does not hold. An inner page of a table has none."""
        if self.kind == 5:
            return
        for at in self.cells:
            try:
                if not self.head <= at < self.pages.usable:
                    raise Unreadable("the cell is outside of the page")
                row_id, payload = self._cell(at + (4 if self.kind == 2 else 0))
                yield row_id, decoded(payload)
            except (Unreadable, ValueError, IndexError):
                yield None

    def _cell(self, at: int) -> tuple[int | None, bytes]:
        size, at = varint(self.data, at)
        row_id = None
        if self.kind == 13:
            row_id, at = varint(self.data, at)
            row_id -= (row_id >> 63) << 64
        usable = self.pages.usable
        most = usable - 35 if self.kind == 13 else (usable - 12) * 64 // 255 - 23
        if size <= most:
            local = size
        else:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (usable - 4)
            local = local if local <= most else least
        end = at + local
        if end > usable or size > self.pages.count * self.pages.size:
            raise Unreadable("the cell is longer than its page, or than the file")
        payload = self.data[at:end]
        if local < size:
            payload += self._overflow(int.from_bytes(self.data[end : end + 4], "big"), size - local)
        if len(payload) != size:
            raise Unreadable("the record is cut short")
        return row_id, payload

    def _overflow(self, number: int, size: int) -> bytes:
        parts = []
        while size > 0:
            data = self.pages.page(number)
            self.pages.times_read[number] += 1
            if not data or self.pages.times_read[number] > MOST_READ:
                raise Unreadable("the record goes on where no page is, or where too many do")
            parts.append(data[4 : 4 + min(size, self.pages.usable - 4)])
            size -= len(parts[-1])
            number = int.from_bytes(data[:4], "big")
        return b"".join(parts)


class Trees:
    """Which pages each tree has. `strays`: those of no tree that are not known to be anything else."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.of: dict[int, list[int]] = {}
        self._owner: dict[int, int] = {}

    def claim(self, roots: list[int]) -> None:
        """Give each tree its pages: those that nodes and map agree on, those below a lost node, those a node names."""
        roots = [root for root in roots if root not in self.of]
        for root in roots:
            self._take(root, root)
        for root in roots:
            self._walk(root, trusts_nodes=False)
        for number in range(3, self.pages.count + 1):
            if number not in self._owner and (found := self._climb(number)) is not None:
                self._take(number, found)
        for root in roots:
            self._walk(root, trusts_nodes=True)

    def orphans(self) -> list[int]:
        """Roots that no schema names: the map says so, or nothing points to them where the map is lost, too."""
        found = [number for number in range(3, self.pages.count + 1) if number not in self._owner]
        unmapped = {number for number in found if self.pages.mapped(number) is None}
        below: set[int] = set()
        if unmapped:
            for number in found:
                with suppress(Unreadable):
                    below.update(Tree(self.pages, number).children())
        return [number for number in found if self.pages.mapped(number) == (1, 0) or number in unmapped - below]

    def strays(self, used: set[int]) -> Iterator[int]:
        """Pages of no tree that is used, and that the map does not know as free, as overflow or as its own."""
        for number in range(2, self.pages.count + 1):
            if self._owner.get(number) not in used:
                said = self.pages.mapped(number)
                if said is None or said[0] not in (FREE, *OVERFLOW):
                    yield number

    def _take(self, number: int, root: int) -> None:
        self._owner[number] = root
        self.of.setdefault(root, []).append(number)

    def _walk(self, root: int, *, trusts_nodes: bool) -> None:
        above, seen = [root], {root}
        while above:
            number = above.pop()
            try:
                children = list(Tree(self.pages, number).children())
            except Unreadable:
                continue
            for child in children:
                if not 2 <= child <= self.pages.count or child in seen:
                    continue
                owner = self._owner.get(child)
                if owner is None:
                    said = self.pages.mapped(child)
                    is_child = not self.pages.has_map or said == (NODE, number)
                    is_free = said is not None and said[0] == FREE
                    if not is_child and (is_free or not trusts_nodes):
                        continue
                    self._take(child, root)
                elif owner != root:
                    continue
                seen.add(child)
                above.append(child)

    def _climb(self, number: int) -> int | None:
        """The root above a page, by the map alone."""
        at = number
        for _ in range(MOST_LEVELS):
            said = self.pages.mapped(at)
            if said is None or said[0] != NODE:
                return None
            at = said[1]
            if at in self.of:
                return at
            if at in self._owner:
                return self._owner[at]
        return None


def decoded(payload: bytes) -> list[Value]:
    """The values of a record. Raises Unreadable, ValueError (a text that is no UTF-8), IndexError."""
    end, at = varint(payload, 0)
    values: list[Value] = []
    place = end
    while at < end:
        kind, at = varint(payload, at)
        if len(values) == MOST_COLUMNS:
            raise Unreadable("more columns than any table has")
        size = kind if kind < 5 else (0, 6, 8, 8, 0, 0)[kind - 4] if kind < 10 else (kind - 12) // 2
        data = payload[place : place + size]
        if len(data) != size or kind in (10, 11):
            raise Unreadable("a value is cut short")
        place += size
        values.append(_value(kind, data))
    if place != len(payload) or at != end:
        raise Unreadable("the record is longer than its values")
    return values


def _value(kind: int, data: bytes) -> Value:
    if kind == 0:
        return None
    if kind == 7:
        return float(_double(data)[0])
    if kind < 7:
        return int.from_bytes(data, "big", signed=True)
    if kind < 10:
        return kind - 8
    return data if kind % 2 == 0 else data.decode()


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends. Raises IndexError."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def records(pages: Pages, number: int, data: bytes | None = None) -> Iterator[Record | None]:
    """The records of a page, None for each that does not hold, and one None where the page is none of a tree.

    `data`: what it was at another time.
    """
    try:
        yield from Tree(pages, number, data).records()
    except Unreadable:
        yield None


def fits(values: list[Any], types: list[tuple[str, bool]]) -> bool:
    """Whether a record is of a table with columns of these types; `True`: may be NULL. It may lack the newest ones."""
    if len(values) > len(types) or any(not may_be_null for _, may_be_null in types[len(values) :]):
        return False
    for value, (declared, may_be_null) in zip(values, types, strict=False):
        if value is None:
            if not may_be_null:
                return False
        elif declared != "ANY" and type(value) is not PYTHON[declared]:
            return False
    return True


PYTHON: dict[str, type] = {"INTEGER": int, "TEXT": str, "BLOB": bytes}
