"""Durable runs are killed again and again, and end as if nothing had happened; `kills` is the same, alone.

The control is a run of nodes that change the world outside but do not say so (no `side_effects=True`): no intent stands
in the log, so a kill between an effect and the node's result makes the next process do it again, and nobody is asked.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import eventstore as es

from .campaign import Campaign, Control, Result
from .harness import Campaign as KilledRuns
from .harness import exists
from .processes import Worker
from .world import Outside

SETTINGS = ("full", False, 0.6), ("normal", False, 0.25), ("full", True, 0.15)
CARELESS_NODES = 8
MOST_CONTROL_KILLS = 100
LONGEST_S = 0.02


def careless(outside):
    """A chain of nodes whose effects the engine knows nothing of."""
    graph = es.Graph("careless")
    names = [f"node-{number}" for number in range(CARELESS_NODES)]

    def act(ctx):
        outside.write("effect", ctx)
        time.sleep(0.001)

    for name in names:
        graph.node(act, name=name)
    for name, after in pairwise(names):
        graph.edge(name, after)
    return graph.start(names[0]).end(names[-1])


def run_carelessly(tell, path, outside_path, process):
    """One process's part of such a run."""
    graph = careless(Outside(outside_path, process))
    with es.open(path) as store:
        tell("open")
        if exists(store, "t1"):
            es.resume(graph, store, "t1", force=True)
        else:
            es.run(graph, store, id="t1")
    tell("completed")


def kill_careless_runs(run, wanted):
    """Runs until an effect was doubled, and so many kills at least: (doubled effects, kills)."""
    doubled = kills = number = 0
    rng = run.rng("careless")
    while kills < wanted or (not doubled and kills < MOST_CONTROL_KILLS):
        number += 1
        folder = run.folder / f"careless-{number}"
        folder.mkdir()
        for process in range(1, 100):
            with Worker(run_carelessly, str(folder / "runs.db"), str(folder / "outside.txt"), process) as worker:
                assert worker.hear() == "open"
                if process < CARELESS_NODES and not worker.connection.poll(rng.uniform(0, LONGEST_S)):
                    kills += 1
                    continue
                assert worker.hear() == "completed"
                break
        times = Counter(line.key for line in Outside(folder / "outside.txt").lines("effect"))
        doubled += sum(found > 1 for found in times.values())
        shutil.rmtree(folder)
    return doubled, kills


def run(run):
    """Full, normal and async runs, in these shares; then the careless ones."""
    kills, runs, tally, places, failures = 0, 0, Counter(), set(), []
    for number, (durability, is_async, share) in enumerate(SETTINGS):
        folder = run.folder / f"setting-{number}"
        folder.mkdir()
        seed = run.rng("setting", number).randrange(1_000_000)
        again = f"--seed {seed} --durability {durability}{' --async' * is_async}"
        killed = KilledRuns(folder, seed, durability=durability, is_async=is_async)
        try:
            killed.run(max(1, round(run.size * share)), lambda: run.tick(1))
        except (AssertionError, es.EventStoreError) as error:
            failures.append(f"{error} (python -m tests.faults.kills --kills {killed.kills + 1} {again})")
        kills, runs, tally, places = (
            kills + killed.kills,
            runs + killed.runs,
            tally + killed.tally,
            places | killed.places,
        )
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
    doubled, careless_kills = kill_careless_runs(run, max(10, run.size // 15))
    control = Control("side effects that no intent declares: doubled silently", doubled, careless_kills)
    notes = (
        f"{runs} runs, {tally['effects']:,} effects,"
        f" {tally['effects repeated under a declared doubt']} repeated under a declared doubt"
    )
    return [Result("kill -9 of durable runs", kills, len(places), "broken laws", failures, [control], notes)]


CAMPAIGNS = [Campaign("kills", "SIGKILL of durable runs, again and again until they are over", 300, 12, run)]
