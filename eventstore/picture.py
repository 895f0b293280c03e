"""A timeline as a picture: an SVG that stands alone, or a Mermaid gantt as GitHub renders it.

Both draw the same rows on the same axis of active time. The SVG holds its styles, for light and dark, and neither
scripts nor fonts. Mermaid knows calendar dates only, so its axis begins at an arbitrary midnight and shows the time
since then; every character that its grammar, or the Markdown around it, could take for its own is a number code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .axis import Axis, in_words
from .chart import Row, axis_of, clean, rows_of

if TYPE_CHECKING:
    from .span import Timeline

WIDTH = 900
_LEFT, _RIGHT = 230, 800
_ROW, _TOP = 20, 78
_CHARACTER = 6.1
_MOST_LABELS = 6
_LEAST_WORDS = 10
"""Where there is less room beside a bar, the words stand on it."""
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})
_STYLE = (
    ".es text{font:11px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}.es .t{font-size:14px;font-weight:600}"
    ".es .d{fill:#656d76}.es .r{text-anchor:end}.es .m{text-anchor:middle}.es .back{fill:#fff}.es .odd{fill:#f6f8fa}"
    ".es .ok{fill:#2f81f7}.es .effect{fill:#8250df}.es .failed{fill:#cf222e}.es text.failed{font-weight:600}"
    ".es .open,.es .doubt{fill:none;stroke:#9a6700;stroke-width:1.5;stroke-dasharray:3 2}.es .doubt{stroke:#656d76}"
    ".es .wait{fill:url(#es-hatch);stroke:#bf8700}.es .hatch{stroke:#bf8700;stroke-width:2}.es .mark{fill:#1a7f37}"
    ".es .cut{stroke:#afb8c1;stroke-dasharray:2 2}"
    ".es .on{paint-order:stroke;stroke:#fff;stroke-width:4px}"
    "@media(prefers-color-scheme:dark){.es text{fill:#e6edf3}.es .d{fill:#8d96a0}.es .back{fill:#0d1117}"
    ".es .odd{fill:#161b22}.es .ok{fill:#4493f8}.es .effect{fill:#a371f7}.es .failed,.es text.failed{fill:#f85149}"
    ".es .mark{fill:#3fb950}.es .cut{stroke:#484f58}.es .on{stroke:#0d1117}}"
)


def svg(timeline: Timeline, *, limit: int | None = None) -> str:
    """The timeline as SVG, 900 wide. `limit`: the last so many rows.

    >>> from .event import utc
    >>> from .span import Span, Timeline
    >>> spans = [Span(1, "<ask>", utc(0), 3, 3, utc(900_000), True, duration_ms=900.0)]
    >>> picture = svg(Timeline("t1", "chat", "completed", 3, utc(0), utc(0), utc(0), spans=spans))
    >>> picture.startswith("<svg xmlns="), "&lt;ask&gt;" in picture
    (True, True)
    """
    rows, before = rows_of(timeline, limit)
    axis = axis_of(rows)
    height = _TOP + _ROW * len(rows) + 34
    title = _xml(f"{timeline.name or timeline.trace_id}: {timeline.status}", 90)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="es" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">',
            f"<title>{title}</title><style>{_STYLE}</style>",
            '<defs><pattern id="es-hatch" width="6" height="6" patternUnits="userSpaceOnUse"'
            ' patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="6"/></pattern></defs>',
            f'<rect class="back" width="{WIDTH}" height="{height}"/>',
            f'<text class="t" x="10" y="22">{title}</text>',
            f'<text class="d" x="10" y="39">{_xml(_facts(timeline), 150)}</text>',
            f'<text class="d" x="10" y="54">{_xml(_origins(timeline, before), 150)}</text>',
            *(
                f'<rect class="odd" y="{_TOP + _ROW * index}" width="{WIDTH}" height="{_ROW}"/>'
                for index in range(1, len(rows), 2)
            ),
            *_breaks(axis, height - 34),
            *(line for index, row in enumerate(rows) for line in _drawn(row, axis, _TOP + _ROW * index)),
            f'<text class="d" x="10" y="{height - 12}">{_xml(_legend(axis), 150)}</text>',
            "</svg>\n",
        ]
    )


def _facts(timeline: Timeline) -> str:
    totals = timeline.totals
    facts = [f"started {timeline.started_at:%Y-%m-%d %H:%M:%S} UTC", f"active {in_words(totals.active_ms * 1000)}"]
    if totals.waited_s:
        facts.append(f"waited {in_words(totals.waited_s * 1e6)}")
    if totals.token_cost:
        facts.append(f"cost {totals.token_cost:g}")
    if totals.failed:
        facts.append(f"{totals.failed:,} failed")
    return " · ".join(facts)


def _origins(timeline: Timeline, before: int) -> str:
    """What is not drawn, and what is another trace's."""
    facts = []
    if before:
        facts.append(f"{before:,} earlier row{'s' * (before > 1)} not shown")
    if timeline.trimmed_seq:
        facts.append(f"trimmed up to {timeline.trimmed_seq:,}")
    if timeline.origin is not None:
        facts.append(f"forked from {timeline.origin.trace_id} at {timeline.origin.seq:,}")
    return " · ".join(facts)


