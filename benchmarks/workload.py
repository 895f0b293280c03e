"""What the measured systems write: seeded, so that every process makes the same run.

A chat step appends one message of random words and puts three scalars; a small step puts two to four
small scalars among twenty keys. Words are drawn at random because repeated text would flatter anything
that compresses. `fold` is a toy model that shares no code with the engine: what a system reads back
must equal it.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

import eventstore as es

SMALL_KEYS = 20


class WrongResult(Exception):
    """A system read back something else than was written."""


class StepInput(msgspec.Struct, frozen=True):
    """What one step writes."""

    puts: dict[str, Any]
    message: dict[str, Any] | None = None

    def write(self, step: es.Step) -> None:
        """Write it through the engine."""
        if self.message is not None:
            step.put("messages", [self.message])
        for key, value in self.puts.items():
            step.put(key, value)

    def deltas(self) -> list[es.StateDelta]:
        """The deltas that the log should hold of it."""
        first = [] if self.message is None else [es.StateDelta.append("messages", [self.message])]
        return first + [es.StateDelta.put(key, value) for key, value in self.puts.items()]


CHAT_STATE: dict[str, Any] = {"messages": [], "turn": 0, "spent": 0.0, "phase": "start"}
CHAT_REDUCERS = {"messages": es.Reducer.APPEND}
SMALL_STATE: dict[str, Any] = {f"key_{index:02d}": 0 for index in range(SMALL_KEYS)}


def words(rng: random.Random) -> list[str]:
    """4,096 random words: repeated text would flatter anything that compresses."""
    letters = string.ascii_lowercase
    return ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(4096)]


def chat(steps: int, message_bytes: int = 500, seed: int = 1) -> Iterator[StepInput]:
    """Chat steps; each message is `message_bytes` of JSON."""
    rng = random.Random(seed)
    vocabulary = words(rng)
    spent = 0.0
    for turn in range(1, steps + 1):
        role = "user" if turn % 2 else "assistant"
        room = message_bytes - len(msgspec.json.encode({"role": role, "content": ""}))
        content = " ".join(rng.choices(vocabulary, k=room // 3))[:room]
        spent = round(spent + rng.random() / 100, 4)
        phase = rng.choice(("ask", "search", "answer"))
        yield StepInput({"turn": turn, "spent": spent, "phase": phase}, {"role": role, "content": content})


def small(steps: int, seed: int = 1) -> Iterator[StepInput]:
    """Steps of two to four small scalars; their sizes do not drift as the run grows."""
    rng = random.Random(seed)
    vocabulary = words(rng)
    keys = list(SMALL_STATE)
    makers = (
        lambda: rng.randint(0, 999),
        lambda: round(rng.random(), 3),
        lambda: rng.choice(vocabulary),
        lambda: rng.random() < 0.5,
    )
    for _ in range(steps):
        yield StepInput({key: rng.choice(makers)() for key in rng.sample(keys, rng.randint(2, 4))})


def fold(state: dict[str, Any], steps: Iterable[StepInput]) -> dict[str, Any]:
    """The state that the steps should leave; `state` itself stays as it is."""
    result = {key: list(value) if isinstance(value, list) else value for key, value in state.items()}
    for step in steps:
        if step.message is not None:
            result["messages"].append(step.message)
        result.update(step.puts)
    return result


def check(what: str, found: object, expected: object) -> None:
    """Raise WrongResult unless the two are equal."""
    if found != expected:
        raise WrongResult(f"{what}: {str(found)[:200]} is not {str(expected)[:200]}")
