"""Bodies and values that no engine wrote, at every door that bytes come in through.

A payload is JSON or msgpack bent by a seed: too deep, too long, cut short, of huge numbers, double keys, lone
surrogates, NULs, extensions, headers that announce billions of items, or events that are none. Each is decoded by
itself and then goes through one more door: rows of a file with valid digests, bases and roots with valid checksums, a
dump with valid sums, a transcript, the command line, the API, LangGraph's blobs. Only documented errors may come out,
nothing may be built that a blob names, and what was taken has to verify. The control is the same payload in the hands
of the decoders alone.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .campaign import Campaign, Control, Result, Run
from .foreign_worker import PATIENCE_S, Hang, Worker, limit_memory, patient_for, rings
from .hostile_doors import DOORS, Doors
from .hostile_payloads import BATCH, payload


def batch_of(seed, number):
    rng = Run(0, seed, Path(), lambda _: None).rng("payloads", number)
    return [payload(rng) for _ in range(BATCH)]


def worker():
    """Batches from stdin; what came out of the doors to stdout."""
    limit_memory()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, rings)
    doors = None
    for line in sys.stdin:
        asked = json.loads(line)
        doors = doors or Doors(Path(asked["folder"]))
        batch = batch_of(asked["seed"], asked["number"])
        failures = tried(doors, asked["door"], batch)
        print(json.dumps({"failures": failures, "naive": sum(naively(data) for _, data in batch)}), flush=True)


def tried(doors, door, batch):
    """The failures of a batch: at the decoders, and at one door; payload by payload where the batch fails."""
    failures = []
    for index, (name, data) in enumerate(batch):
        if told := through(lambda data=data: doors.decoded(data)):
            failures.append(f"decoders, payload {index} ({name}): {told}")
    pass_through = getattr(doors, door)
    if through(lambda: pass_through([data for _, data in batch])):
        alone = [(index, name, through(lambda data=data, index=index: pass_through([b"[]"] * index + [data])))
                 for index, (name, data) in enumerate(batch)]  # fmt: skip
        failures += [f"{door}, payload {index} ({name}): {told}" for index, name, told in alone if told]
        if not any(told for *_, told in alone):
            failures.append(f"{door}: the batch fails, no payload alone does")
    return failures


def through(work):
    """What came out that should not, in words; empty where nothing did."""
    patient_for(4 * PATIENCE_S)
    try:
        work()
    except Hang:
        return "hang"
    except Exception as error:
        where = error.__traceback__
        while where.tb_next is not None:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
        return f"{type(error).__name__}: {str(error)[:250]} ({place})"
    finally:
        patient_for(0)
    return ""


def naively(data):
    """Whether a fold that trusts what the decoders give raises what is not theirs."""
    try:
        found = json.loads(data) if data[:1] < b"\x80" else msgspec.msgpack.decode(data)
        state = {}
        for event_ in found:
            if event_.get("kind", "delta") == "delta":
                state[event_["key"]] = event_["value"] + state.get(event_["key"], 0)
        msgspec.json.encode(state)
    except (msgspec.MsgspecError, json.JSONDecodeError):
        return False
    except Exception:
        return True
    return False


def run(run):
    """The campaign: batches in two workers, each batch at the decoders and one door."""
    failures, naive, doors_tried = [], 0, Counter()
    batches = list(range(max(1, -(-run.size // BATCH))))
    distinct = {hash(data) for number in batches for _, data in batch_of(run.seed, number)}

    def work(worker, numbers, folder):
        nonlocal naive
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for number in numbers:
                door = DOORS[number % len(DOORS)]
                answer = worker.ask({"seed": run.seed, "number": number, "door": door, "folder": str(folder)})
                where = f"seed {run.seed}, batch {number}, "
                if isinstance(answer, str):
                    failures.append(f"{where}{door}: {answer}")
                else:
                    failures.extend(where + told for told in answer["failures"])
                    naive += answer["naive"]
                doors_tried[door] += BATCH
                run.tick(BATCH)
        finally:
            worker.end()

    with ThreadPoolExecutor(2) as pool:
        shares = [
            pool.submit(work, Worker("tests.faults.hostile_bodies"), batches[part::2], run.folder / f"doors-{part}")
            for part in (0, 1)
        ]
        for share in shares:
            share.result()
    tried_count = BATCH * len(batches)
    control = Control("the same payloads in a program that trusts its decoders: other exceptions", naive, tried_count)
    notes = ", ".join(f"{door} {count:,}" for door, count in sorted(doors_tried.items()))
    lost = "undocumented errors, hangs or objects built"
    return [Result("hostile bodies at every door", tried_count, len(distinct), lost, failures, [control], notes)]


CAMPAIGNS = [Campaign("hostile-bodies", "fuzzed payloads at every door", 20_000, 800, run)]

if __name__ == "__main__" and sys.argv[1:] == ["worker"]:
    worker()
