"""Mutants: the engine with one small mistake, each caught by a probe that the healthy engine passes.

`MUTANTS` is the list, by name: what was changed, and the words with which the probe catches it. A mutant that survives
is a hole in the tests; one that is caught in other words, or that does not apply, has lost its meaning.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import mutants_of_runs, mutants_of_states, mutants_of_truth, mutants_of_writes
from .campaign import Campaign, Control, Result

ROOT = Path(__file__).parent.parent.parent
CONTROL = "nothing"


MUTANTS = {
    mutant.name: mutant
    for mutants in (
        mutants_of_writes.MUTANTS,
        mutants_of_states.MUTANTS,
        mutants_of_truth.MUTANTS,
        mutants_of_runs.MUTANTS,
    )
    for mutant in mutants
}


class Bench:
    """A process that tries mutants, one after the other. A context manager."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.mutant_child"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def attempt(self, mutant_name, probe, folder):
        """The verdict and the failure's text; `mutant_name` None for the healthy engine."""
        order = {"mutant": mutant_name, "probe": probe, "folder": str(folder)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))


class Benches:
    """As many as there are processors, at most four. A context manager; `attempts` gives what came of each in order."""

    def __init__(self, folder):
        self._folder = folder
        self._free = queue.Queue()
        self._all = [Bench() for _ in range(min(4, os.cpu_count() or 1))]
        for bench in self._all:
            self._free.put(bench)
        self._threads = ThreadPoolExecutor(len(self._all))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._threads.shutdown(cancel_futures=True)
        for bench in self._all:
            bench.__exit__()

    def attempts(self, pairs):
        """`pairs`: of a mutant's name (or None) and a probe's."""

        def one(pair):
            bench = self._free.get()
            try:
                return bench.attempt(*pair, self._folder)
            finally:
                self._free.put(bench)

        return self._threads.map(one, pairs)


def run(run):
    """Try `run.size` mutants, all of them where there are no more, and the healthy engine."""
    chosen = list(MUTANTS.values())
    if run.size < len(chosen):
        chosen = run.rng("mutants").sample(chosen, run.size)
    probes = list(dict.fromkeys(mutant.probe for mutant in chosen))
    failures, survivors = [], 0
    with Benches(run.folder) as benches:
        healthy = benches.attempts([(None, probe) for probe in probes])
        for probe, (verdict, text) in zip(probes, healthy, strict=True):
            if verdict != "survived":
                failures.append(f"the healthy engine does not pass {probe}: {verdict}: {text}")
        tried = benches.attempts([(mutant.name, mutant.probe) for mutant in chosen])
        for mutant, (verdict, text) in zip(chosen, tried, strict=True):
            if (failure := mutant.misjudged(verdict, text)) is not None:
                failures.append(failure)
            run.tick(1)
        for verdict, _ in benches.attempts([(mutant.name, CONTROL) for mutant in chosen]):
            survivors += verdict == "survived"
    control = Control("the tests of a store that is only opened and closed", survivors, len(chosen))
    distinct = len(chosen)
    notes = f"{len(probes)} probes, all of which the healthy engine passes" if not failures else ""
    return [Result("mutants of the engine", len(chosen), distinct, "mutants that survive", failures, [control], notes)]


CAMPAIGNS = [
    Campaign("mutants", "the engine with one small mistake: its tests notice", len(MUTANTS), 50, run),
]
