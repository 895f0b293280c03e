"""`python -m benchmarks targets`: measure every target, in ratios, in one run.

A missed target is shown, never an error; a wrong result or a crash is one.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console

from . import report
from .bench import Bench
from .cases import (
    chat,
    concurrency,
    export,
    inbox,
    langgraph_cases,
    lookback,
    memory,
    runs,
    scale,
    side_by_side,
    steps,
)
from .result import Measure

CASES: dict[str, Callable[[Bench], Iterator[Measure]]] = {
    "step-full": steps.full,
    "step-normal": steps.normal,
    "syncs": steps.syncs,
    "threads": concurrency.threads,
    "tasks": concurrency.tasks,
    "processes": concurrency.processes,
    "chat": chat.run,
    "random-seq": scale.reads,
    "depth": scale.long_append,
    "breadth": scale.many_append,
    "memory": memory.run,
    "node-full": runs.node_full,
    "node-normal": runs.node_normal,
    "short-runs": runs.short,
    "inbox": inbox.inbox,
    "branches": side_by_side.fan,
    "concurrent-runs": side_by_side.together,
    "resume": side_by_side.resumed,
    "history": lookback.history,
    "at": lookback.any_step,
    "fork": lookback.fork,
    "blame": lookback.blame,
    "export": export.export,
    "langgraph-file": langgraph_cases.case("langgraph_writing", "file"),
    "langgraph-put": langgraph_cases.case("langgraph_writing", "put"),
    "langgraph-wall": langgraph_cases.case("langgraph_writing", "run"),
    "langgraph-get": langgraph_cases.case("langgraph_reading", "get"),
    "langgraph-history": langgraph_cases.case("langgraph_reading", "history"),
    "langgraph-processes": langgraph_cases.case("langgraph_processes", "processes"),
}


@click.group()
def main() -> None:
    """What the engine costs, measured against a floor on the same machine in the same run."""


@main.command()
@click.option("--quick", is_flag=True, help="Small sizes: under a minute, to see that everything works.")
@click.option("--only", type=click.Choice(list(CASES)), multiple=True, help="Only this case; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, the raw numbers included.")
@click.option(
    "--dir",
    "parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the files go; on a real disk, since in memory a sync costs nothing. Default: the temp folder.",
)
def targets(quick: bool, only: tuple[str, ...], as_json: bool, parent: Path | None) -> None:
    """Measure the targets and print the table."""
    told = Console(stderr=True, highlight=False)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="eventstore-bench-", dir=parent))

    def say(text: str) -> None:
        told.print(f"{time.monotonic() - started:6.1f} s  {text}", markup=False)

    bench = Bench(folder, quick=quick, say=say)
    try:
        measures = [measure for name in only or CASES for measure in CASES[name](bench)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        click.echo(report.as_json(measures))
    else:
        report.show(measures)


if __name__ == "__main__":
    main()