def _legend(axis: Axis) -> str:
    legend = f"axis: {in_words(axis.shown_us)} of active time; purple: side effects; ◆ checkpoint"
    if len(axis.breaks) > _MOST_LABELS:
        lengths = [length for _, length in axis.breaks]
        legend += f"; {len(lengths):,} cuts, {in_words(sum(lengths))} in all, the longest {in_words(max(lengths))}"
    return legend


def _breaks(axis: Axis, bottom: int) -> Iterator[str]:
    named = len(axis.breaks) <= _MOST_LABELS
    edge = float(_LEFT)
    for place, length_us in axis.breaks:
        x = _x(place)
        yield f'<line class="cut" x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{bottom}"/>'
        text = f"‖ {in_words(length_us)}"
        half = len(text) * _CHARACTER / 2
        if named and x - half > edge:
            edge = x + half
            yield f'<text class="d m" x="{x:.1f}" y="{_TOP - 8}">{text}</text>'


def _x(place: float) -> float:
    return _LEFT + place * (_RIGHT - _LEFT)


def _drawn(row: Row, axis: Axis, y: int) -> Iterator[str]:
    """A row's label, bar, words and length."""
    begin = _x(axis.place(row.began_us))
    end = _x(axis.place(row.over_us)) if row.over_us is not None else begin + 12
    width = max(2.0, end - begin)
    begin = min(begin, WIDTH - 100 - width)
    attempt = f" ({row.span.attempt})" if row.span is not None and row.span.attempt > 1 else ""
    indent = 58 if row.is_branch else 46
    style = "effect" if row.kind == "ok" and row.span is not None and row.span.has_side_effects else row.kind
    told = " · ".join(text for text in (row.name + attempt, row.length, row.words) if text)
    yield f'<text class="d r" x="38" y="{y + 14}">{_xml(row.label, 6)}</text>'
    yield f'<text x="{indent}" y="{y + 14}">{_xml(row.name, 27 - len(attempt))}{attempt}</text>'
    yield (
        f'<rect class="{style}" x="{begin:.1f}" y="{y + 4}" width="{width:.1f}" height="12" rx="2">'
        f"<title>{_xml(told, 500)}</title></rect>"
    )
    after = begin + width + 5
    if row.marks:
        names = ", ".join(dict.fromkeys(name for mark in row.marks for name in mark.triggers))
        yield f'<text class="mark" x="{after:.1f}" y="{y + 14}">◆<title>{_xml(names, 200)}</title></text>'
        after += 12
    if row.words:
        room = (int((_RIGHT - after) / _CHARACTER), int((begin - 5 - _LEFT) / _CHARACTER))
        is_left = len(row.words) > room[0] and room[1] > room[0]
        style = "failed" if row.kind == "failed" else "d"
        if max(room) < _LEAST_WORDS and width > _LEAST_WORDS * _CHARACTER:
            words = _xml(row.words, int(width / _CHARACTER) - 2)
            yield f'<text class="{style} on" x="{begin + 6:.1f}" y="{y + 14}">{words}</text>'
        elif is_left:
            words = _xml(row.words, max(3, room[1]))
            yield f'<text class="{style} r" x="{begin - 5:.1f}" y="{y + 14}">{words}</text>'
        else:
            yield f'<text class="{style}" x="{after:.1f}" y="{y + 14}">{_xml(row.words, max(3, room[0]))}</text>'
    yield f'<text class="d r" x="{WIDTH - 10}" y="{y + 14}">{row.length}</text>'


def _xml(text: str, most: int) -> str:
    return clean(text, most).translate(_ENTITIES)


# Mermaid

MERMAID_CHARACTERS = 45_000
"""Mermaid refuses a text of 50,000 characters; what is longer loses its earlier rows."""
_MOST_ROWS = MERMAID_CHARACTERS // 64
_MIDNIGHT = datetime(2000, 1, 1)
_CODED = re.compile(r"[^\w .,()/+*=?!@|~^$§°…·‖◆→-]")
_FORMATS = (
    (0.059, "%-S.%L ms", 1000.0),
    (59.0, "%-S.%L s", 1.0),
    (3600.0, "%M:%S", 1.0),
    (86_400.0, "%H:%M:%S", 1.0),
)


