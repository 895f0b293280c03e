"""Figures for people: the unit that a figure's name ends in, and a number of it at a size that can be read.

A name is what is measured and its unit, `step_us`, and what it is counted by, `bytes_per_step`; `step_us@1000` is that
figure at the 1,000th step, `step_us@traces=50` with 50 traces in the file.
"""

from __future__ import annotations

from typing import NamedTuple

TIMES = "\N{MULTIPLICATION SIGN}"
UNITS = ("us", "ms", "s", "bytes")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RATES = ("_per_s", "fairness")
_LABELS = {
    "wall_ms": "whole run",
    "cpu_us_per_step": "CPU a step",
    "open_latest_us": "open + latest",
    "at_us": "state at a step",
    "latest_us": "latest state",
    "history_ms": "every state",
    "peak_bytes": "peak memory",
    "bytes_per_step": "written a step",
    "steps_per_s": "steps a second",
}


class Place(NamedTuple):
    """A figure, and where it was taken: at so many of what `axis` names, if anywhere."""

    name: str
    at: int | None = None
    axis: str = ""


def split(figure: str) -> Place:
    """A figure's name without its place, and the place.

    >>> split("step_us@1000"), split("step_us@traces=50")
    (Place(name='step_us', at=1000, axis='steps'), Place(name='step_us', at=50, axis='traces'))
    """
    name, at, place = figure.partition("@")
    axis, _, count = place.rpartition("=")
    return Place(name, int(count), axis or "steps") if at else Place(name)


def unit(figure: str) -> str:
    """One of UNITS, or nothing for what is only counted.

    >>> [unit(name) for name in ("step_us", "file_bytes@100", "cpu_us_per_step", "syncs_per_step", "steps_per_s")]
    ['us', 'bytes', 'us', '', '']
    """
    last = split(figure).name.partition("_per_")[0].rpartition("_")[2]
    return last if last in UNITS else ""


def label(figure: str) -> str:
    """What a table's head calls it.

    >>> label("last_step_us"), label("syncs_per_step"), label("file_bytes@1000"), label("links_read")
    ('last step', 'syncs a step', 'file at 1,000 steps', 'links read')
    """
    name, at, axis = split(figure)
    told = _LABELS.get(name)
    if told is None:
        head, per, tail = name.partition("_per_")
        what = head if head in UNITS or not unit(name) else head.removesuffix(f"_{unit(name)}")
        told = (what + (" a " + tail if per else "")).replace("_", " ")
    return told if at is None else f"{told} at {at:,} {axis}"


def is_better_high(figure: str) -> bool:
    """Whether more of it is better: rates are, all else is a cost."""
    return split(figure).name.endswith(_RATES)


def number(value: float) -> str:
    """Three digits, or all of those before the point.

    >>> number(0.01234), number(7.0), number(15.26), number(1234.5)
    ('0.0123', '7', '15.3', '1,234')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def quantity(value: float, of_unit: str) -> str:
    """A number at its size.

    >>> quantity(1532, "us"), quantity(0.4, "ms"), quantity(251_000_000, "bytes"), quantity(2, "")
    ('1.53 ms', '400 µs', '251 MB', '2')
    """
    if of_unit == "bytes":
        scale, name = _at_size(value, (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)))
    elif of_unit in _SECONDS:
        value *= _SECONDS[of_unit]
        scale, name = _at_size(value, (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)))
    else:
        return number(value)
    return f"{number(value / scale)} {name}"


def figured(value: float, figure: str) -> str:
    """A figure's value with its unit."""
    return quantity(value, unit(figure))


def times(ratio: float) -> str:
    """A ratio, and the sign that says so.

    >>> [times(ratio)[:-1] for ratio in (173.4, 7.449, 0.268, 1.0, 12.3)]
    ['173', '7.4', '0.27', '1.0', '12']
    """
    digits = 0 if ratio >= 9.95 else 1 if ratio >= 0.995 else 2
    return f"{ratio:,.{digits}f}{TIMES}"


def _at_size(value: float, sizes: tuple[tuple[str, float], ...]) -> tuple[float, str]:
    """The largest unit that the value has at least one of, once rounded to three digits; else the smallest."""
    fitting = [(scale, name) for name, scale in sizes if abs(value) >= scale * 0.9995]
    name, scale = sizes[0]
    return fitting[-1] if fitting else (scale, name)
