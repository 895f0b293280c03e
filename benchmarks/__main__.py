"""`python -m benchmarks run`: measure, in ratios, in one run; the results are kept in an event store.

A missed target is shown, never an error; a wrong result or a crash is one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

import eventstore as es
from eventstore.cli.opening import find_trace

from . import check, readme, report
from .machine import code
from .progress import ProgressTeller
from .projection import project
from .registry import CASES
from .results import BenchRun, Settings, load, runs
from .runner import expected_s, open_results, run
from .systems import SYSTEMS, absent

DB = click.option(
    "--db",
    default="benchmarks.db",
    envvar="EVENTSTORE_BENCHMARKS_DB",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The event store that keeps the results.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, the raw numbers included.")


@click.group()
def main() -> None:
    """What the engine costs, against a floor and other systems on the same machine in the same run."""


@main.command("list")
def list_command() -> None:
    """The cases, and the systems that they measure."""
    wide = max(map(len, CASES))
    for name, case in CASES.items():
        click.echo(f"{name:{wide}}  {case.about}")
    click.echo()
    for name in SYSTEMS:
        needed = absent(name)
        click.echo(f"{name:{wide}}  {f'left out: {needed} is not installed' if needed else 'installed'}")


@main.command("run")
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)), metavar="[CASE]...")
@click.option("--systems", default="", help="Only these, separated by commas.  [default: all that are installed]")
@click.option("--repeat", default=0, type=click.IntRange(min=0), help="Repeats.  [default: as many as each case says]")
@click.option("--quick", is_flag=True, help="Small sizes, to see that everything works; the figures mean nothing.")
@click.option(
    "--input", "input_path", type=click.Path(exists=True, dir_okay=False), help="Real transcripts, JSON Lines."
)
@click.option("--new", is_flag=True, help="Begin a new run, although one was interrupted.")
@JSON
@click.option(
    "--dir",
    "parent",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the measured files go: a real disk, in memory a sync costs nothing.  [default: the temp folder]",
)
@DB
def run_command(
    cases: tuple[str, ...],
    systems: str,
    repeat: int,
    quick: bool,
    input_path: str | None,
    new: bool,
    as_json: bool,
    parent: Path | None,
    db: str,
) -> None:
    """Measure the cases (all, if none is named) and print what was found.

    A run that was interrupted goes on where it stopped when it is asked for again.
    """
    chosen = [name for name in systems.split(",") if name]
    for name in chosen:
        if name not in SYSTEMS:
            raise click.BadParameter(f"{name} is none of {', '.join(SYSTEMS)}", param_hint="--systems")
    names = [name for name in CASES if name in cases] or list(CASES)
    settings = Settings(names, chosen, repeat, quick, Path(input_path or "").name, code())
    with open_results(db) as store:
        with ProgressTeller(expected_s(store, settings), Console(stderr=True)) as teller:
            trace_id = run(store, settings, teller, input=input_path or "", parent=parent, new=new)
        found = load(store, trace_id)
    report.print_report(found, as_json=as_json)
    if any(result.failed for result in found.results.values()):
        sys.exit(1)


@main.command("report")
@click.argument("run_id", metavar="[RUN]", default="")
@JSON
@click.option(
    "--sqlite", type=click.Path(dir_okay=False), help="Also put all runs into this database, with views, for any SQL."
)
@DB
def report_command(run_id: str, as_json: bool, sqlite: str | None, db: str) -> None:
    """What a run found: the newest, or the one whose id begins with RUN."""
    with open_results(db) as store:
        found = _run(store, run_id)
        if sqlite:
            project(runs(store), sqlite)
    report.print_report(found, as_json=as_json)


@main.command("compare")
@click.argument("before", metavar="RUN")
@click.argument("after", metavar="RUN")
@JSON
@DB
def compare_command(before: str, after: str, as_json: bool, db: str) -> None:
    """What changed from one run to another, the biggest change first."""
    with open_results(db) as store:
        pair = _run(store, before), _run(store, after)
    report.print_compare(*pair, as_json=as_json)


@main.command("history")
@click.argument("case", type=click.Choice(list(CASES)), metavar="CASE")
@JSON
@DB
def history_command(case: str, as_json: bool, db: str) -> None:
    """The figures of a case in every run, the oldest first."""
    with open_results(db) as store:
        report.print_history(list(runs(store)), case, as_json=as_json)


@main.command("publish")
@click.argument("run_id", metavar="[RUN]", default="")
@DB
def publish_command(run_id: str, db: str) -> None:
    """Make a run the one that the README and docs/benchmarks.md show: the newest, or RUN."""
    with open_results(db) as store:
        try:
            readme.publish(store, _run(store, run_id).trace_id)
        except ValueError as error:
            raise click.ClickException(str(error)) from None
    for name in (str(readme.PUBLISHED.relative_to(readme.ROOT)), *readme.render()):
        click.echo(name)


def _run(store: es.Store, run_id: str) -> BenchRun:
    """The run whose id begins so, the newest for none."""
    if run_id:
        return load(store, find_trace(store, run_id))
    newest = next(runs(store), None)
    if newest is None:
        raise click.ClickException("no run is there yet; `python -m benchmarks run` makes one")
    return newest


main.add_command(check.command)

if __name__ == "__main__":
    main()