def mermaid(timeline: Timeline, *, limit: int | None = None) -> str:
    """The timeline as a Mermaid gantt, a section for each node and for the waiting; failed ones are `crit`,
    checkpoints milestones. `limit`: the last so many rows; fewer where Mermaid could not take them.

    >>> from .event import utc
    >>> from .span import Span, Timeline
    >>> spans = [Span(1, "ask: me", utc(0), 3, 3, utc(900_000), True, duration_ms=900.0)]
    >>> print(mermaid(Timeline("t1", "chat", "completed", 3, utc(0), utc(0), utc(0), spans=spans)))
    gantt
        title chat#58; completed
        dateFormat YYYY-MM-DD HH:mm:ss.SSS
        axisFormat %-S.%L s
        todayMarker off
        section ask#58; me
        1 ask#58; me, 900 ms :done, 2000-01-01 00:00:00.000, 2000-01-01 00:00:00.900
    <BLANKLINE>
    """
    rows, before = rows_of(timeline, min(limit or _MOST_ROWS, _MOST_ROWS))
    while True:
        text = _gantt(timeline, rows, before)
        length = len(text.encode("utf-16-le")) // 2  # as JavaScript counts
        if length <= MERMAID_CHARACTERS or len(rows) < 2:
            return text
        drop = max(1, len(rows) - int(len(rows) * MERMAID_CHARACTERS / length))
        rows, before = rows[drop:], before + drop


def _gantt(timeline: Timeline, rows: list[Row], before: int) -> str:
    axis = axis_of(rows)
    shown_s = axis.shown_us / 1e6
    form, scale = next(((form, scale) for most, form, scale in _FORMATS if shown_s < most), ("%j %H:%M", 1.0))
    hidden = f", without the {before:,} rows before" if before else ""
    title = _code(f"{timeline.name or timeline.trace_id}: {timeline.status}{hidden}", 120)
    lines = ["gantt", f"    title {title}", "    dateFormat YYYY-MM-DD HH:mm:ss.SSS", f"    axisFormat {form}"]
    lines.append("    todayMarker off")
    sections: dict[str, list[str]] = {}
    for row in rows:
        named = "waiting" if row.span is None else row.span.node
        sections.setdefault(_section(named), []).extend(_tasks(row, axis, scale))
    longest = sorted(sorted(axis.breaks, key=lambda cut: -cut.length_us)[:_MOST_LABELS])
    for place, length_us in longest:
        cut = f"‖ {in_words(length_us)} :milestone, {_date(place, axis, scale)}, 0ms"
        sections.setdefault("cut from the axis", []).append(cut)
    for section, tasks in sections.items():
        lines.append(f"    section {section}")
        lines += [f"    {task}" for task in tasks]
    return "\n".join(lines) + "\n"


def _tasks(row: Row, axis: Axis, scale: float) -> Iterator[str]:
    """A row, and a milestone for each checkpoint behind it."""
    begin = axis.place(row.began_us)
    end = axis.place(row.over_us) if row.over_us is not None else begin
    tag = {"ok": "done", "failed": "crit", "open": "active", "doubt": "crit, active", "wait": "active"}[row.kind]
    attempt = f"attempt {row.span.attempt}" if row.span is not None and row.span.attempt > 1 else ""
    name = f"{row.label} {row.name}".strip()
    effects = "side effects" if row.span is not None and row.span.has_side_effects else ""
    length = "" if row.span is None else row.length
    told = _code(", ".join(text for text in (name, attempt, length, effects, row.words) if text), 90)
    # A digit or a dot before the name: no name can then be read as one of the grammar's words.
    begin_date, end_date = _date(begin, axis, scale), _date(end, axis, scale)
    yield f"{told if told[:1].isdigit() else f'· {told}'} :{tag}, {begin_date}, {end_date}"
    for mark in row.marks:
        yield f"◆ checkpoint, {_code(', '.join(mark.triggers), 60)} :milestone, {end_date}, 0ms"


def _section(name: str) -> str:
    """A section's name; Mermaid keeps sections by name in an object, where `__proto__` would mean something."""
    return re.sub("^_", "#95;", _code(name, 40)) or "·"


def _date(place: float, axis: Axis, scale: float) -> str:
    at = _MIDNIGHT + timedelta(microseconds=round(place * axis.shown_us * scale))
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"


def _code(text: str, most: int) -> str:
    """Text that means nothing to Mermaid: whatever could is written as `#58;`."""
    return _CODED.sub(lambda found: f"#{ord(found[0])};", clean(text, most))
