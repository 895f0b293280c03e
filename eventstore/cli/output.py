"""What commands print: tables for a terminal, aligned text for a pipe, JSON for a machine.

A terminal gets rich tables, cut to its width. A pipe gets the same rows whole, in columns and without
decoration. JSON is one array with a row on each line, or one object. Text that comes out of the data
passes `visible` (or is JSON with such characters escaped), so that it can neither move a cursor nor
end a row, and it is never read as markup.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from eventstore.readable import readable_hook

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
PAGE_ROWS = 200
GAP = 2
MIN_CUT = 8


class Column(NamedTuple):
    """A column of a table. `style` and `justify`: rich's.

    `cut`: the column that a terminal cuts when the row is too long for it. `width`: of what it will
    hold; with one on every other column, the table is printed page by page.
    """

    name: str
    width: int = 0
    style: str = ""
    justify: Literal["left", "right"] = "left"
    cut: bool = False


class Size(int):
    """A number of bytes.

    >>> pretty(Size(1_600_000)), plain(Size(1_600_000))
    ('1.6 MB', '1600000')
    """


class Age(NamedTuple):
    """A time that a terminal shows as how long ago it was."""

    at: datetime


class Until(NamedTuple):
    """A time that a terminal shows as how far off it is."""

    at: datetime


def visible(text: str) -> str:
    """`text` with control, direction and line characters written as escapes.

    >>> visible("a\\x1b[31mb\\nc\\u202e")
    'a\\\\x1b[31mb\\\\nc\\\\u202e'
    """
    return UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def to_json(value: Any) -> str:
    """`value` as one line of JSON, what a terminal might act on written as `\\uXXXX`.

    >>> to_json({"a": "\\x9b1m"})
    '{"a":"\\\\u009b1m"}'
    """
    text = msgspec.json.encode(value, enc_hook=readable_hook).decode()
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: Any) -> str:
    """A cell for a pipe: exact, and never empty, so that columns can be counted.

    >>> plain(None), plain(1234), plain(datetime(2025, 1, 2, tzinfo=UTC))
    ('-', '1234', '2025-01-02T00:00:00.000000Z')
    """
    if isinstance(value, Age | Until):
        value = value.at
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, float):
        return f"{value:.3f}"
    return visible(str(value)) if value is not None and value != "" else "-"


def pretty(value: Any) -> str:
    """A cell for a person at a terminal.

    >>> pretty(1234), pretty(datetime(2025, 1, 2, 3, 4, tzinfo=UTC))
    ('1,234', '03:04:00.000')
    """
    if isinstance(value, Age):
        return _ago(value.at)
    if isinstance(value, Until):
        seconds = (value.at - datetime.now(UTC)).total_seconds()
        return f"in {_span(seconds)}" if seconds > 0 else "expired"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]
    if isinstance(value, Size):
        return decimal(value)
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return visible(str(value)) if value is not None else ""


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "trace"), count(2000, "trace")
    ('1 trace', '2,000 traces')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _ago(when: datetime) -> str:
    seconds = (datetime.now(UTC) - when).total_seconds()
    return f"{_span(seconds)} ago" if seconds < 30 * 86_400 else when.strftime("%Y-%m-%d")


def _span(seconds: float) -> str:
    for limit, unit_seconds, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // unit_seconds))} {unit}"
    return f"{int(seconds // 86_400)} d"


class Output:
    """Where a command prints. `as_json` wins; otherwise it asks stdout whether it is a terminal."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = not as_json and sys.stdout is not None and sys.stdout.isatty()
        self.console = Console(markup=False, highlight=False, emoji=False)

    def line(self, text: str = "", style: str = "") -> None:
        """A line of the program's own (or made visible before)."""
        if self.terminal:
            self.console.print(Text(text, style))
        else:
            _write(text + "\n")

    def hint(self, text: str) -> None:
        """Something for a person only: printed on a terminal, nowhere else."""
        if self.terminal:
            self.console.print(Text(text, "dim"), soft_wrap=True)  # a command in it is to be copied whole

    def object(self, value: Any) -> None:
        """One JSON object."""
        _write(to_json(value) + "\n")

    def array(self, values: Iterable[Any]) -> None:
        """A JSON array with a value on each line, written as they come."""
        separator = "["
        for value in values:
            _write(separator + to_json(value))
            separator = ",\n "
        _write("[]\n" if separator == "[" else "]\n")

    def rows(self, columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> None:
        """A table; page by page when the columns' widths are known."""
        streamed = all(column.width or column.cut for column in columns)
        header = True
        for page in _pages(rows) if streamed else [list(rows)]:
            if self.terminal:
                self.console.print(_table(columns, page, header, self.console.width))
            else:
                _write(_aligned(columns, page, header))
            header = False


def _pages(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    page: list[Sequence[Any]] = []
    for row in rows:
        page.append(row)
        if len(page) == PAGE_ROWS:
            yield page
            page = []
    yield page


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], header: bool, width: int) -> Table:
    # A value can be megabytes long; what is far beyond the edge is not measured.
    cells = [[cell if isinstance(cell, Text) else Text(pretty(cell)[: 4 * width]) for cell in row] for row in rows]
    widths = _widths(columns, [[cell.plain for cell in row] for row in cells])
    fixed = sum(taken for column, taken in zip(columns, widths, strict=True) if not column.cut)
    left = width - GAP * len(columns) - fixed
    shares = _shares([taken for column, taken in zip(columns, widths, strict=True) if column.cut], left)
    table = Table(box=SIMPLE_HEAD, show_header=header, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column, natural in zip(columns, widths, strict=True):
        table.add_column(
            column.name,
            style=column.style,
            header_style="bold",
            justify=column.justify,
            no_wrap=column.cut,
            overflow="ellipsis" if column.cut else "fold",
            width=max(MIN_CUT, next(shares)) if column.cut else natural,
        )
    for row in cells:
        table.add_row(*row)
    return table


def _shares(widths: Sequence[int], left: int) -> Iterator[int]:
    """How wide each cut column may be: what it needs, or its part of what is left when all are too wide."""
    given: dict[int, int] = {}
    for place, needed in sorted(enumerate(widths), key=lambda item: item[1]):
        given[place] = min(needed, max(0, left) // (len(widths) - len(given)))
        left -= given[place]
    return (given[place] for place in range(len(widths)))


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[Any]], header: bool) -> str:
    lines = [[plain(cell.plain if isinstance(cell, Text) else cell) for cell in row] for row in rows]
    widths = _widths(columns, lines)
    if header:
        lines.insert(0, [column.name for column in columns])
    return "".join(_line(columns, line, widths) for line in lines)


def _widths(columns: Sequence[Column], lines: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(column.width, cell_len(column.name), *(cell_len(line[at]) for line in lines))
        for at, column in enumerate(columns)
    ]


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(space + cell if column.justify == "right" else cell + space)
    return "  ".join(padded).rstrip() + "\n"


def _write(text: str) -> None:
    # As bytes: a stdout of another encoding must neither fail nor change JSON.
    click.echo(text.encode("utf-8", "backslashreplace"), nl=False)
