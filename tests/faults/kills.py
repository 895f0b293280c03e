"""Kill runs, hundreds of times, and check that none of them notices.

`python -m tests.faults.kills --kills 300 [--seed N] [--durability full|normal] [--async]`: a failure names its
seed; the same seed makes the same choices again (the instants at which a kill lands are the machine's).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .harness import Campaign


def main(arguments=None):
    """Run a campaign; the exit status is 1 where a law is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--seed", type=int, help="of every random choice (default: a new one, which is printed)")
    parser.add_argument("--durability", choices=["full", "normal"], default="full")
    parser.add_argument("--async", dest="is_async", action="store_true", help="async nodes, run by es.run_async")
    chosen = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    console = Console()
    again = f"--kills {chosen.kills} --seed {seed} --durability {chosen.durability}{' --async' * chosen.is_async}"
    console.print(f"python -m tests.faults.kills {again}")
    began = time.monotonic()
    columns = TextColumn("kills"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        campaign = Campaign(folder, seed, durability=chosen.durability, is_async=chosen.is_async)
        try:
            with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
                task = bar.add_task("kills", total=chosen.kills)
                campaign.run(chosen.kills, lambda: bar.advance(task))
        except AssertionError as broken:
            console.print(f"[red]broken:[/] {broken}", *getattr(broken, "__notes__", []), sep="\n", markup=True)
            console.print(f"run it again: python -m tests.faults.kills {again}")
            return 1
    console.print(summary(campaign, time.monotonic() - began))
    return 0


def summary(campaign, took_s):
    """What happened, as a table."""
    table = Table(
        title=f"{campaign.kills} kills, seed {campaign.seed}, durability {campaign.durability}: every law held"
    )
    table.add_column("what")
    table.add_column("times", justify="right")
    for what, times in sorted(campaign.tally.items()):
        table.add_row(what, f"{times:,}")
    table.add_row("effects doubled silently, nodes run again, runs lost", "0")
    table.add_row("seconds", f"{took_s:.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
