"""I/O errors and a full disk, at every n-th call of every kind, and the power cuts that follow.

A case: the n-th call of a kind fails, once or from then on, while one program works on one store. It goes on as a
user would: after an I/O error it asks three times for more (each must raise `StoreHalted`) and closes (which must
write nothing); where the disk is full it waits for space and goes on in the same store. Then the power is cut, at
moments from the fault on; what the disk holds of what a failed sync should have written is up to fate (`images`).
Each image must hold all that was told, no deed may be there twice, and asking again for the deed that failed, with
its `append_id`, must settle it.

The other half of the cases has no cut at that time: the disk is well again, the file is opened again in the same
boot, the failed deed asked for again, more is done, and the power is cut after that.

Controls: an engine that never halts, so that the program tries again in the same store; and one that trusts what it
reads in the write-ahead log when it opens a file again, though no sync ever told that it is on the disk. For them
fate is always at its worst.
"""

from __future__ import annotations

import shutil
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import apsw

import eventstore as es
from eventstore.database import Database

from .campaign import Campaign, Control, Result
from .cuts import INLINE, each
from .disk import recording
from .failing import CODES, failing
from .faulty_program import NEVER_HALTS, TRUSTS, Broken, Case, Fault, Program
from .images import WAYS, Choice, Gone, Platter
from .recovery import Bench, hash_of, missing

WALKS, CUTS_A_WALK = 3, 2
CONTROL_WALKS = 4
CASES_A_TRIAL = 60
CONTROLS = 27, 150  # at least and at most so many cases of each control
CONTROLS_A_WORKLOAD = 7


class Outcome(NamedTuple):
    """What came of some cases. `met`: in how many a call of the engine raised for it."""

    cases: int = 0
    met: int = 0
    halted: int = 0
    full: int = 0
    cuts: int = 0
    distinct: int = 0
    landed: int = 0
    failures: tuple[str, ...] = ()


def tried(trial):
    """Some cases of one workload; what came of each."""
    cases, folder = trial
    outcomes = []
    bench = Bench(Path(folder) / "bench")
    for number, case in enumerate(cases):
        place = Path(folder) / f"case-{number}"
        place.mkdir(parents=True)
        outcomes.append(tried_once(case, place, bench))
        shutil.rmtree(place)
    shutil.rmtree(folder)
    return summed(outcomes)


def tried_once(case, folder, bench):
    """One case."""
    failures, cuts, distinct, landed = [], 0, set(), 0
    with recording() as disk, failing(disk) as faults, weakened(case):
        program = Program(case, disk, faults, folder)
        faults.fault = case.fault
        try:
            met = program.works()
            if met:
                program.goes_on()
            faults.fault = None
            if case.reopens:
                program.reopens()
        except Broken as broken:
            failures.append(f"{case}: {broken}")
        except es.EventStoreError as error:
            failures.append(f"{case}: on a well disk: {type(error).__name__}: {error}")
        except Exception as error:  # whatever else comes out is a failure, and the case is named
            failures.append(f"{case}: {type(error).__name__} came out: {error} ({where(error)})")
        finally:
            faults.fault = None
            with suppress(es.EventStoreError, apsw.Error):
                program.worker.close()
    if not failures:
        for at, found_problem, hashed, has_landed in cut(case, program, disk.ops, bench):
            cuts += 1
            distinct.add(hashed)
            landed += has_landed
            if found_problem:
                failures.append(f"{case}: cut at {at}/{len(disk.ops)}: {found_problem}")
    return Outcome(
        1,
        int(program.fault_at is not None),
        int(program.halted),
        int(program.full),
        cuts,
        len(distinct),
        landed,
        tuple(failures[:1]),
    )


def where(error):
    """The last places that an error came through, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[:-6:-1]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


def cut(case, program, ops, bench):
    """Cuts after the fault: where, what is wrong, the image's hash, and whether the failed deed was there."""
    rng = case.rng("cuts")
    first = len(ops) if program.fault_at is None else program.fault_at
    if program.fault_at is None:
        failed = [number for number, op in enumerate(ops) if op.kind == "failed sync"]
        first = failed[0] if failed else 0
    normal = case.durability == "normal"
    anywhere = range(first, len(ops) + 1)
    told_at = [deed.at for deed in program.diary.deeds if deed.at in anywhere and not deed.failed] or anywhere
    for _ in range(CONTROL_WALKS if case.weakness else WALKS):
        platter = Platter(ops, fates=Gone() if case.weakness else rng)
        for at in sorted(rng.choice(rng.choice((told_at, anywhere))) for _ in range(CUTS_A_WALK)):
            platter.advance(at)
            image = platter.image(Choice(rng.choice(WAYS), rng))
            told, under_way = program.diary.until(program.path, at, only_promised=normal)
            versions = {trace_id: {known.version} for trace_id, known in told.items()}
            for deed in under_way:
                for trace_id in deed.known:
                    versions.setdefault(trace_id, set())
            failed = program.failed if program.again is not None and program.failed in under_way else None
            then = settled(program, failed, told) if failed is not None and not normal else None
            found = bench.recovered(image, program.path, versions, durability=case.durability, then=then)
            exact = not normal and all(deed.whole for deed in under_way)
            yield at, missing(found, told, under_way, exact=exact), hash_of(image), has_landed(found, failed, told)


