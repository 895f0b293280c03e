"""Many write to one file at the same time: all of it goes in once, in each one's order, and nobody is turned away.

Eight processes, one of them with sixteen threads, append to a trace of their own each and to traces that all share,
as fast as they can. Then a race: two processes append to one trace at the version they see. Exactly one may get each
version, and the other has to be told. The controls are programs on plain connections: what does not wait is turned
away, and who looks first and writes then, without a guard, gets a version that another one has.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import closing

import apsw

import eventstore as es

from .campaign import Campaign, Control, Result
from .processes import hear_all

PROCESSES = 8
THREADS = 16
SHARED = "shared 0", "shared 1", "shared 2"
REPORT_EVERY = 50
CONTROL_S = 0.5
CONTROL_VERSIONS = 200
STEP_S = 0.0002


def append(tell, path, names, turns, durability, seed, go):
    """So many appends of each name, a thread each; tells the longest wait in ms and the errors."""
    slowest, errors, talking = [0.0], [], threading.Lock()

    def work(store, name):
        rng = random.Random(f"{seed} {name}")
        own = store.start({"log": []}, id=name)
        shared = [store.open_trace(trace_id) for trace_id in SHARED]
        for turn in range(turns):
            trace = own if rng.random() < 0.5 else rng.choice(shared)
            began = time.perf_counter()
            try:
                delta = es.StateDelta.append("log", [[name, turn]])
                trace.append([delta], expected_version=es.ANY, append_id=f"{name} {turn}")
            except es.EventStoreError as error:
                errors.append(f"{name}, turn {turn}: {type(error).__name__}: {error}")
            slowest.append(time.perf_counter() - began)
            if turn % REPORT_EVERY == REPORT_EVERY - 1:
                with talking:
                    tell(REPORT_EVERY)

    with es.open(path, durability=durability) as store:
        tell("ready")
        go.wait()
        threads = [threading.Thread(target=work, args=(store, name)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    tell((max(slowest) * 1000, errors))


def contend(run, size):
    """Everybody at once; then everything is looked for."""
    path = str(run.folder / "contention.db")
    with es.open(path) as store:
        for trace_id in SHARED:
            store.start({"log": []}, id=trace_id)
    crews = [[f"process {number}"] for number in range(1, PROCESSES)]
    crews.append([f"thread {number}" for number in range(THREADS)])
    names = [name for crew in crews for name in crew]
    turns = max(1, size // len(names))
    durability = [run.rng("durability", number).choice(("full", "normal")) for number in range(PROCESSES)]
    works = [(append, path, crew, turns, *rest, run.seed) for crew, rest in zip(crews, zip(durability), strict=True)]
    reported = [0]

    def report(appends):
        reported[0] += appends
        run.tick(appends)

    found = hear_all(works, report)
    run.tick(size - reported[0])
    failures = [error for _, errors in found for error in errors]
    wrong = missing(path, names, turns)
    failures = [f"seed {run.seed}, contention: {text}" for text in [*failures, *wrong]]
    waits = max(wait for wait, _ in found[:-1]), found[-1][0]
    tried = turns * len(names)
    control = Control("plain connections that do not wait: turned away", *turned_away(run))
    return Result(
        f"{PROCESSES} processes, {THREADS} threads",
        tried,
        0,
        "appends lost, doubled or turned away",
        failures,
        [control],
        f"longest wait of an append: {waits[0]:.0f} ms in a process alone, {waits[1]:.0f} ms among {THREADS} threads",
    )


def missing(path, names, turns):
    """Every append that is lost, doubled or out of order, in words."""
    times, wrong = Counter(), []
    with es.open(path) as store:
        for trace_id in (*SHARED, *names):
            log = store.state_at(trace_id)["log"]
            times.update((name, turn) for name, turn in log)
            for name in names:
                own = [turn for who, turn in log if who == name]
                if own != sorted(own):
                    wrong.append(f"the appends of {name} to {trace_id} are out of order")
            seqs = [event.seq for event in store.events(trace_id)]
            if seqs != list(range(1, 2 + len(log))):
                wrong.append(f"the seqs of {trace_id} are not dense")
        wrong += [str(problem) for problem in store.verify().problems]
    lost = {(name, turn) for name in names for turn in range(turns)} - set(times)
    doubled = {which for which, found in times.items() if found > 1}
    wrong += [f"{name}, turn {turn}: lost" for name, turn in sorted(lost)]
    wrong += [f"{name}, turn {turn}: doubled" for name, turn in sorted(doubled)]
    return wrong


def insert_at_once(tell, path, name, go):
    """The same for a moment, by a program that does not wait; tells how often it was turned away, of how often."""
    with closing(apsw.Connection(path)) as connection:
        connection.set_busy_timeout(0)
        tell("ready")
        go.wait()
        refused = tried = 0
        until = time.monotonic() + CONTROL_S
        while time.monotonic() < until:
            tried += 1
            try:
                connection.execute("INSERT INTO log VALUES (?, ?)", (name, tried))
            except apsw.BusyError:
                refused += 1
    tell((refused, tried))


def turned_away(run):
    """How many of how many inserts through plain connections were refused."""
    path = plain_file(run.folder / "plain.db")
    found = hear_all([(insert_at_once, path, str(number)) for number in range(PROCESSES)])
    return [sum(counts) for counts in zip(*found, strict=True)]


def plain_file(path):
    """A log without guards."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.pragma("journal_mode", "wal")
        connection.execute("CREATE TABLE log (name, version)")
    return str(path)


