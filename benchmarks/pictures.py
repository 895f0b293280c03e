"""The pictures of a run: what each shows, as data, and the SVG files, which carry that data with them.

Every picture holds the numbers that it was drawn from as its description. So whether a picture is what a run gives can
be checked by numbers, on any machine, though another version of the drawing library draws other paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

import msgspec

from .comparison import FLOORS, POLICIES, growths, is_peer
from .described import described, figures
from .results import BenchRun, Described
from .units import split

CHAT, GROWTH, FOLDING = "peers-chat", "growth", "fold-policies"
# In the table; in the picture they would say the same thing twice.
NOT_DRAWN = ("floor-normal", "engine-normal", "engine-run")
SHORT = {"eventsourcing-snapshots": "eventsourcing, snapshots"}
GROWN = ("step_us", "file_bytes", "latest_us", "at_us")
THEMES = ("light", "dark")
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


class Bar(msgspec.Struct, frozen=True):
    """A system's chat run. Ratios are to this engine. `kind`: ours, floor or peer."""

    system: str
    title: str
    mode: str
    kind: str
    steps: int
    wall_ms: float
    wall_ratio: float
    file_bytes: float
    file_ratio: float
    latest_us: float
    latest_ratio: float


class Curve(msgspec.Struct, frozen=True):
    """A figure of a system by step, and the exponent that it grows with."""

    figure: str
    system: str
    title: str
    kind: str
    points: list[tuple[int, float]]
    exponent: float


class Dot(msgspec.Struct, frozen=True):
    """A fold policy on one workload: what the file weighs, what restoring a random step takes."""

    workload: str
    policy: str
    file_bytes: float
    at_us: float


Data = Sequence[Bar] | Sequence[Curve] | Sequence[Dot]


def bars(run: BenchRun) -> list[Bar]:
    """The chat run by every system, the fastest first."""
    known = described(run)
    found = {(one.system, one.figure): one for one in figures(run, known) if one.case == CHAT}
    drawn = []
    for system, about in known.items():
        step = found.get((system, "step_us"))
        shown = [found.get((system, name)) for name in ("wall_ms", "file_bytes", "latest_us")]
        numbers = [
            _rounded(number)
            for one in shown
            if one is not None and one.to_engine is not None
            for number in (one.median, one.to_engine.median)
        ]
        if system not in NOT_DRAWN and step is not None and len(numbers) == 2 * len(shown):
            steps = step.samples // step.repeats
            drawn.append(Bar(system, _title(system, known), about.mode, kind(system), steps, *numbers))
    return sorted(drawn, key=lambda bar: bar.wall_ms)


def curves(run: BenchRun) -> list[Curve]:
    """What a step, a file and a read come to as a run grows."""
    known = described(run)
    growing = [one for one in growths(figures(run, known)) if one.case == GROWTH and one.axis == "steps"]
    return [
        Curve(
            one.figure,
            one.system,
            _title(one.system, known),
            kind(one.system),
            [(step, _rounded(value)) for step, value in sorted(one.points.items())],
            round(one.exponent, 2) + 0.0,  # no minus before a zero
        )
        for name in GROWN
        for one in growing
        if one.figure == name and one.system not in NOT_DRAWN and one.exponent is not None
    ]


def dots(run: BenchRun) -> list[Dot]:
    """The fold policies, workload by workload."""
    found = {
        (one.workload, one.system, split(one.figure).name): one.median for one in figures(run) if one.case == FOLDING
    }
    return [
        Dot(workload, policy.removeprefix(f"{POLICIES}-"), _rounded(size), _rounded(found[workload, policy, "at_us"]))
        for (workload, policy, figure), size in found.items()
        if figure == "file_bytes" and (workload, policy, "at_us") in found
    ]


PICTURES: dict[str, Callable[[BenchRun], Data]] = {"chat": bars, "growth": curves, "policies": dots}


def data(run: BenchRun) -> dict[str, Data]:
    """By picture, what it shows; a run without its case has no such picture."""
    found = {name: function(run) for name, function in PICTURES.items()}
    return {name: shown for name, shown in found.items() if shown}


def svgs(run: BenchRun) -> dict[str, str]:
    """By file name, every picture in every theme."""
    from .drawing import draw  # it imports matplotlib

    return {
        file_name(name, theme): draw(name, shown, theme, described_by=encoded(shown))
        for name, shown in data(run).items()
        for theme in THEMES
    }


def file_name(name: str, theme: str) -> str:
    """Where a picture is, in docs/."""
    return f"bench-{name}-{theme}.svg"


def encoded(shown: Data) -> str:
    """What a picture shows, as it carries it."""
    return msgspec.json.encode(shown).decode()


def carried(svg: str) -> str:
    """The data that a picture carries; empty where it has none."""
    found = ElementTree.fromstring(svg).find(f".//{DESCRIPTION}")
    return "" if found is None else found.text or ""


def kind(system: str) -> str:
    """Whose it is: ours, floor or peer."""
    if is_peer(system):
        return "peer"
    return "floor" if system.startswith(FLOORS) else "ours"


def _title(system: str, known: Mapping[str, Described]) -> str:
    return SHORT.get(system, known[system].title)


def _rounded(value: float, digits: int = 4) -> float:
    """So many digits: what a picture shows does not hang on the last bit of a float."""
    return float(f"{value:.{digits}g}")
