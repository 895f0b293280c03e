"""Fold policies: a panel for each workload, what a file weighs against what a restore takes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures import Dot

from .canvas import (
    FOOT_PX,
    HEAD_PX,
    LINE_PX,
    MEDIUM,
    PANEL_HEAD_PX,
    POINTS_PER_PX,
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

PANEL_PX, NAMES_PX = 180, 52


def policies(dots: Sequence[Dot], theme: Theme) -> Figure:
    """The picture of the dots, workload by workload."""
    workloads = list(dict.fromkeys(dot.workload for dot in dots))
    height = HEAD_PX + PANEL_HEAD_PX + PANEL_PX + FOOT_PX
    figure, each = blank(height), WIDTH_PX / len(workloads)
    heading(figure, 0, 12, "When to fold the log into a base", theme)
    remark(figure, 0, 30, "up: restoring a step; to the right: the file; log scales", theme)
    for index, workload in enumerate(workloads):
        text(figure, each * index, HEAD_PX + 12, workload, size=MEDIUM, weight="bold", color=theme.text)
        box = (each * index + TICKS_PX, HEAD_PX + PANEL_HEAD_PX, each - TICKS_PX - NAMES_PX, PANEL_PX)
        _dot_panel(panel(figure, box, height), [dot for dot in dots if dot.workload == workload], theme)
    return figure


def _dot_panel(axes: Axes, dots: Sequence[Dot], theme: Theme) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes, reads = [dot.file_bytes for dot in dots], [dot.at_us for dot in dots]
    axes.set_xlim(min(sizes) / 1.4, max(sizes) * 1.4)
    axes.set_ylim(min(reads) / 1.4, max(reads) * 1.4)
    ticks(axes.xaxis, decades(*axes.get_xlim()), "file_bytes", theme)
    ticks(axes.yaxis, decades(*axes.get_ylim()), "at_us", theme)
    axes.grid(color=theme.grid, linewidth=0.7)
    heights = [fraction(axes, dot.at_us) for dot in dots]
    for dot, height, place in zip(dots, heights, spread_out(heights, LINE_PX / PANEL_PX), strict=True):
        is_ours = dot.policy == "adaptive"
        color = theme.ours if is_ours else theme.floor
        axes.plot(dot.file_bytes, dot.at_us, "o", color=color, markersize=8 if is_ours else 6, zorder=3, clip_on=False)
        axes.annotate(
            dot.policy.replace("-", " "),
            (dot.file_bytes, dot.at_us),
            xytext=(7, (place - height) * PANEL_PX * POINTS_PER_PX),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=color,
            weight="bold" if is_ours else "normal",
        )
