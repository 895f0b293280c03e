"""The progress bar of long work: on stderr, where a terminal is, and gone when the work is done."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def progress_bar(begins: str, *columns: str | ProgressColumn, shown: bool = True) -> Progress:
    """A bar between what `begins` it and `columns` (texts are formatted by rich), and the time left; not yet begun."""
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    console = Console(stderr=True, force_terminal=at_terminal, markup=False, highlight=False, emoji=False)
    after = (TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns)
    return Progress(
        TextColumn(begins, markup=False),
        BarColumn(),
        *after,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (at_terminal and shown),
    )
