"""An axis of active time: what ran keeps its length, and the stretches between are cut.

A run may take seconds and wait for days; drawn to scale, its nodes would vanish. So every stretch in which nothing
ran gets at most one small width, the same for all, and together they get at most a third of the axis. A cut is
told as a break where it hides something: more than that width would show, and more than an eye would notice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

NOTICED_US = 100_000


class Break(NamedTuple):
    """A cut: its place on the axis (0 to 1) and its real length."""

    place: float
    length_us: int


class Axis:
    """Where times stand on an axis of width 1. Times are microseconds since 1970.

    `active`: the stretches in which something ran; `points`: other times that must be on it; `share`: how wide a
    cut may be, as a part of all activity.

    >>> hour_us = 3_600_000_000
    >>> axis = Axis([(0, 1_000_000), (hour_us, hour_us + 1_000_000)], share=0.1)
    >>> [round(axis.place(at), 2) for at in (0, 1_000_000, hour_us, hour_us + 1_000_000)], in_words(axis.breaks[0][1])
    ([0.0, 0.45, 0.55, 1.0], '59 min 59 s')
    """

    def __init__(self, active: Iterable[tuple[int, int]], points: Iterable[int] = (), *, share: float = 1 / 40) -> None:
        stretches = _merged(active)
        ends = [at for stretch in stretches for at in stretch] + list(points)
        self.active_us = sum(stop - start for start, stop in stretches)
        pieces = _with_gaps(stretches, min(ends, default=0), max(ends, default=0))
        gaps = sum(is_gap for _, _, is_gap in pieces)
        cut = self.active_us * min(share, 0.5 / gaps) if gaps else 0.0
        widths = [
            float(stop - start) if not is_gap else min(float(stop - start), cut) if self.active_us else 1.0
            for start, stop, is_gap in pieces
        ]
        self._pieces = pieces
        self._widths = widths
        self._before = [0.0, *accumulate(widths)]
        self._starts = [start for start, _, _ in pieces]
        told_us = max(self.active_us * share, NOTICED_US)
        self.breaks = [
            Break((before + width / 2) / self._before[-1], stop - start)
            for (start, stop, is_gap), width, before in zip(pieces, widths, self._before, strict=False)
            if is_gap and stop - start > told_us
        ]

    @property
    def shown_us(self) -> float:
        """The length of the whole axis: the activity, and what is left of the stretches between."""
        return self._before[-1]

    def place(self, at_us: int) -> float:
        """Where a time stands, 0 to 1; what lies beyond an end, at that end."""
        if not self._before[-1]:
            return 0.0
        piece = max(0, bisect_right(self._starts, at_us) - 1)
        start, stop, _ = self._pieces[piece]
        part = min(1.0, max(0.0, (at_us - start) / (stop - start)))
        return (self._before[piece] + part * self._widths[piece]) / self._before[-1]


def _merged(stretches: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of the stretches, in order, those of no length left out where they stand in or beside another."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def _with_gaps(stretches: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int, bool]]:
    pieces: list[tuple[int, int, bool]] = []
    at = begin
    for start, stop in [*stretches, (end, end)]:
        if start > at:
            pieces.append((at, start, True))
        if stop > start:
            pieces.append((start, stop, False))
        at = max(at, stop)
    return pieces


def in_words(length_us: float) -> str:
    """A length of time in its two leading units, or with three digits.

    >>> in_words(7_500_000_000), in_words(1_234_000), in_words(12_340), in_words(85), in_words(86_400_000_000 * 3)
    ('2 h 5 min', '1.23 s', '12.3 ms', '85 µs', '3 d')
    """
    if length_us < 999.5:
        return f"{length_us:.0f} µs"
    if length_us < 999_500:
        return f"{length_us / 1000:.3g} ms"
    if length_us < 59_950_000:
        return f"{length_us / 1_000_000:.3g} s"
    if length_us > 1e17:
        return f"{length_us / 1_000_000:.3g} s"  # no real one
    seconds = round(length_us / 1_000_000)
    for unit_s, unit, below_s, below in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit_s:
            rest = seconds % unit_s // below_s
            return f"{seconds // unit_s:,} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{seconds} s"
