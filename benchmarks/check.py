"""`python -m benchmarks check`: hold the figures without noise against the committed ones.

Fails on a change in either direction; `--update` commits what is found to `benchmarks/expected.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from .counting.expected import FILE, Compared, Expected, compare
from .counting.figures import figures

COLUMNS = ("figure", "expected", "found", "change", "")


@click.command("check")
@click.option("--update", is_flag=True, help="Write what is found to benchmarks/expected.json, to be committed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), default=FILE, help="Another file than that.")
def command(update: bool, as_json: bool, file: Path) -> None:
    """Compare syncs, bytes, opcodes and links of this engine with the committed ones; exit 1 on a change."""
    with Console(stderr=True).status("counting syncs, bytes, opcodes and links"):
        found = figures()
    expected = Expected.load(file)
    lines = compare(found, expected)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(lines)).decode())
    else:
        show(lines)
        for said in verdict(lines, found.python, expected, updating=update):
            click.echo(said)
    if update:
        expected.updated(found).save(file)
    elif not all(line.ok for line in lines):
        sys.exit(1)


def verdict(lines: Sequence[Compared], python: str, expected: Expected, *, updating: bool = False) -> list[str]:
    """What is said below the table.

    >>> verdict([Compared("chat.bytes_per_step", 100, 50, -0.5, False, "is less")], "3.11", Expected({}, {"3.11": {}}))
    ['1 of 1 figures changed; `python -m benchmarks check --update` commits what was found']
    """
    changed = sum(not line.ok for line in lines)
    said = []
    if python not in expected.opcodes:
        said.append(f"no opcodes are committed for Python {python}: they are shown, not checked")
    if updating:
        said.append(f"{changed} of {len(lines)} figures changed; what was found is written")
    elif changed:
        hint = "`python -m benchmarks check --update` commits what was found"
        said.append(f"{changed} of {len(lines)} figures changed; {hint}")
    else:
        said.append(f"{len(lines)} figures are as committed")
    return said


def show(lines: Sequence[Compared]) -> None:
    """A table on a terminal, plain columns in a pipe."""
    rows = [_cells(line) for line in lines]
    if sys.stdout.isatty():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for place, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if 1 <= place <= 3 else "left")
        for line, cells in zip(lines, rows, strict=True):
            table.add_row(*cells, style="" if line.ok else "yellow")
        Console(highlight=False).print(table)
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for cells in (COLUMNS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _cells(line: Compared) -> tuple[str, str, str, str, str]:
    change = "" if line.change is None else "same" if line.change == 0 else f"{line.change:+.2%}"
    return line.figure, _number(line.expected), _number(line.found), change, line.note


def _number(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.4f}".rstrip("0").rstrip(".")
