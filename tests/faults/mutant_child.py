"""A process that has imported the engine and opened nothing: for each order it forks, mutates the child and probes it.

`python -m tests.faults.mutant_child` reads orders, a JSON object a line, and tells what became of each: `caught` (a
law's own failure), `survived`, `does not apply`, or `hangs`, with the failure's text.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from . import probes_of_runs, probes_of_states, probes_of_truth, probes_of_writes  # noqa: F401 - to be in PROBES
from .mutants import MUTANTS
from .mutation import DoesNotApply, mutate
from .probes import PROBES

MOST_S = 30.0


def attempt(order):
    """Fork, mutate, probe; what came of it, as (verdict, text)."""
    reading, writing = os.pipe()
    born = os.fork()
    if born == 0:
        os.close(reading)
        verdict, text = "died", ""
        try:
            verdict, text = _probed(order)
        except BaseException:
            text = traceback.format_exc()
        finally:
            with os.fdopen(writing, "w") as out:
                json.dump([verdict, text], out)
            os._exit(0)
    os.close(writing)
    found = b""
    with os.fdopen(reading, "rb", buffering=0) as answers:
        while select.select([answers], [], [], MOST_S)[0]:
            more = answers.read(65536)
            if not more:
                break
            found += more
        else:
            os.kill(born, signal.SIGKILL)
            os.waitpid(born, 0)
            return ["hangs", f"no end within {MOST_S:.0f} s"]
    os.waitpid(born, 0)
    return json.loads(found) if found else ["died", "without a word"]


def _probed(order):
    warnings.simplefilter("ignore")
    if order["mutant"] is not None:
        try:
            mutate(MUTANTS[order["mutant"]].changes)
        except DoesNotApply as error:
            return "does not apply", str(error)
    folder = Path(tempfile.mkdtemp(dir=order["folder"]))
    try:
        PROBES[order["probe"]](folder)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "caught", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "survived", ""


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), flush=True)