def race(tell, path, name, last, go):
    """Append at the version that was seen, a step's work later, until the trace is at `last`; who won, and refusals."""
    won, refusals = [], 0
    with es.open(path, durability="normal") as store:
        trace = store.open_trace("contested")
        tell("ready")
        go.wait()
        while (seen := trace.refresh()) < last:
            time.sleep(STEP_S)
            try:
                won.append(trace.append([es.StateDelta.append("log", [name])], expected_version=seen).version)
            except es.WrongExpectedVersion:
                refusals += 1
    tell((won, refusals))


def race_unguarded(tell, path, name, last, go):
    """The same by a program that looks, works and then writes."""
    won = []
    with closing(apsw.Connection(path)) as connection:
        connection.set_busy_timeout(10_000)
        connection.pragma("synchronous", "normal")
        tell("ready")
        go.wait()
        while (seen := connection.execute("SELECT coalesce(max(version), 1) FROM log").get) < last:
            time.sleep(STEP_S)
            connection.execute("INSERT INTO log VALUES (?, ?)", (name, seen + 1))
            won.append(seen + 1)
    tell((won, 0))


def compete(run, versions):
    """Two writers of one trace."""
    path = str(run.folder / "race.db")
    with es.open(path) as store:
        store.start({"log": []}, id="contested")
    found = hear_all([(race, path, name, versions + 1) for name in ("ana", "bo")])
    run.tick(versions)
    failures, winners = [], Counter(version for won, _ in found for version in won)
    with es.open(path) as store:
        log = store.state_at("contested")["log"]
        failures += [str(problem) for problem in store.verify().problems]
    for version, who in enumerate(log, 2):
        if winners[version] != 1 or version not in found[who == "bo"][0]:
            failures.append(f"version {version}: {winners[version]} winners, the log has {who}'s")
    if len(log) != len(winners):
        failures.append(f"{len(log)} appends in the log, {len(winners)} versions won")
    refusals = sum(lost for _, lost in found)
    twice, of = won_twice(run)
    return Result(
        "two writers of one trace",
        versions,
        0,
        "versions not won by exactly one",
        [f"seed {run.seed}, race: {text}" for text in failures],
        [Control("look, then write, unguarded: versions with two winners", twice, of)],
        f"{refusals:,} refusals (WrongExpectedVersion); won {len(found[0][0]):,} : {len(found[1][0]):,}",
    )


def won_twice(run):
    """How many of how many versions both got where nothing guards them."""
    path = plain_file(run.folder / "unguarded.db")
    found = hear_all([(race_unguarded, path, name, CONTROL_VERSIONS + 1) for name in ("ana", "bo")])
    winners = Counter(version for won, _ in found for version in won)
    return sum(times > 1 for times in winners.values()), len(winners)


def run(run):
    """All against all, and the race: a tenth of the appends."""
    found = [contend(run, run.size - run.size // 10), compete(run, run.size // 10)]
    for path in run.folder.iterdir():
        path.unlink()
    return found


CAMPAIGNS = [Campaign("contention", "many processes and threads write to one file", 40_000, 3_000, run)]
