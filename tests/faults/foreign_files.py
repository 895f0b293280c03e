"""Files from someone else: damaged, hostile, or no event stores at all.

Each case is made from a sample by a seed: bits flipped, pages swapped, cell pointers and header fields bent; or by
hand-made SQL (views, triggers and columns that run functions, tables that are none, cycles, absurd numbers); or it is
a dump with bent lines, or nothing of the kind. A worker (one process for many cases, its memory and time bounded) puts
it through the commands that a careful person would try first. Each has to end well, or with one line that says why:
no crash, no endless walk, no traceback, and no function of the file's own called: every connection to the file has a
canary, and an authorizer that tells of views and triggers. The control is the same file, read as one reads one's own.
"""

from __future__ import annotations

import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor

from .campaign import Campaign, Control, Result
from .foreign_cases import Makers
from .foreign_worker import Worker

TRACES = ("chat", "fork-2", "trimmed", "run-retry", "ask", "ended", "big", "fork-ask")
ALWAYS = (["verify"], ["export", "jsonl", "{out}.jsonl"], ["export", "sqlite", "{out}.analysis"], ["runs"])
CEILING = 400
OF_A_TRACE = (["state"], ["log"], ["state", "--json"], ["log", "--json"], ["timeline"], ["diff"], ["checkpoints"])
OF_THE_FILE = (["stats"], ["threads"], ["barriers"], ["verify", "--json"], ["runs", "--json"])


def commands_for(case, rng):
    """The commands of a case, `{out}` standing for files to write."""
    if case.is_dump:
        return [
            ["--db", "{out}.db", "import", str(case.file)],
            ["--db", "{out}.db", "import", "--skip-bad", str(case.file)],
        ]
    trace = rng.choice(TRACES)
    others = [rng.choice(OF_A_TRACE), rng.choice(OF_A_TRACE)]
    commands = [*ALWAYS, rng.choice(OF_THE_FILE), *([name, trace, *more] for name, *more in others)]
    if rng.random() < 0.05:
        commands.append(["blame", trace, "last"])
    return [["--db", str(case.file), *command] for command in commands]


def run(run):
    """The campaign: cases in two workers."""
    makers = Makers(run)
    counts = {"ok": 0, "refused": 0}
    failures, bitten, naive_tried = [], 0, 0
    distinct = set()
    share = 1 if run.size <= 200 else 2  # of a few cases, each is needed to bite the control
    numbers = itertools.count()
    size = run.size

    def work(worker):
        nonlocal bitten, naive_tried
        try:
            while (number := next(numbers)) < size:
                case = makers.case(number)
                distinct.add(hash(case.file.read_bytes()))
                out = run.folder / f"out-{number}"
                commands = [[part.format(out=out) if part.startswith("{out}") else part for part in command]
                            for command in commands_for(case, run.rng("commands", number))]  # fmt: skip
                tries_naively = not case.is_dump and number % share == 0
                answer = worker.ask({"file": str(case.file), "commands": commands, "naive": tries_naively})
                where = f"seed {run.seed}, case {number} ({case.what})"
                if isinstance(answer, str):
                    failures.append(f"{where}: {answer}")
                else:
                    for ended in answer["ended"]:
                        if ended in counts:
                            counts[ended] += 1
                        else:
                            failures.append(f"{where}: {ended}")
                    naive_tried += tries_naively
                    bitten += bool(answer["naive"])
                for left in itertools.chain(run.folder.glob(f"case-{number}.*"), run.folder.glob(f"out-{number}*")):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                run.tick(1)
        finally:
            worker.end()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, Worker()) for _ in range(2)]:
            done.result()
    controls = [
        Control(
            "the same files read naively: code run, hangs, odd exceptions", *bites(run, makers, bitten, naive_tried)
        ),
        Control("this engine, its guards off", *bites(run, makers, 0, 0, is_weak=True)),
    ]
    lost = "crashes, hangs, tracebacks or code run"
    notes = f"{counts['ok']:,} commands did well, {counts['refused']:,} said why not"
    return [Result("foreign files through the commands", size, len(distinct), lost, failures, controls, notes)]


def bites(run, makers, bitten, tried, *, is_weak=False):
    """Go on with hostile SQL until something bites; how many did, of how many."""
    worker = Worker(is_weak=is_weak)
    try:
        while not bitten and tried < CEILING:
            number = run.size + tried
            case = makers.sql(number, run.rng("case", number), run.folder / f"case-{number}.db")
            commands = [["--db", str(case.file), *command] for command in (["verify"], ["runs"], ["state", "chat"])]
            answer = worker.ask({"file": str(case.file), "commands": commands * is_weak, "naive": not is_weak})
            ended = [answer] if isinstance(answer, str) else answer["naive"] + answer["ended"]
            bitten += any(one not in ("ok", "refused") for one in ended)
            tried += 1
            case.file.unlink()
    finally:
        worker.end()
    return bitten, tried


CAMPAIGNS = [Campaign("foreign-files", "damaged and hostile files, dumps and others", 2000, 60, run)]
