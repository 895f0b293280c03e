"""The chat run: a bar for each system, of the time, the file and a read side by side."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pictures import Bar
from benchmarks.units import TIMES, figured, times

from .canvas import (
    HEAD_PX,
    MEDIUM,
    SMALL,
    WIDTH_PX,
    Theme,
    blank,
    heading,
    panel,
    remark,
    text,
)

ROW_PX = 32
NAMES_PX, VALUES_PX, RATIO_PX, GAP_PX = 246, 52, 46, 20


def chat(bars: Sequence[Bar], theme: Theme) -> Figure:
    """The picture of the bars, in their order."""
    height = HEAD_PX + ROW_PX * len(bars)
    figure = blank(height)
    heading(figure, 0, 12, f"A chat run of {bars[0].steps:,} steps", theme)
    remark(figure, 0, 30, "ratios to trace-eventstore; log scales", theme)
    panels = {
        "time to write it": ("wall_ms", [(bar.wall_ms, bar.wall_ratio) for bar in bars]),
        "its file": ("file_bytes", [(bar.file_bytes, bar.file_ratio) for bar in bars]),
        "reading its state": ("latest_us", [(bar.latest_us, bar.latest_ratio) for bar in bars]),
    }
    panel_px = (WIDTH_PX - NAMES_PX - GAP_PX * (len(panels) - 1)) / len(panels)
    for place, (head, (name, values)) in enumerate(panels.items()):
        left_px = NAMES_PX + place * (panel_px + GAP_PX)
        axes = panel(figure, (left_px, HEAD_PX, panel_px, ROW_PX * len(bars)), height)
        _bar_panel(axes, bars, values, name, panel_px, theme)
        heading(figure, left_px, 12, head, theme)
    for index, bar in enumerate(bars):
        middle = HEAD_PX + ROW_PX * (index + 0.5)
        weight = "bold" if bar.system == "engine" else "normal"
        color = theme.ours if bar.kind == "ours" else theme.text
        text(figure, 0, middle - 6, bar.title, size=MEDIUM, weight=weight, color=color)
        remark(figure, 0, middle + 8, bar.mode, theme)
    return figure


def _bar_panel(
    axes: Axes, bars: Sequence[Bar], values: Sequence[tuple[float, float]], name: str, panel_px: float, theme: Theme
) -> None:
    """One figure of every system: the ratio where the bar ends, the value in a column at the right."""
    numbers = [value for value, _ in values]
    least = min(numbers) / 2
    most = least * (max(numbers) / least) ** (panel_px / (panel_px - VALUES_PX - RATIO_PX))
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.set_visible(False)  # each bar says its value
    for index, (bar, (value, ratio)) in enumerate(zip(bars, values, strict=True)):
        is_engine = bar.system == "engine"
        fill = theme.ours if is_engine else {"ours": theme.ours_too, "floor": "none", "peer": theme.peer}[bar.kind]
        edge = theme.floor if bar.kind == "floor" else "none"
        axes.barh(index, value - least, left=least, height=0.56, facecolor=fill, edgecolor=edge, zorder=2)
        said = f"1{TIMES}" if is_engine else times(ratio)
        axes.annotate(
            said,
            (value, index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=MEDIUM,
            weight="bold",
            color=theme.ours if bar.kind == "ours" else theme.text,
        )
        axes.annotate(
            figured(value, name),
            (1, index),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            size=SMALL,
            color=theme.dim,
        )
