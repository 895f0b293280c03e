"""What this engine should reach against its peers: the aims, and the measures that say whether it does.

An aim compares one figure of a peer with the engine's of the same repeat, under FULL, whatever the peer's own mode is.
`fastest` compares with the best of all peers that have the figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import msgspec

from .result import Measure, Measurement, middle
from .systems import OURS

ENGINE = "engine"
FASTEST = "the best peer"


class Aim(msgspec.Struct, frozen=True):
    """A peer's figure is to be at least `target` times the engine's; `more`: the engine's that of the peer."""

    peer: str
    figure: str
    what: str
    target: float
    more: bool = False


AIMS: dict[str, tuple[Aim, ...]] = {
    "peers-chat": (
        Aim("langgraph", "wall_ms", "wall time", 5),
        Aim("eventsourcing", "wall_ms", "wall time", 1.6),
        Aim("langgraph", "file_bytes", "file", 80),
        Aim(FASTEST, "file_bytes", "file", 1),
        Aim(FASTEST, "latest_us", "latest state", 1),
        Aim(FASTEST, "at_us", "state at a step", 1),
    ),
    "peers-small-runs": (
        Aim("langgraph", "wall_ms", "wall time", 3),
        Aim("langgraph-graph", "wall_ms", "wall time", 3),
        Aim("dbos", "wall_ms", "wall time", 10),
        Aim("eventsourcing", "wall_ms", "wall time", 1.5),
    ),
    "contention": (Aim("langgraph", "steps_per_s@processes=4", "4 processes, steps a second", 2, more=True),),
}


def aims(case: str, found: Sequence[Measurement]) -> Iterator[Measure]:
    """The measures of a case's measurements; of a peer that was not measured there is none."""
    by_system: dict[str, dict[int, Measurement]] = {}
    for one in found:
        by_system.setdefault(one.system, {})[one.repeat] = one
    for aim in AIMS.get(case, ()):
        peers = [name for name in by_system if name not in OURS] if aim.peer == FASTEST else [aim.peer]
        ratios, best = _ratios(aim, peers, by_system)
        if ratios:
            name = f"{aim.what}, {aim.peer} to the engine" if not aim.more else f"{aim.what}, the engine to {aim.peer}"
            note = f"the best is {best}" if aim.peer == FASTEST else ""
            yield Measure(case, name, median(ratios), aim.target, "x", True, ratios, note)


def _ratios(aim: Aim, peers: list[str], by_system: dict[str, dict[int, Measurement]]) -> tuple[list[float], str]:
    """The ratios repeat by repeat of the peer whose median ratio is the smallest, and who that is."""
    best: tuple[float, list[float], str] | None = None
    for peer in peers:
        ratios = []
        for repeat, ours in by_system.get(ENGINE, {}).items():
            theirs = by_system.get(peer, {}).get(repeat)
            if theirs is not None and aim.figure in theirs.figures and aim.figure in ours.figures:
                pair = middle(theirs.figures[aim.figure]), middle(ours.figures[aim.figure])
                ratios.append(pair[1] / pair[0] if aim.more else pair[0] / pair[1])
        if ratios and (best is None or median(ratios) < best[0]):
            best = median(ratios), ratios, peer
    return (best[1], best[2]) if best else ([], "")
