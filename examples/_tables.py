"""What the source audit prints: tables that are plain in a pipe, and a progress bar on a terminal."""

from __future__ import annotations

from pathlib import Path

import msgspec
from _source import COUNTS, State, longest_function
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import eventstore as es


def make_console() -> Console:
    """A console that is at most 100 columns wide, and exactly that in a pipe."""
    console = Console(markup=False, highlight=False)
    console.width = min(console.width, 100) if console.is_terminal else 100
    return console


def make_progress(console: Console) -> Progress:
    """A progress bar that leaves nothing behind, and shows nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def table(console: Console, title: str, *columns: str) -> Table:
    """An empty table, without lines in a pipe. A leading `>` aligns a column to the right."""
    box = SIMPLE_HEAD if console.is_terminal else None
    made = Table(title=title, title_style="bold", title_justify="left", box=box, show_edge=False, pad_edge=False)
    for column in columns:
        is_number = column[:1] == ">"  # on a narrow terminal the words give way
        made.add_column(column.lstrip(">"), justify="right" if is_number else "left", no_wrap=is_number)
    return made


def counts(found: State) -> list[str]:
    return [f"{found[key]:,}" for key in COUNTS]


def longest_modules(console: Console, state: State) -> Table:
    """The modules of the report, and the totals of all."""
    made = table(console, "The longest modules", "module", *(f">{key}" for key in COUNTS), "function")
    for found in state["report"]:
        made.add_row(found["module"], *counts(found), found["function"])
    made.add_section()
    made.add_row(f"all {len(state['modules']):,}", *counts(state), longest_function(state["modules"]), style="bold")
    return made


def comparison(console: Console, then: tuple[int, State], now: tuple[int, State]) -> Table:
    """A state of the past beside the last one."""
    both = (then[1], now[1])
    made = table(console, "Back in the middle of the run", "", f">after event {then[0]:,}", f">after event {now[0]:,}")
    made.add_row("modules", *(f"{len(state['modules']):,}" for state in both))
    for key in COUNTS:
        made.add_row(key, *(f"{state[key]:,}" for state in both))
    made.add_row("function", *(longest_function(state["modules"]) for state in both))
    return made


def print_tables(console: Console, database: Path, trace_id: str, middle: int, size_before: int) -> None:
    """The report, time travel, and the file beside what the whole state, written at each commit, would take."""
    file_bytes = database.stat().st_size - size_before
    with es.open(database, read_only=True) as store:
        now, version = store.state_at(trace_id), store.open_trace(trace_id).version
        console.print(longest_modules(console, now), "")
        console.print(comparison(console, (middle, store.state_at(trace_id, middle)), (version, now)), "")
        commits = {event.first_seq: event.seq for event in store.events(trace_id)}.values()
        whole_bytes = sum(len(msgspec.json.encode(store.state_at(trace_id, seq))) for seq in commits)
    times = f"{whole_bytes / max(1, file_bytes):.3g} times as much"
    made = table(console, "What it weighs", "", ">size", "")
    made.add_row("the file, which gives the state after any event", decimal(file_bytes), "")
    made.add_row(f"the whole state written at each of {len(commits)} commits", decimal(whole_bytes), times)
    console.print(made)
