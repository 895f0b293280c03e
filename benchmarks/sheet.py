"""A table that knows nothing of where it is shown: rich on a terminal, columns of plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

LEFT = (
    "system",
    "mode",
    "through",
    "case",
    "workload",
    "figure",
    "measure",
    "raw",
    "why",
    "what",
    "run",
    "compared with",
)


class Sheet(msgspec.Struct):
    """Rows of cells under a title. `marked`: the rows that a terminal colours; `note`: a line below."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    marked: frozenset[int] = frozenset()


def without_empty(sheet: Sheet) -> Sheet:
    """The sheet without the columns in which nothing stands.

    >>> without_empty(Sheet("t", ("a", "b"), [("1", ""), ("2", "")])).columns
    ('a',)
    """
    kept = [index for index in range(len(sheet.columns)) if any(row[index] for row in sheet.rows)]
    sheet.rows = [tuple(row[index] for index in kept) for row in sheet.rows]
    sheet.columns = tuple(sheet.columns[index] for index in kept)
    return sheet


def print_sheets(sheets: Iterable[Sheet]) -> None:
    """Print each that has rows, or a note, for whoever looks: a terminal or a pipe."""
    console = Console(highlight=False) if sys.stdout.isatty() else None
    for sheet in sheets:
        if console is None:
            print("\n".join(plain(sheet)), end="\n\n")
        else:
            _print_rich(console, sheet)


def plain(sheet: Sheet) -> list[str]:
    """Lines of text, each column as wide as its longest cell.

    >>> plain(Sheet("times", ("system", "step"), [("floor", "216 µs"), ("engine", "1.2 ms")], "two systems"))
    ['times', '', 'system    step', 'floor   216 µs', 'engine  1.2 ms', '', 'two systems']
    """
    lines = [sheet.title, ""] if sheet.title else []
    if sheet.rows:
        rows = [sheet.columns, *sheet.rows]
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(map(_aligned, sheet.columns, cells, widths)).rstrip() for cells in rows]
    return lines + (["", sheet.note] if sheet.note and sheet.rows else [sheet.note] if sheet.note else [])


def _aligned(column: str, cell: str, width: int) -> str:
    space = " " * (width - cell_len(cell))
    return cell + space if column in LEFT else space + cell


def _print_rich(console: Console, sheet: Sheet) -> None:
    if sheet.rows:
        title = Text(sheet.title) if sheet.title else None
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in sheet.columns:
            side: JustifyMethod = "left" if column in LEFT else "right"
            table.add_column(Text(column), justify=side, overflow="fold", no_wrap=column == "system")
        for index, row in enumerate(sheet.rows):
            table.add_row(*map(Text, row), style="yellow" if index in sheet.marked else "")
        console.print(table)
    elif sheet.title:
        console.print(Text(sheet.title, style="bold"))
    if sheet.note:
        console.print(Text(sheet.note, style="dim"))
    console.print()


def in_groups(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """So many at a time.

    >>> in_groups(["a", "b", "c"], 2)
    [['a', 'b'], ['c']]
    """
    return [names[start : start + size] for start in range(0, len(names), size)]
