"""Growth: a panel for each figure, a line for each system, named where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures import Curve

from .canvas import (
    FOOT_PX,
    LINE_PX,
    MEDIUM,
    PANEL_HEAD_PX,
    SMALL,
    TICKS_PX,
    WIDTH_PX,
    Theme,
    blank,
    decades,
    fraction,
    heading,
    panel,
    remark,
    spread_out,
    text,
    ticks,
)

SUPERSCRIPTS = str.maketrans("0123456789.-", "⁰¹²³⁴⁵⁶⁷⁸⁹·⁻")
TITLES = {
    "step_us": "the cost of a step",
    "file_bytes": "the file",
    "latest_us": "reading the latest state",
    "at_us": "reading the state at a step",
}
PANEL_PX, NAMES_PX = 250, 180


def growth(curves: Sequence[Curve], theme: Theme) -> Figure:
    """The picture of the curves, figure by figure."""
    names = list(dict.fromkeys(curve.figure for curve in curves))
    each = PANEL_HEAD_PX + PANEL_PX + FOOT_PX
    height = (len(names) + 1) // 2 * each + PANEL_HEAD_PX
    figure, half = blank(height), WIDTH_PX / 2
    heading(figure, 0, 12, "As a run grows to n steps", theme)
    remark(figure, 0, 30, "log scales; the exponent of n is fitted to each line", theme)
    for index, name in enumerate(names):
        left, top = half * (index % 2), PANEL_HEAD_PX + each * (index // 2)
        text(figure, left, top + 24, TITLES[name], size=MEDIUM, weight="bold", color=theme.text)
        box = (left + TICKS_PX, top + PANEL_HEAD_PX, half - TICKS_PX - NAMES_PX, PANEL_PX)
        axes = panel(figure, box, height)
        _curve_panel(axes, [curve for curve in curves if curve.figure == name], name, theme)
    return figure


def _curve_panel(axes: Axes, curves: Sequence[Curve], name: str, theme: Theme) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    steps = sorted({step for curve in curves for step, _ in curve.points})
    values = [value for curve in curves for _, value in curve.points]
    axes.set_xlim(steps[0] / 1.3, steps[-1] * 1.15)
    axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
    ticks(axes.xaxis, steps, "steps", theme)
    ticks(axes.yaxis, decades(*axes.get_ylim()), name, theme)
    axes.grid(color=theme.grid, linewidth=0.7)
    places = spread_out([fraction(axes, curve.points[-1][1]) for curve in curves], LINE_PX / PANEL_PX)
    for curve, place in zip(curves, places, strict=True):
        color, width, dashes = _line(curve, theme)
        xs, ys = zip(*curve.points, strict=True)
        how: Any = {"color": color, "linewidth": width, "linestyle": dashes, "clip_on": False, "zorder": 3}
        axes.plot(xs, ys, marker="o", markersize=width + 1, **how)
        axes.annotate(
            f"{_short(curve.title)}  n{f'{curve.exponent:.2f}'.translate(SUPERSCRIPTS)}",
            (xs[-1], ys[-1]),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            size=SMALL,
            color=color,
            weight="bold" if curve.system == "engine" else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.5,
                "alpha": 0.6,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _line(curve: Curve, theme: Theme) -> tuple[str, float, str]:
    """A line's colour, width and dashes: one colour for each family, one kind of dashes for each of its members."""
    if curve.kind == "floor":
        return theme.floor, 1.2, ":"
    if curve.kind == "ours":
        return theme.ours, 2.4 if curve.system == "engine" else 1.2, "-" if curve.system == "engine" else "--"
    family, _, member = curve.system.partition("-")
    dashes = {"": "-", "graph": "--", "delta": "-.", "snapshots": "--"}.get(member, ":")
    return theme.families.get(family, theme.dim), 1.3, dashes


def _short(title: str) -> str:
    title = title.removeprefix("the floor: ").replace("LangGraph SqliteSaver", "LangGraph")
    return title.replace(" as LangGraph's", ",")
