"""The floor: the least that any store of this kind does.

Bare apsw and msgspec, a row a step in WAL, and every read folds the rows. No guards, no chain, no bases.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import apsw
import msgspec

from benchmarks.floor import DIGEST, INSERT, SCHEMA, Control, Delta, Executed
from benchmarks.workload import StepInput

from .system import Durability, State, System, timed


class Floor(System):
    """Bare apsw and msgspec, FULL."""

    title = "the floor: bare apsw + msgspec"
    mode = "WAL, FULL"
    durability: ClassVar[Durability] = "full"

    def __init__(self, path: str) -> None:
        self._connection = apsw.Connection(path)
        self._connection.set_busy_timeout(60_000)
        self._connection.pragma("page_size", 4096)
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", self.durability)
        self._connection.execute(SCHEMA.replace("TABLE", "TABLE IF NOT EXISTS"))
        self._execute = self._connection.execute
        self._encode = msgspec.json.Encoder().encode
        self._number = random.Random().getrandbits

    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        trace, seq = _number_of(run), 1

        def insert(events: list[Any]) -> None:
            nonlocal seq
            body = self._encode(events).decode()
            row = (trace, seq, len(events), self._number(63), time.time_ns() // 1000, DIGEST, body)
            self._execute(INSERT, row)
            seq += len(events)

        def write(step: StepInput) -> None:
            events: list[Any] = [] if step.message is None else [Delta("messages", "append", [step.message])]
            events += [Delta(key, value=value) for key, value in step.puts.items()]
            events.append(Control("node_executed", Executed("answer", duration_ms=0.012)))
            insert(events)

        insert([Delta(key, value=value) for key, value in state.items()])
        return timed(write, steps)

    def latest(self, run: str) -> State:
        *_, last = self._states(run)
        return last

    def at(self, run: str, step: int) -> State:
        for number, state in enumerate(self._states(run)):
            if number == step:
                return state
        raise LookupError(step)

    def history(self, run: str) -> Iterator[State]:
        states = self._states(run)
        next(states)
        return ({key: list(value) if key == "messages" else value for key, value in now.items()} for now in states)

    def close(self) -> None:
        self._connection.close()

    def _states(self, run: str) -> Iterator[State]:
        """The state after each row: one dict, changed as it goes."""
        state: State = {}
        decode = msgspec.json.Decoder().decode
        rows = self._execute("SELECT body FROM log WHERE trace = ? ORDER BY first_seq", (_number_of(run),))
        for (body,) in rows:
            for event in decode(body):
                if event.get("op") == "append":
                    state[event["key"]] += event["value"]
                elif "key" in event:
                    state[event["key"]] = event["value"]
            yield state


class FloorNormal(Floor):
    """Bare apsw and msgspec, NORMAL."""

    title = "the floor, NORMAL"
    mode = "WAL, NORMAL"
    durability = "normal"


def _number_of(run: str) -> int:
    return int(run.rpartition("-")[2])
