"""`timeline`: when what ran, and what was waited for.

A terminal draws a row for each execution and each wait, on an axis of active time: stretches in which nothing ran
are cut (`‖`). A pipe gets the same rows as columns of numbers. `--svg` and `--mermaid` take the picture out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from eventstore.axis import Axis, in_words
from eventstore.chart import Row, axis_of, rows_of
from eventstore.event import utc
from eventstore.picture import mermaid as as_mermaid
from eventstore.picture import svg as as_svg
from eventstore.span import Timeline
from eventstore.timeline import timeline as read_timeline

from .describing import moment
from .listing import STATUS_STYLES
from .opening import command_for, find_trace, json_option, open_for_reading, trace_argument
from .output import Column, Output, count, visible

SHOWN_ROWS = 200
STYLES = {"ok": "green", "failed": "red", "open": "yellow", "doubt": "magenta", "wait": "yellow"}
FILLS = {"ok": "█", "failed": "█", "open": "▒", "doubt": "▒", "wait": "░"}
GAP = "  "
NAMED_BREAKS = 4
LEAST_WORDS = 10
"""Where there is less room beside a bar, the words stand in it."""
LEAST_BAR = 10
"""Where there is less room, columns give way to the bar: the cost first, then the attempt, then the duration."""
PLAIN = (
    Column("what"),
    Column("step"),
    Column("node"),
    Column("attempt", justify="right"),
    Column("began (UTC)"),
    Column("duration_ms", justify="right"),
    Column("cost", justify="right"),
    Column("effects"),
    Column("checkpoints"),
    Column("detail", cut=True),
)

_file = click.Path(dir_okay=False, writable=True, allow_dash=True)


@click.command()
@trace_argument
@click.option("--limit", metavar="N", type=click.IntRange(1), help=f"The last N rows ({SHOWN_ROWS}; in a pipe all).")
@click.option("--svg", metavar="FILE", type=_file, help="Write it as an SVG picture; - is stdout.")
@click.option("--mermaid", metavar="FILE", type=_file, help="Write it as a Mermaid gantt, as GitHub shows it.")
@json_option
@click.pass_obj
def timeline(db: str, trace: str, limit: int | None, svg: str | None, mermaid: str | None, as_json: bool) -> None:
    """Show when each node of a run ran, how long, and what was waited for.

    The axis is active time: stretches in which no node ran are cut to a small width, drawn as ‖. JSON has all rows.
    """
    pictures = [(svg, as_svg), (mermaid, as_mermaid)]
    if sum(to == "-" for to in (svg, mermaid)) + as_json > 1 or (as_json and (svg or mermaid)):
        raise click.UsageError("one thing at a time goes to stdout: --json, --svg - or --mermaid -")
    output = Output(as_json)
    with open_for_reading(db) as store:
        told = read_timeline(store, find_trace(store, trace))
    if as_json:
        return output.object(told)
    if svg or mermaid:
        for to, draw in pictures:
            _write(told, limit, to, draw)
        return None
    rows, before = rows_of(told, limit or (SHOWN_ROWS if output.terminal else None))
    if not output.terminal:
        output.rows(PLAIN, [_plain(row) for row in rows])
        output.line(_totals(told))
        return None
    _head(output, told)
    _Chart(output.console.width, rows, told).print(output)
    output.line(_totals(told), "bold")
    if before:
        more = command_for(db, "timeline", told.trace_id, "--limit", str(before + len(rows)))
        output.hint(f"{count(before, 'earlier row')} not shown; all: {more}")
    return None


@click.command("timeline")
@trace_argument
@click.argument("file", type=_file)
@click.option("--limit", metavar="N", type=click.IntRange(1), default=SHOWN_ROWS, show_default=True, help="Rows.")
@json_option
@click.pass_obj
def picture(db: str, trace: str, file: str, limit: int, as_json: bool) -> None:
    """Draw the timeline of a run into FILE: .svg, a picture; .mmd or .md, a Mermaid gantt."""
    draw = {".svg": as_svg, ".mmd": as_mermaid, ".md": as_mermaid}.get(Path(file).suffix.lower())
    if draw is None:
        raise click.UsageError(visible(f"{file}: name a .svg, .mmd or .md file"))
    with open_for_reading(db) as store:
        told = read_timeline(store, find_trace(store, trace))
    drawn = draw(told, limit=limit)
    if draw is as_mermaid and file.lower().endswith(".md"):
        drawn = f"```mermaid\n{drawn.rstrip()}\n```\n"
    Path(file).write_text(drawn, "utf-8")
    output = Output(as_json)
    if as_json:
        return output.object({"file": file, "trace_id": told.trace_id, "spans": len(told.spans)})
    return output.line(visible(f"{file}: {count(len(told.spans), 'span')}"))


def _write(told: Timeline, limit: int | None, to: str | None, draw: Callable[..., str]) -> None:
    if to is None:
        return None
    drawn = draw(told, limit=limit or SHOWN_ROWS).encode()
    if to == "-":
        return click.echo(drawn, nl=False)
    Path(to).write_bytes(drawn)
    return click.echo(visible(f"Wrote {to}."), err=True)


def _plain(row: Row) -> Sequence[object]:
    span = row.span
    marks = ", ".join(name for mark in row.marks for name in mark.triggers)
    if span is None:
        waited_ms = row.wait.waited_s * 1000 if row.wait else None
        return ["wait", None, row.name, None, utc(row.began_us), waited_ms, None, None, marks, row.words]
    what = {"ok": "branch" if row.is_branch else "node", "doubt": "in doubt"}.get(row.kind, row.kind)
    return [
        what,
        span.label if span.step else None,
        span.path,
        span.attempt,
        span.started_at,
        None if span.success is None else float(span.duration_ms),
        span.token_cost or None,
        "side effects" if span.has_side_effects else None,
        marks,
        row.words,
    ]


def _head(output: Output, told: Timeline) -> None:
    named = f"{told.name}, {told.trace_id}: " if told.name else f"{told.trace_id}: "
    line = Text(visible(named), "bold", no_wrap=True, overflow="ellipsis")
    line.append(told.status, f"bold {STATUS_STYLES.get(told.status, '')}")
    line.append(f"  {moment(told.started_at)}", "dim")
    output.console.print(line)
    if told.origin is not None:
        output.line(
            visible(f"Forked from {told.origin.trace_id} at {told.origin.seq:,}; what ran there is dim."), "dim"
        )
    if told.trimmed_seq:
        output.line(f"The history up to event {told.trimmed_seq:,} was trimmed.", "dim")


def _totals(told: Timeline) -> str:
    totals = told.totals
    nodes = sum(span.branch is None and span.step > 0 for span in told.spans)
    parts = [count(nodes, "step"), f"active {in_words(totals.active_ms * 1000)}"]
    if totals.waited_s:
        parts.append(f"waited {in_words(totals.waited_s * 1e6)}")
    if totals.token_cost:
        parts.append(f"cost {totals.token_cost:g}")
    if totals.failed:
        parts.append(f"{totals.failed:,} failed")
    if told.checkpoints:
        parts.append(count(len(told.checkpoints), "checkpoint"))
    if told.forks:
        parts.append(count(len(told.forks), "fork"))
    parts += [visible(f"{retry.path} again at {moment(retry.due_at)}") for retry in told.retries[:NAMED_BREAKS]]
    return ", ".join(parts)


class _Chart:
    """The rows of a terminal of that width: step, node, attempt, bar, duration, cost. No line is wider."""

    def __init__(self, width: int, rows: Sequence[Row], told: Timeline) -> None:
        self.rows = rows
        self.own = told.origin.seq if told.origin is not None else 0
        attempts = 3 if any(row.span is not None and row.span.attempt > 1 for row in rows) else 0
        cost = max((len(_cost(row)) for row in rows), default=0)
        step = max(4, *(len(row.label) for row in rows)) if rows else 4
        names = max((cell_len(_shown(row.name)) + 2 * row.is_branch for row in rows), default=4)
        length = max(4, *(len(row.length) for row in rows)) if rows else 4
        columns = [step, max(6, min(names + 2, width // 4)), length, attempts, cost and max(4, cost)]
        for gives_way in (4, 3, 2):
            if width - _taken(columns) < LEAST_BAR:
                columns[gives_way] = 0
        columns[1] = max(4, min(columns[1], width - _taken(columns) + columns[1] - 4))
        self.width = width
        self.step, self.name, self.length, self.attempt, self.cost = columns
        self.bar = max(0, width - _taken(columns))
        self.axis: Axis = axis_of(rows, share=max(0.02, 2 / max(LEAST_BAR, self.bar)))
        self.breaks = {min(self.bar - 1, int(place * self.bar)) for place, _ in self.axis.breaks}

    def print(self, output: Output) -> None:
        """Header, rows, and what was cut from the axis."""
        if not self.rows:
            return output.hint("Nothing has run yet.")
        output.console.print(self._line("step", "node", "try", self._scale(), "took", "cost", "bold"), soft_wrap=True)
        for row in self.rows:
            output.console.print(self._row(row), soft_wrap=True)
        if self.axis.breaks:
            output.line(self._cuts(), "dim")
        return None

    def _scale(self) -> Text:
        shown = in_words(self.axis.shown_us)
        return Text(_fit("0" + shown.rjust(self.bar - 1), self.bar), "dim")

    def _cuts(self) -> str:
        lengths = [length for _, length in self.axis.breaks]
        if len(lengths) <= NAMED_BREAKS:
            return f"‖ cut where nothing ran: {', '.join(map(in_words, lengths))}"
        told = f"{in_words(sum(lengths))} in all, the longest {in_words(max(lengths))}"
        return f"‖ cut where nothing ran, {len(lengths):,} times: {told}"

    def _row(self, row: Row) -> Text:
        span = row.span
        effects = "*" if span is not None and span.has_side_effects else ""
        name = ("  " if row.is_branch else "") + _shown(row.name) + effects
        attempt = str(span.attempt) if span is not None and span.attempt > 1 else ""
        is_inherited = (span.inherited_from if span is not None else row.wait and row.wait.inherited_from) is not None
        style = "red" if row.kind == "failed" else "dim" if is_inherited or row.wait is not None else ""
        return self._line(row.label, name, attempt, self._bar(row), row.length, _cost(row), style)

    def _line(self, step: str, name: str, attempt: str, bar: Text, length: str, cost: str, style: str) -> Text:
        line = Text(no_wrap=True, end="")
        line.append(step.rjust(self.step) + GAP, "dim" if style != "bold" else style)
        line.append(_fit(name, self.name), style)
        if self.attempt:
            line.append(GAP + attempt.rjust(self.attempt), style)
        if self.bar:
            line.append(GAP)
            line.append_text(bar)
        if self.length:
            line.append(GAP + length.rjust(self.length), style)
        if self.cost:
            line.append(GAP + cost.rjust(self.cost), style)
        line.truncate(self.width)
        return line

    def _bar(self, row: Row) -> Text:
        """The bar in its place, its checkpoint behind it, and its words where there is room for them."""
        if not self.bar:
            return Text()
        begin = min(self.bar - 1, int(self.axis.place(row.began_us) * self.bar))
        end = begin + 1 if row.over_us is None else round(self.axis.place(row.over_us) * self.bar)
        end = min(self.bar, max(begin + 1, end))
        drawn = FILLS[row.kind] * (end - begin) + ("◆" if row.marks and end < self.bar else "")
        if row.marks and end == self.bar:
            drawn = drawn[:-1] + "◆"
        words, style = _shown(row.words, 4 * self.bar), STYLES[row.kind]
        left, right = begin, self.bar - begin - len(drawn)
        bar = Text()
        if words and max(left, right) < LEAST_WORDS < end - begin:
            inside = f" {_fit(words, min(cell_len(words), end - begin - 4))} "
            drawn = FILLS[row.kind] + inside + drawn[1 + cell_len(inside) :]
            words = ""
        if words and cell_len(words) + 1 > right and left > right:
            bar.append(self._empty(0, left, _fit(words, left - 1, right=True) + " "), style)
            bar.append(drawn, style)
            bar.append(self._empty(self.bar - right, right), "dim")
        else:
            bar.append(self._empty(0, left), "dim")
            bar.append(drawn, style)
            beside = " " + _fit(words, right - 1) if words else ""
            bar.append(self._empty(self.bar - right, right, beside), style if words else "dim")
        return bar

    def _empty(self, start: int, width: int, words: str = "") -> str:
        """Nothing but the cuts, or words."""
        if words and width > 2:
            return set_cell_size(words, width)
        return "".join("‖" if start + place in self.breaks else " " for place in range(width))


def _taken(columns: Sequence[int]) -> int:
    """The cells of the columns that have any, and of a gap after each."""
    return sum(columns) + len(GAP) * sum(size > 0 for size in columns)


def _shown(text: str, most: int = 40) -> str:
    """`text` for a row: visible, and without joiners and other marks that would join what is printed beside them.

    >>> _shown("a\u200b\u200db\ufe0f"), _shown("e\u0301") == "e\u0301"
    ('ab', True)
    """
    if not text.isascii():
        text = "".join(letter for letter in text[: 4 * most] if cell_len(letter) or _is_accent(letter))
    return visible(text[:most])


def _is_accent(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M") and unicodedata.combining(letter) > 0


def _cost(row: Row) -> str:
    return f"{row.span.token_cost:.4g}" if row.span is not None and row.span.token_cost else ""


def _fit(text: str, width: int, *, right: bool = False) -> str:
    """`text` in exactly that many cells, cut with an ellipsis where it is longer."""
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
