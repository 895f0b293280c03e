"""Drawing what a picture shows: log scales, labels where the thing stands, a light and a dark theme, one width.

Nothing but the data has weight: no frames, no legends, the units at the ticks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.pictures import Data

from .bars import chat
from .canvas import FONT, SHOWN_FONTS, THEMES, Theme
from .curves import growth
from .dots import policies

STYLE: Any = {
    "font.family": FONT,
    "svg.fonttype": "none",
    "svg.hashsalt": "trace-eventstore",
    "path.simplify": False,
}
TITLES = {
    "chat": "A chat run by every system: time and file",
    "growth": "Costs as a run grows, by system",
    "policies": "Fold policies: the file against a restore",
}
PICTURES: dict[str, Callable[[Any, Theme], Figure]] = {"chat": chat, "growth": growth, "policies": policies}


def draw(name: str, shown: Data, theme: str, *, described_by: str) -> str:
    """The picture as SVG; the same data give the same bytes."""
    metadata = {"Title": TITLES[name], "Description": described_by, "Date": None, "Creator": None}
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        PICTURES[name](shown, THEMES[theme]).savefig(out, format="svg", metadata=metadata)
    return _small(out.getvalue())


def _small(svg: str) -> str:
    """The same picture in fewer bytes, in the reader's own font; its data stay as they are."""
    data, end, drawn = svg.partition("</metadata>")
    drawn = drawn.replace(f"font-family: '{FONT}'; ", "")
    drawn = drawn.replace("</style>", f" text{{font-family: {SHOWN_FONTS}}}</style>", 1)
    drawn = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", drawn)  # turned by nothing
    drawn = re.sub(r"(\d+\.\d\d)\d+", r"\1", drawn)
    drawn = re.sub(r'\s*<g id="\w+"/>', "", drawn)
    drawn = re.sub(r'<g id="(?:line2d|text|patch|[xy]tick|matplotlib\.axis)_\d+">', "<g>", drawn)  # referred to by none
    return "\n".join(line.strip() for line in f"{data}{end}{drawn}".splitlines()) + "\n"
