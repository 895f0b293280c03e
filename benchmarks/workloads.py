"""The work that every system is given: named, seeded, and shaped like what real agents do.

| workload | a step | |
| --- | --- | --- |
| chat | one message, three scalars | the list grows through a long run |
| small-runs | one message, three scalars | three steps a run, many runs |
| agent-runs | one message, three scalars | 6 to 62 steps a run, as real agents take |
| overwrite | eight of 2,000 keys | nothing grows, all is rewritten |
| document | one of forty sections of one document | the value is put whole: 40 kB |
| mixed | a message, eight keys, now and then the document | |
| transcripts | one message of a file of real runs | `--input FILE` |

Messages are as long as real ones: the median about 220 bytes, the longest 9 kB (a log-normal distribution, cut).
`Work` travels to a fresh process as JSON and is made there again.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from .workload import StepInput, words

State = dict[str, Any]

MEDIAN_BYTES = 220
SIGMA = 1.25
SHORTEST_BYTES, LONGEST_BYTES = 40, 9000
FEWEST_STEPS, MOST_STEPS = 6, 62
KEYS = 2000
SECTIONS = 40
CHAT: State = {"messages": [], "turn": 0, "spent": 0.0, "phase": "start"}


class Work(msgspec.Struct, frozen=True):
    """So many runs of a workload. `steps`: of each run, where the workload does not say how many.

    >>> [(run, len(steps)) for run, steps in Work("small-runs", runs=2).plan()]
    [('run-0', 3), ('run-1', 3)]
    """

    workload: str
    runs: int = 1
    steps: int = 1000
    seed: int = 1
    input: str = ""

    @property
    def state(self) -> State:
        """The state that each run starts with: a new one at each call."""
        return msgspec.json.decode(msgspec.json.encode(_INITIAL[self.workload]))  # type: ignore[no-any-return]

    def plan(self) -> Iterator[tuple[str, list[StepInput]]]:
        """Each run's id and steps; every process makes the same."""
        if self.workload == "transcripts":
            yield from islice(_transcripts(self.input), self.runs)
            return
        vocabulary = words(random.Random(self.seed))
        for index in range(self.runs):
            rng = random.Random(f"{self.workload} {self.seed} {index}")
            yield f"run-{index}", list(islice(_STEPS[self.workload](rng, vocabulary), _length(self, rng)))


def states(state: State, steps: list[StepInput]) -> Iterator[State]:
    """The state after each step by a toy model; one dict, changed as it goes."""
    now = {key: list(value) if isinstance(value, list) else value for key, value in state.items()}
    for step in steps:
        if step.message is not None:
            now["messages"].append(step.message)
        now.update(step.puts)
        yield now


def _length(work: Work, rng: random.Random) -> int:
    match work.workload:
        case "small-runs":
            return 3
        case "agent-runs":
            return min(MOST_STEPS, max(FEWEST_STEPS, round(rng.lognormvariate(3.2, 0.45))))
        case _:
            return work.steps


def _text(rng: random.Random, vocabulary: list[str], size: int) -> str:
    return " ".join(rng.choices(vocabulary, k=size // 3 + 1))[:size]


def _message(rng: random.Random, vocabulary: list[str], turn: int) -> dict[str, Any]:
    size = min(LONGEST_BYTES, max(SHORTEST_BYTES, round(rng.lognormvariate(0, SIGMA) * MEDIAN_BYTES)))
    return {"role": ("user", "assistant", "tool")[turn % 3], "content": _text(rng, vocabulary, size - 34)}


def _chat(rng: random.Random, vocabulary: list[str]) -> Iterator[StepInput]:
    spent, turn = 0.0, 0
    while True:
        turn += 1
        spent = round(spent + rng.random() / 100, 4)
        puts = {"turn": turn, "spent": spent, "phase": rng.choice(("ask", "search", "answer"))}
        yield StepInput(puts, _message(rng, vocabulary, turn))


def _overwrite(rng: random.Random, vocabulary: list[str]) -> Iterator[StepInput]:
    while True:
        keys = rng.sample(range(KEYS), 8)
        yield StepInput({f"key_{key:04d}": _text(rng, vocabulary, rng.randint(8, 60)) for key in keys})


def _document(rng: random.Random, vocabulary: list[str]) -> Iterator[StepInput]:
    sections = [_text(rng, vocabulary, 1000) for _ in range(SECTIONS)]
    revision = 0
    while True:
        revision += 1
        sections[rng.randrange(SECTIONS)] = _text(rng, vocabulary, rng.randint(500, 1500))
        yield StepInput({"document": {"revision": revision, "sections": list(sections)}})


def _mixed(rng: random.Random, vocabulary: list[str]) -> Iterator[StepInput]:
    sides = zip(_chat(rng, vocabulary), _overwrite(rng, vocabulary), _document(rng, vocabulary), strict=True)
    for chat, overwrite, document in sides:
        puts = {**chat.puts, **overwrite.puts}
        if rng.random() < 0.05:
            puts |= document.puts
        yield StepInput(puts, chat.message)


def _transcripts(path: str) -> Iterator[tuple[str, list[StepInput]]]:
    """Runs of a JSON Lines file (gzip or plain): a run a line, its `messages` the steps."""
    opened = gzip.open if path.endswith(".gz") else open
    with opened(Path(path), "rb") as lines:
        for index, line in enumerate(lines):
            messages = msgspec.json.decode(line)["messages"]
            yield f"run-{index}", [StepInput({"turn": turn}, one) for turn, one in enumerate(messages, 1)]


_STEPS: dict[str, Callable[[random.Random, list[str]], Iterator[StepInput]]] = {
    "chat": _chat,
    "small-runs": _chat,
    "agent-runs": _chat,
    "overwrite": _overwrite,
    "document": _document,
    "mixed": _mixed,
}
_KEYS: State = {f"key_{key:04d}": "" for key in range(KEYS)}
_INITIAL: dict[str, State] = {
    "chat": CHAT,
    "small-runs": CHAT,
    "agent-runs": CHAT,
    "overwrite": _KEYS,
    "document": {"document": {}},
    "mixed": CHAT | _KEYS | {"document": {}},
    "transcripts": {"messages": [], "turn": 0},
}
WORKLOADS = tuple(_INITIAL)
