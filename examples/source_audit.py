"""Audit Python source as a durable run, travel back to its middle, and weigh the file.

    python examples/source_audit.py [DIR] [--db FILE] [--seconds N]

Each module is one step: what was found in it is synced to disk before the next one is read. A module
that cannot be parsed fails its step, which the log records and the state never sees. DIR is by default
the standard library of the Python that runs this.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import sysconfig
import time
import tokenize
import warnings
from pathlib import Path
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import eventstore as es

State = dict[str, Any]
SKIPPED = {"__pycache__", "dist-packages", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}
TOTALS = ("lines", "functions", "classes")
START: State = {"modules": [], **dict.fromkeys(TOTALS, 0), "longest": 0, "longest_function": "-"}
REDUCERS = {"modules": es.Reducer.APPEND, "longest": es.Reducer.MAX, **dict.fromkeys(TOTALS, es.Reducer.SUM)}
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OSError)


def find_modules(folder: Path) -> list[Path]:
    """The modules below `folder`, without tests, hidden folders and installed packages."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.py"))
    return [path for path in found if not any(part in SKIPPED or part[0] == "." for part in path.parts[:-1])]


def audit(path: Path, name: str) -> State:
    """What one module holds. Raises one of UNREADABLE when it cannot be read."""
    with tokenize.open(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = file.read()
        nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in functions]
    longest, function = max(lengths, default=(0, "-"))
    counts = (len(text.splitlines()), len(functions), sum(isinstance(node, ast.ClassDef) for node in nodes))
    return {"module": name, **dict(zip(TOTALS, counts, strict=True)), "longest": longest, "longest_function": function}


def run(trace: es.Trace, folder: Path, modules: list[Path], seconds: float, console: Console) -> tuple[list[int], int]:
    """Audit the modules, one by one, until the time is up.

    Gives the trace's version after each module, and what writing the whole state at each step would take.
    """
    versions, whole_bytes, until = [trace.version], 0, time.monotonic() + seconds
    bar = (TextColumn("Auditing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
        for path in progress.track(modules):
            if time.monotonic() > until:
                console.print(f"{seconds:g} seconds are up; the rest is left out.")
                break
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            try:
                with trace.step("audit") as step:
                    found = audit(folder / path, name)
                    step.put("modules", found)
                    for key in (*TOTALS, "longest"):
                        step.put(key, found[key])
                    if found["longest"] > trace.state["longest"]:
                        step.put("longest_function", f"{name}.{found['longest_function']}")
            except UNREADABLE as error:
                console.print(f"{name} cannot be audited: {error}")
            versions.append(trace.version)
            whole_bytes += len(msgspec.json.encode(dict(trace.state)))
    trace.end()
    return versions, whole_bytes


def table(console: Console, title: str, *columns: str) -> Table:
    """An empty table, without lines in a pipe. A leading `>` aligns a column to the right."""
    box = SIMPLE_HEAD if console.is_terminal else None
    made = Table(title=title, title_style="bold", title_justify="left", box=box, show_edge=False, pad_edge=False)
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column[:1] == ">" else "left", no_wrap=True)
    return made


def longest_modules(console: Console, state: State) -> Table:
    """The ten longest modules, and the totals of all."""
    made = table(console, "The longest modules", "module", *(f">{key}" for key in TOTALS), ">longest", "function")
    for found in sorted(state["modules"], key=lambda found: -found["lines"])[:10]:
        counts = [f"{found[key]:,}" for key in (*TOTALS, "longest")]
        made.add_row(found["module"], *counts, found["longest_function"])
    made.add_section()
    counts = [f"{state[key]:,}" for key in (*TOTALS, "longest")]
    made.add_row(f"all {len(state['modules']):,}", *counts, state["longest_function"], style="bold")
    return made


def comparison(console: Console, then: tuple[int, State], now: tuple[int, State]) -> Table:
    """A state of the past beside the last one."""
    both = (then[1], now[1])
    made = table(console, "Back in the middle of the run", "", f">after event {then[0]:,}", f">after event {now[0]:,}")
    made.add_row("modules", *(f"{len(state['modules']):,}" for state in both))
    made.add_row("the newest", *(state["modules"][-1]["module"] if state["modules"] else "-" for state in both))
    for key in (*TOTALS, "longest"):
        made.add_row(key, *(f"{state[key]:,}" for state in both))
    made.add_row("function", *(state["longest_function"] for state in both))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit Python source as a durable run.")
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--db", type=Path, default=Path("source_audit.db"), help="the event store to write to")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to audit at most")
    options = parser.parse_args()
    folder, database, modules = options.folder, options.db, find_modules(options.folder)
    if not modules:
        parser.error(f"{folder} holds no Python source")
    console = Console(markup=False, highlight=False)
    console.width = min(console.width, 100) if console.is_terminal else 100
    size_before, started = database.stat().st_size if database.exists() else 0, time.perf_counter()
    with es.open(database) as store:
        trace = store.start(START, name="source-audit", reducers=REDUCERS)
        versions, whole_bytes = run(trace, folder, modules, options.seconds, console)
        took_seconds = time.perf_counter() - started
        middle = versions[len(versions) // 2]
        then, now = store.state_at(trace.id, middle), store.state_at(trace.id)
    file_bytes = database.stat().st_size - size_before
    console.print(f"{len(versions) - 1:,} modules of {folder}, each a durable step: {took_seconds:.1f} s\n")
    console.print(longest_modules(console, now), "")
    console.print(comparison(console, (middle, then), (trace.version, now)), "")
    times = f"{whole_bytes / max(1, file_bytes):.3g} times as much"
    weights = table(console, "What it weighs", "", ">size", "")
    weights.add_row("the file, which gives the state after any event", decimal(file_bytes), "")
    weights.add_row("the whole state written at each step", decimal(whole_bytes), times)
    console.print(weights)
    command = os.path.relpath(Path(sys.executable).with_name("eventstore"))
    console.print(f"\nLook into it: {command} --db {database} log {trace.id[:18]}", soft_wrap=True)


if __name__ == "__main__":
    main()
