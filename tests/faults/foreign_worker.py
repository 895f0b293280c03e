"""A process that puts files from others through the commands: bounded in memory and time, its connections watched.

Each connection to the file has a canary, a function that only the file itself would call, and an authorizer that
tells of views and triggers. A process that dies or hangs is seen by its parent, and replaced.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import apsw
from click.testing import CliRunner

from eventstore import database
from eventstore.database import Database

from .foreign_sql import CANARY

ADDRESS_SPACE_BYTES = 1024**3
PATIENCE_S = 10
UNFORESEEN = re.compile(r"unexpected \w+: |Traceback|MemoryError")


class Hang(BaseException):
    """It took too long; no handler of the engine's takes it for an error."""


def rings(*_):
    raise Hang


def patient_for(seconds):
    """Ring after so much time of the processor's, not of the clock: others may be at work. 0: not at all."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


class Watch:
    """What runs of a file's own: the canary, views, triggers."""

    def __init__(self):
        self.path = ""
        self.seen = []

    def hook(self, connection):
        if connection.filename != self.path:
            return
        connection.create_scalar_function(CANARY, lambda *_: self.seen.append("the canary was called"), -1)
        connection.authorizer = self.authorize

    def authorize(self, operation, one, other, database, inner):
        if inner is not None:
            self.seen.append(f"{inner} was used")
        if operation == apsw.SQLITE_FUNCTION and other in (
            "load_extension",
            "edit",
            "readfile",
            "writefile",
            "fts3_tokenizer",
        ):
            self.seen.append(f"{other} was used")
        return apsw.SQLITE_OK


def worker(*, is_weak=False):
    """Cases from stdin, a JSON line each; what became of their commands to stdout."""
    limit_memory()
    if is_weak:
        drop_guards()
    warnings.simplefilter("ignore")
    from eventstore.cli.app import main

    signal.signal(signal.SIGPROF, rings)
    watch = Watch()
    apsw.connection_hooks.append(watch.hook)
    for line in sys.stdin:
        asked = json.loads(line)
        watch.path, watch.seen = asked["file"], []
        ended = [outcome(main, command, watch) for command in asked["commands"]]
        naive = naively(asked["file"], watch) if asked["naive"] else []
        print(json.dumps({"ended": ended, "naive": naive}), flush=True)


def drop_guards():
    """For a control: this process takes a file from others for its own."""
    connect = Database._connect

    def trusting(self):
        connection = connect(self)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 1)
        return connection

    Database._connect = trusting
    for guard in ("harden", "refill", "check_schema"):
        setattr(database, guard, lambda *_: None)


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def outcome(main, command, watch):
    """`ok`, `refused`, or what went wrong."""
    patient_for(PATIENCE_S)
    try:
        result = CliRunner().invoke(main, command)
    except Hang:
        return f"hang: {command}"
    finally:
        patient_for(0)
    told = result.stderr
    if watch is not None and watch.seen:
        return f"{watch.seen[0]}: {command}"
    if UNFORESEEN.search(told):
        return f"{told.strip()[-300:]}: {command}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"{type(result.exception).__name__}: {result.exception}: {command}"[:400]
    if result.exit_code == 0:
        return "ok"
    if result.exit_code in (1, 2) and result.output.strip():
        return "refused"
    return f"exit {result.exit_code} without a word: {command}"


def naively(path, watch):
    """The file as one reads one's own: its views, Python's json; nothing is bounded. What bit."""
    bites = []
    watch.path, before = "", watch.seen
    connection = None
    patient_for(2)
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        connection.create_scalar_function(CANARY, lambda *_: bites.append("executed"), -1)
        connection.set_progress_handler(lambda: False, 100_000)  # so that the alarm is heard
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('view', 'table')").fetchall()
        for (name,) in names:
            with suppress(apsw.Error):
                for row in connection.execute(f'SELECT * FROM "{name}"'):
                    for value in row:
                        if isinstance(value, str) and value[:1] in ("[", "{"):
                            json.loads(value)
    except apsw.Error:
        pass  # it is told that the file is damaged, as it should be
    except Hang:
        bites.append("hang")
    except Exception as error:
        bites.append(type(error).__name__)
    finally:
        patient_for(0)
        if connection is not None:
            connection.close(True)
    watch.seen = before
    return sorted(set(bites))


class Worker:
    """A child that puts cases through the commands; one that dies or hangs is replaced."""

    def __init__(self, module="tests.faults.foreign_worker", *, is_weak=False):
        self.arguments = [module, "worker", *["weak"] * is_weak]
        self.child = None

    def ask(self, question):
        """The answer; or, as a string, how the child ended."""
        if self.child is None:
            here = str(Path(__file__).parents[2])
            environment = {**os.environ, "PYTHONPATH": here, "COLUMNS": "100"}
            environment.pop("EVENTSTORE_DEBUG", None)
            self.child = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=here,
            )  # fmt: skip
        self.child.stdin.write(json.dumps(question).encode() + b"\n")
        self.child.stdin.flush()
        if not select.select([self.child.stdout], [], [], 8 * PATIENCE_S)[0]:
            self.end()
            return "hang that no alarm ends"
        line = self.child.stdout.readline()
        if line:
            return json.loads(line)
        told = self.child.stderr.read().decode("utf-8", "replace").strip()[-300:]
        code = self.child.wait()
        self.child = None
        return f"the process died ({code}): {told}"

    def end(self):
        """End the child, if there is one."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None


if __name__ == "__main__" and sys.argv[1:2] == ["worker"]:
    worker(is_weak="weak" in sys.argv)
