"""When to fold the log into a base: never, at every 100th step, when the tail outgrows the state, or adaptively.

The same runs under each policy, NORMAL, so that what folding costs does not hide behind the disk. Two figures are the
bounds that the adaptive policy promises: c1, the bytes of all bases ever written to the bytes of the log, and c2, the
most that a restore of any step reads to the state that it gives. Both are taken from the rows of the closed file;
of what a restore reads, the bound's constant goes off first, or the first kilobytes of a run would decide.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import apsw
import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.measuring import remove, weigh
from benchmarks.result import Measure, Measurement, Spread, middle
from benchmarks.systems.engine import EngineNormal
from benchmarks.worker import fresh
from benchmarks.workloads import Work
from eventstore.policy import RESTORE_SLACK_BYTES, FoldPolicy

from .growth import look

POLICIES: dict[str, FoldPolicy] = {
    "fold-none": es.NeverFold(),
    "fold-every-100": es.FoldEvery(100),
    "fold-geometric": es.GeometricFold(),
    "fold-adaptive": es.AdaptiveFold(),
}
STEPS = {"chat": 3000, "overwrite": 3000, "mixed": 1500}
PLACES = 60
READ_BYTES = """
WITH RECURSIVE
  chain (parent, seq, bytes) AS (
    SELECT * FROM (SELECT parent, seq, octet_length(body) FROM base WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1)
    UNION ALL
    SELECT b.parent, b.seq, octet_length(b.body) FROM base b JOIN chain c ON b.id = c.parent)
SELECT coalesce((SELECT sum(bytes) FROM chain), 0)
     + coalesce((SELECT sum(octet_length(body)) FROM log
                  WHERE first_seq < ?1 + 1 AND first_seq > coalesce((SELECT max(seq) FROM chain), 0)), 0)
"""


class Folding(EngineNormal):
    """This engine under one of the policies."""

    def __init__(self, path: str, policy: FoldPolicy) -> None:
        self._store = es.open(path, durability="normal", fold_policy=policy)


class Written(msgspec.Struct):
    """µs of each step, and the bytes of the log and of all bases."""

    laps_us: list[float]
    log_bytes: int
    base_bytes: int


def record(policy: str, path: str, work: Work) -> Written:
    """Write the work's only run under the policy."""
    ((run, steps),) = work.plan()
    folding = Folding(path, POLICIES[policy])
    laps = folding.write(run, work.state, steps)
    folding.close()
    with es.open(path, read_only=True) as store:
        stats = store.stats()
    return Written(laps, stats.log_bytes, stats.base_bytes)


def restores(path: str, run: str, places: int) -> list[tuple[int, int, int]]:
    """After the last step and so many others: seq, the bytes that a restore reads, those of the state that it gives."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    ends = [end for (end,) in connection.execute("SELECT first_seq + n - 1 FROM log ORDER BY first_seq")]
    found = []
    with es.open(path, read_only=True) as store:
        for seq in sorted({*random.Random(1).sample(ends, min(places, len(ends))), ends[-1]}):
            ((read_bytes,),) = connection.execute(READ_BYTES, (seq,))
            found.append((seq, read_bytes, len(msgspec.json.encode(store.state_at(run, seq)))))
    connection.close()
    return found


def under_policy(policy: str, path: str, work: Work, repeat: int) -> Measurement:
    """One run under one policy: written, weighed and read."""
    written = fresh(record, policy, path, work)
    found = fresh(look, "engine-normal", path, work)
    ratios = [max(0, read - RESTORE_SLACK_BYTES) / state for _, read, state in fresh(restores, path, "run-0", PLACES)]
    figures: dict[str, float | Spread] = {
        "step_us": Spread.of(written.laps_us),
        "slowest_step_ms": max(written.laps_us) / 1000,
        "file_bytes": weigh(path),
        "latest_us": Spread.of(found.latest_us),
        "at_us": Spread.of(found.at_us),
        "c1": written.base_bytes / written.log_bytes,
        "c2": max(ratios),
    }
    remove(path)
    return Measurement(policy, work.workload, repeat, figures)


def folding(bench: Bench) -> Iterator[Measure | Measurement]:
    """The policies side by side, and the adaptive one's two bounds."""
    if not bench.systems("engine"):
        return
    adaptive: list[Measurement] = []
    for workload in ("mixed",) if bench.quick else STEPS:
        work = Work(workload, steps=bench.size(STEPS[workload], 150))
        for repeat, policy in bench.turns(f"folding, {workload}", tuple(POLICIES), 1):
            with bench.failing(policy):
                name = f"{workload} {policy} {repeat}"
                found = bench.once(name, under_policy, policy, bench.path(policy), work, repeat)
                yield found
                if policy == "fold-adaptive":
                    adaptive.append(found)
    if not adaptive:
        return
    for bound, what in (
        ("c1", "all bases to the log"),
        ("c2", f"a restore's reads beyond {RESTORE_SLACK_BYTES // 1024} KiB to its state"),
    ):
        samples = [middle(one.figures[bound]) for one in adaptive]
        note = ", ".join(f"{one.workload} {value:.2f}" for one, value in zip(adaptive, samples, strict=True))
        yield Measure("fold-policies", f"{bound}: {what}, at most", max(samples), 2.0, "x", samples=samples, note=note)