def has_landed(found, failed, told):
    """Whether the deed that failed is there all the same."""
    if failed is None or found.broken:
        return False
    return any(
        trace_id in found.traces and found.traces[trace_id].version > told[trace_id].version
        for trace_id in failed.known
        if trace_id in told
    )


def settled(program, failed, told):
    """Asking for the failed append again, in whatever a cut left of its trace, makes it be there once."""
    (trace_id,) = failed.known

    def then(store):
        if trace_id in told and store.open_trace(trace_id).version >= told[trace_id].version:
            program.again(store)
            program.again(store)
            assert store.state_at(trace_id) == failed.known[trace_id].state, "asked for again, it is not there once"

    return then


@contextmanager
def weakened(case):
    """For the controls: an engine that lacks something."""
    usual = {name: getattr(Database, name) for name in ("translate", "settle")}

    def translate(self, error):
        failure = usual["translate"](self, error)
        self.halted, self.is_open = None, self._closed is None
        return failure

    if case.weakness == NEVER_HALTS:
        Database.translate = translate
    if case.weakness in (NEVER_HALTS, TRUSTS):
        Database.settle = lambda *_: None
    try:
        yield
    finally:
        for name, function in usual.items():
            setattr(Database, name, function)


def counted(run, workload, durability):
    """The numbers of the calls of each kind that a workload makes when nothing fails."""
    folder = run.folder / "count"
    folder.mkdir(parents=True)
    case = Case(run.seed, workload, durability, Fault("none", 0, lasting=False), reopens=False)
    with recording() as disk, failing(disk) as faults:
        Program(case, disk, faults, folder).works()
    shutil.rmtree(folder)
    numbers = {kind: range(1, faults.counts["write" if kind == "full" else kind] + 1) for kind in CODES}
    return numbers, faults.wal_syncs


def cases_of(run, size):
    """Every n-th call of each kind that a workload makes, workload after workload; of the last one an even sample."""
    found: list[Case] = []
    rng, workload = run.rng("cases"), 0
    while len(found) < size:
        durability = "normal" if workload % 4 == 3 else "full"
        turns = []
        for kind, numbers in counted(run, workload, durability)[0].items():
            turns += [(turn, kind, n) for turn, n in enumerate(rng.sample(numbers, len(numbers)))]
        for _, kind, n in sorted(turns)[: size - len(found)]:
            fault = Fault(kind, n, lasting=rng.random() < 0.5)
            found.append(Case(run.seed, workload, durability, fault, rng.random() < 0.5))
        workload += 1
    return found


def control_cases(run, weakness, size):
    """Syncs of the write-ahead log that fail once, a few of each workload."""
    found: list[Case] = []
    rng, workload = run.rng(weakness), 0
    durability, reopens = ("normal", False) if weakness == NEVER_HALTS else ("full", True)
    while len(found) < size:
        syncs = counted(run, workload, durability)[1]
        for n in rng.sample(syncs, min(len(syncs), CONTROLS_A_WORKLOAD, size - len(found))):
            fault = Fault("sync", n, lasting=False)
            found.append(Case(run.seed, workload, durability, fault, reopens, weakness))
        workload += 1
    return found


def trials_of(cases, folder):
    """Cases in handy parcels, each with a folder of its own."""
    parcels = [cases[begin : begin + CASES_A_TRIAL] for begin in range(0, len(cases), CASES_A_TRIAL)]
    return [(tuple(parcel), str(folder / str(number))) for number, parcel in enumerate(parcels)]


def campaign(run):
    """The cases, and the controls'."""
    done = carried_out(run, cases_of(run, run.size), "cases")
    controls, least, most = [], *CONTROLS
    for weakness in (NEVER_HALTS, TRUSTS):
        weak = carried_out(run, control_cases(run, weakness, min(most, max(least, run.size // 10))), weakness)
        controls.append(Control(f"an engine that {weakness}, failed syncs", len(weak.failures), weak.cases))
    return [
        Result(
            "I/O errors and full disks",
            done.cases,
            done.distinct,
            "cases with a loss, a double or a wrong error",
            list(done.failures),
            controls,
            f"{done.cuts:,} cuts after them; {done.halted:,} halted, {done.full:,} met a full disk,"
            f" in {done.landed:,} images a deed had landed that had raised",
        )
    ]


def carried_out(run, cases, name):
    """What came of them."""
    outcomes = []
    for trial, outcome in each(tried, trials_of(cases, run.folder / name), in_line=run.size < INLINE):
        outcomes.append(outcome)
        if name == "cases":
            run.tick(len(trial[0]))
    return summed(outcomes)


def summed(outcomes):
    """One outcome of many."""
    return Outcome(*(sum(column, type(column[0])()) for column in zip(*outcomes, strict=True)))


CAMPAIGNS = [
    Campaign("io-errors", "I/O errors and full disks at every n-th call, then power cuts", 4_500, 80, campaign)
]
