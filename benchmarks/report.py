"""The report: a table on a terminal, plain lines in a pipe, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from .result import Measure

COLUMNS = ("case", "measure", "result", "target", "met", "min - max", "raw")


def show(measures: Sequence[Measure]) -> None:
    """Print the table."""
    rows = [_cells(measure) for measure in measures]
    if sys.stdout.isatty():
        table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
        for cells in rows:
            table.add_row(*cells, style="" if cells[4] == "yes" else "yellow")
        Console(highlight=False).print(table)
    else:
        _print_plain([COLUMNS, *rows])
    met = sum(measure.met for measure in measures)
    print(f"{met} of {len(measures)} targets met")


def _print_plain(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns at the width of their longest cell, whatever the width of the terminal was."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def as_json(measures: Sequence[Measure]) -> str:
    """All of it, the raw numbers included."""
    rows = [msgspec.to_builtins(measure) | {"met": measure.met} for measure in measures]
    return msgspec.json.format(msgspec.json.encode(rows)).decode()


def _cells(measure: Measure) -> tuple[str, ...]:
    unit = measure.unit if measure.unit == "x" else f" {measure.unit}".rstrip()
    spread = f"{_number(min(measure.samples))} - {_number(max(measure.samples))}" if measure.samples else ""
    return (
        measure.case,
        measure.name,
        f"{_number(measure.result)}{unit}",
        f"{'≥' if measure.at_least else '≤'} {_number(measure.target)}{unit}",
        "yes" if measure.met else "no",
        spread,
        measure.note,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
