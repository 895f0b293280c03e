"""Break things on purpose, count what was lost, and show beside each zero what a weaker system loses.

`python -m tests.faults [CAMPAIGN…] [--quick] [--seed N] [--json FILE]` (or `make faults`). A failure names its seed and
case; the same seed makes the same choices again. Exits 1 when anything was lost, or a control lost nothing.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
import traceback
from datetime import date
from importlib import import_module
from os import cpu_count
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .campaign import Result, Run
from .figures import markdown, print_failures, put_into, table

MODULES = (
    "cuts",
    "io_errors",
    "killed_writers",
    "killed_runs",
    "contention",
    "sqlite_itself",
    "rot",
    "tampering",
    "erased_words",
    "foreign_files",
    "hostile_bodies",
    "backups",
    "salvaged",
    "mutants",
)
WIDTH = 150
DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
MEMORY = Path("/dev/shm")


def campaigns():
    """All of them, in the order of the table."""
    return [one for name in MODULES for one in import_module(f".{name}", __package__).CAMPAIGNS]


@click.command(help=__doc__.partition("\n")[0])
@click.argument("names", nargs=-1, metavar="[CAMPAIGN…]")
@click.option("--quick", is_flag=True, help="A small setting, under two minutes in all.")
@click.option("--size", type=click.IntRange(1), help="About so many cases, instead of the campaign's own number.")
@click.option("--seed", type=int, help="Of every random choice (default: a new one, which is printed).")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures there, too.")
@click.option("--publish", is_flag=True, help="Put the table into docs/reliability.md; of a whole campaign only.")
@click.option("--list", "only_list", is_flag=True, help="Say which campaigns there are.")
def main(names, quick, size, seed, json_file, publish, only_list):
    known = campaigns()
    if only_list:
        for one in known:
            click.echo(f"{one.name:16} {one.about} ({one.full:,}; quick: {one.quick:,})")
        return
    if publish and (names or quick or size):
        raise click.UsageError("--publish is of the whole campaign")
    if unknown := set(names) - {one.name for one in known}:
        raise click.UsageError(
            f"no campaign {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in known)}"
        )
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    chosen = [one for one in known if one.name in names or (not names and (one.quick or not quick))]
    again = [
        "python -m tests.faults",
        *names,
        *["--quick"] * quick,
        *([f"--size {size}"] if size else []),
        f"--seed {seed}",
    ]
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(" ".join(again), highlight=False)
    began = time.monotonic()
    results = run(chosen, quick, size, seed, console)
    took_s = time.monotonic() - began
    if json_file:
        figures = [
            result._replace(controls=[control._asdict() for control in result.controls])._asdict() for result in results
        ]
        Path(json_file).write_text(
            json.dumps({"seed": seed, "quick": quick, "results": figures}, indent=1) + "\n", "utf-8"
        )
    title = f"{' '.join(again)} · {took_s:.0f} s"
    console.print(table(results, title, console.width))
    if publish:
        put_into(
            DOCUMENT,
            markdown(results),
            f"`{' '.join(again)}`, {date.today().isoformat()}, {took_s:.0f} s on {cpu_count()} cores.",
        )
    print_failures(console, results)
    sys.exit(0 if all(result.holds for result in results) else 1)


def results_of(campaign, run):
    """What it found; that it failed itself is a loss, and keeps no other from being run."""
    try:
        return campaign.run(run)
    except Exception:
        traceback.print_exc()
        broken = f"seed {run.seed}, size {run.size}: the campaign itself failed: {sys.exc_info()[1]!r}"
        return [Result(campaign.about, 0, 0, "as far as it came", [broken], [])]


def run(chosen, quick, size, seed, console):
    """Each campaign in a folder of its own, with a bar."""
    results = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    where = MEMORY if MEMORY.is_dir() else None
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        for one in chosen:
            cases = size or (quick and one.quick) or one.full
            task = bar.add_task(one.name, total=cases)
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix=f"faults-{one.name}-", dir=where) as folder:
                run_of_it = Run(cases, seed, Path(folder), lambda count, task=task: bar.advance(task, count))
                found = results_of(one, run_of_it)
            bar.update(task, completed=cases)
            took_s = time.monotonic() - began
            results += found
            if bar.disable:
                lost = sum(len(result.failures) for result in found)
                told = f"{cases:,} cases, {lost} lost" if found else "no line, since its control lost nothing here"
                console.print(f"{one.name}: {told}, {took_s:.1f} s", highlight=False)
    return results


if __name__ == "__main__":
    main()
