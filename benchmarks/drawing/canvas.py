"""What every picture shares: its width and colours, panels without frames, ticks in units, labels that do not meet.

Text is laid out by the metrics of a font that comes with matplotlib, so that every machine draws the same, and is
shown in the reader's own sans-serif, which is narrower.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from benchmarks.units import quantity, unit

WIDTH_PX = 830
PX_PER_INCH = 96
POINTS_PER_PX = 72 / PX_PER_INCH
FONT = "DejaVu Sans"
SHOWN_FONTS = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
BIG, MEDIUM, SMALL = 10.5, 9.0, 7.5
HEAD_PX, PANEL_HEAD_PX, TICKS_PX, FOOT_PX = 50, 40, 46, 24
LINE_PX = 13.5


class Theme(msgspec.Struct, frozen=True):
    """Colours. `families`: of peers, by the first word of their names; Okabe and Ito's, told apart by everyone."""

    text: str
    dim: str
    grid: str
    ours: str
    ours_too: str
    floor: str
    peer: str
    families: dict[str, str]


THEMES = {
    "light": Theme(
        text="#1f2328",
        dim="#656d76",
        grid="#d8dee4",
        ours="#0969da",
        ours_too="#6cb1ff",
        floor="#57606a",
        peer="#b8c0c8",
        families={
            "langgraph": "#d55e00",
            "dbos": "#009e73",
            "eventsourcing": "#a1528c",
            "burr": "#b58900",
            "salamander": "#4d9ac4",
        },
    ),
    "dark": Theme(
        text="#e6edf3",
        dim="#9198a1",
        grid="#30363d",
        ours="#4493f8",
        ours_too="#1f5aa8",
        floor="#8b949e",
        peer="#484f58",
        families={
            "langgraph": "#e8792b",
            "dbos": "#2bb98f",
            "eventsourcing": "#cc79a7",
            "burr": "#d9b036",
            "salamander": "#56b4e9",
        },
    ),
}


def blank(height_px: float) -> Figure:
    """A figure of this height, as clear as the page behind it."""
    figure = Figure(figsize=(WIDTH_PX / PX_PER_INCH, height_px / PX_PER_INCH), dpi=PX_PER_INCH)
    figure.set_facecolor("none")
    return figure


def panel(figure: Figure, box: tuple[float, float, float, float], height_px: float) -> Axes:
    """Axes at left, top, width and height in pixels, without a frame."""
    left, top, width, height = box
    axes = figure.add_axes((left / WIDTH_PX, 1 - (top + height) / height_px, width / WIDTH_PX, height / height_px))
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def ticks(axis: Any, places: Sequence[float], figure: str, theme: Theme) -> None:
    """Numbers with their unit at these places, and no marks."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FixedFormatter([quantity(place, unit(figure)) for place in places]))
    axis.set_tick_params(length=0, labelsize=SMALL, labelcolor=theme.dim, pad=4)


def decades(least: float, most: float) -> list[float]:
    """Round numbers between the two: powers of ten, fewer where they are many, and what is midway where they are few.

    >>> decades(8, 2000), decades(0.2, 8)
    ([10.0, 100.0, 1000.0], [0.3, 1.0, 3.0])
    """
    powers = [10.0**power for power in range(-3, 16)]
    found = [power for power in powers if least <= power <= most]
    if len(found) < 2:
        return [round(power * part, 9) for power in powers for part in (1, 3) if least <= power * part <= most]
    return found[:: 1 + len(found) // 7]


def heading(figure: Figure, left_px: float, top_px: float, words: str, theme: Theme) -> None:
    """What a picture or a column is about."""
    text(figure, left_px, top_px, words, size=BIG, weight="bold", color=theme.text)


def remark(figure: Figure, left_px: float, top_px: float, words: str, theme: Theme) -> None:
    """What is said in passing."""
    text(figure, left_px, top_px, words, size=SMALL, color=theme.dim)


def text(figure: Figure, left_px: float, top_px: float, words: str, **how: Any) -> None:
    """Words that begin so far from the left, their middle so far from the top."""
    height_px = figure.get_figheight() * PX_PER_INCH
    figure.text((left_px + 1) / WIDTH_PX, 1 - top_px / height_px, words, va="center", **how)


def fraction(axes: Axes, value: float) -> float:
    """How high a value stands in its panel, from 0 to 1."""
    at = axes.transAxes.inverted().transform(axes.transData.transform((1, value)))
    return float(at[1])


def spread_out(heights: Sequence[float], apart: float) -> list[float]:
    """Near the heights, in their order, and so far apart that labels do not meet.

    >>> [round(height, 2) for height in spread_out([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    groups: list[list[int]] = []
    order = sorted(range(len(heights)), key=heights.__getitem__)

    def centre(group: Iterable[int]) -> float:
        wanted = [heights[index] - apart * place for place, index in enumerate(group)]
        return sum(wanted) / len(wanted)

    for index in order:
        groups.append([index])
        while len(groups) > 1 and centre(groups[-2]) + apart * len(groups[-2]) > centre(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    found = {index: centre(group) + apart * place for group in groups for place, index in enumerate(group)}
    return [found[index] for index in range(len(heights))]
