"""The README's figures and pictures, made from a published run and never typed in.

A published run is its trace, as the engine's own JSON Lines: it is loaded into a store of its own, and what stands
between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` on a page is made of it again. `stale` says what there is
not as the published run has it; a picture is known by the data that it carries.
"""

from __future__ import annotations

import gzip
import io
import re
import tempfile
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import eventstore as es
from eventstore.transfer import dump
from eventstore.transfer import load as load_lines

from . import pictures
from .comparison import Compared
from .described import described, figures
from .result import Measure
from .results import BenchRun, Described, runs
from .results import load as load_run
from .tables import wins
from .units import TIMES, figured, is_better_high, number, times

ROOT = Path(__file__).parent.parent
PUBLISHED = Path(__file__).parent / "published.jsonl.gz"
PAGES = ("README.md", "docs/benchmarks.md")
NEEDED = ("chat", "peers", "figures", "wins")
BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)
NOT_SHOWN = ("floor-normal", "engine-normal")
ENGINE = "engine"
# head: (case, figure), `{steps}` being those of the case and `{runs}` its runs of three; no case is any case
PEERS: dict[str, tuple[str, str]] = {
    "chat, {steps:,} steps": ("peers-chat", "wall_ms"),
    "its file": ("peers-chat", "file_bytes"),
    "{runs:,} runs of 3 steps": ("peers-small-runs", "wall_ms"),
    "4 processes": ("contention", "steps_per_s@processes=4"),
    "slowest step of those": ("contention", "slowest_ms@processes=4"),
    "latest state": ("peers-chat", "latest_us"),
    "state at a step": ("peers-chat", "at_us"),
    "syncs a step": ("", "syncs_per_step"),
}
ABSOLUTE = ("slowest step of those", "syncs a step")
ALT = {
    "growth": "Curves for each system: a step, the file and two reads as a run grows",
    "policies": "Fold policies: what the file weighs against what restoring a step takes",
}
Cells = Mapping[tuple[str, str], Compared]


def publish(store: es.Store, trace_id: str, path: Path = PUBLISHED) -> None:
    """Write a run's trace to `path`; the same trace gives the same bytes but for the time in its header.

    Raises ValueError for a quick run, one that has not come to its end, and one in which a system failed.
    """
    run = load_run(store, trace_id)
    failed = [f"{system} in {case}" for case, result in run.results.items() for system in result.failed]
    if run.status != "completed" or run.settings.quick or failed:
        raise ValueError(f"run {trace_id} is no whole one: {run.status}, quick {run.settings.quick}, failed {failed}")
    lines = io.BytesIO()
    dump(store, lines, trace_ids=[trace_id])
    path.write_bytes(gzip.compress(lines.getvalue(), mtime=0))


def published(path: Path = PUBLISHED) -> BenchRun:
    """The published run. Raises FileNotFoundError where none is."""
    with (
        gzip.open(path) as lines,
        tempfile.TemporaryDirectory(prefix="eventstore-bench-") as folder,
        es.open(str(Path(folder) / "published.db"), durability="normal") as store,
    ):
        load_lines(store, lines)  # type: ignore[arg-type]  # a GzipFile reads as a BinaryIO does
        (found,) = runs(store)
    return found


def render(run: BenchRun | None = None, root: Path = ROOT) -> list[str]:
    """Write the pages' blocks and the pictures of a run, by default the published one; what was written."""
    run = run or published()
    written = []
    for name, page in _pages(root).items():
        text = page.read_text("utf-8")
        made = filled(text, blocks(run, _beside(name)))
        if made != text:
            page.write_text(made, "utf-8")
            written.append(name)
    for name, svg in pictures.svgs(run).items():
        (root / "docs" / name).write_text(svg, "utf-8")
        written.append(f"docs/{name}")
    return written


def stale(run: BenchRun | None = None, root: Path = ROOT) -> list[str]:
    """What on the pages is not what a run gives, by default the published one."""
    run = run or published()
    told, seen = [], set()
    for name, page in _pages(root).items():
        made = blocks(run, _beside(name))
        for _, block, text, _ in BLOCK.findall(page.read_text("utf-8")):
            seen.add(block)
            if made.get(block) != text:
                told.append(f"{name}: the block {block} is not what the published run gives")
    told += [f"no page has a block {block}" for block in NEEDED if block not in seen]
    for name, shown in pictures.data(run).items():
        for theme in pictures.THEMES:
            file = root / "docs" / pictures.file_name(name, theme)
            if not file.exists() or pictures.carried(file.read_text("utf-8")) != pictures.encoded(shown):
                told.append(f"docs/{file.name} does not show what the published run gives")
    return told


def filled(text: str, made: Mapping[str, str]) -> str:
    """A page with its blocks made anew; a block that the run has nothing for stays as it is.

    >>> filled("<!-- bench:a -->\\nold\\n<!-- /bench:a -->", {"a": "new\\n"})
    '<!-- bench:a -->\\nnew\\n<!-- /bench:a -->'
    """
    return BLOCK.sub(lambda found: f"{found[1]}{made.get(found[2], found[3])}{found[4]}", text)


def blocks(run: BenchRun, beside: str = "docs/") -> dict[str, str]:
    """Every block by name. `beside`: where the pictures are, seen from the page."""
    made = {name: _picture(name, beside, ALT.get(name) or _bars_told(run)) for name in pictures.data(run)}
    tables: dict[str, Callable[[BenchRun], str]] = {"peers": peers, "figures": measures, "wins": peer_wins}
    return made | {name: table(run) for name, table in tables.items()}


def peers(run: BenchRun) -> str:
    """The systems side by side: ratios to this engine, whose own figures stand in the first row."""
    known = described(run)
    compared = figures(run, known)
    cells = _cells(compared)
    heads = [head for head in PEERS if (ENGINE, head) in cells]
    having = {system for system, _ in cells}
    names = [name for name in dict.fromkeys((ENGINE, *known)) if name in having and name not in NOT_SHOWN]
    lines = [_row("", *(_head(head, compared) for head in heads)), "| --- |" + " ---: |" * len(heads)]
    for name in names:
        row = (_cell(cells.get((name, head)), head) for head in heads)
        lines.append(_row(_named(known[name], name == ENGINE), *row))
    told = (
        f"The first row is absolute, the others are ratios to it, but for {' and '.join(ABSOLUTE)};"
        " **bold**: where another system is the better one."
    )
    return "\n".join([*lines, "", f"{told} {_where(run)}", ""])


def measures(run: BenchRun) -> str:
    """Every measure against its aim."""
    rows = [(one, case) for case, result in run.results.items() for one in result.measures]
    lines = [_row("case", "measure", "result", "aim", ""), "| --- | --- | ---: | ---: | --- |"]
    for one, case in rows:
        aim = f"{'≥' if one.at_least else '≤'} {_valued(one, one.target)}"
        lines.append(_row(case, _escaped(one.name), _valued(one, one.result), aim, "✓" if one.met else "missed"))
    met = sum(one.met for one, _ in rows)
    return "\n".join([*lines, "", f"{met} of {len(rows)} are met. {_where(run)}", ""])


def peer_wins(run: BenchRun) -> str:
    """Every figure of which a peer has the better one."""
    sheet = wins(figures(run))
    rows = (_row(*map(_escaped, row)) for row in sheet.rows)
    return "\n".join([_row(*sheet.columns), "|" + " --- |" * len(sheet.columns), *rows, sheet.note, ""])


def _cells(compared: list[Compared]) -> Cells:
    found: dict[tuple[str, str], Compared] = {}
    for head, (case, figure) in PEERS.items():
        for one in compared:
            if one.figure == figure and case in ("", one.case) and (case or one.workload == "chat"):
                found.setdefault((one.system, head), one)
    return found


def _head(head: str, compared: list[Compared]) -> str:
    case = PEERS[head][0]
    written = (one.samples // one.repeats for one in compared if (one.case, one.figure) == (case, "step_us"))
    steps = next(written, 0)
    return head.format(steps=steps, runs=steps // 3)


def _cell(one: Compared | None, head: str) -> str:
    """A ratio of costs: more is worse, also of a rate. Bold where a peer's is the better one."""
    if one is None:
        return "-"
    if one.system == ENGINE or head in ABSOLUTE:
        value = number(round(one.median, 2)) if head == "syncs a step" else figured(one.median, one.figure)
        said = f"{value} steps/s" if is_better_high(one.figure) else value
    elif one.same_durability is None:
        return "-"
    else:
        ratio = one.same_durability.median
        said = times(1 / ratio if is_better_high(one.figure) and ratio else ratio)
    return f"**{said}**" if one.peer_wins else said


def _named(about: Described, is_engine: bool) -> str:
    title = f"**{_escaped(about.title)}**" if is_engine else _escaped(about.title)
    return f"{title}<br><sub>{_escaped(about.mode)}</sub>" if about.mode else title


def _where(run: BenchRun) -> str:
    machine = run.machine
    return (
        f"One run of {run.started:%Y-%m-%d} on {machine.cores} cores ({machine.processor or machine.system}),"
        f" where a sync of 4 KiB takes {machine.sync_us:.0f} µs; Python {machine.python}, SQLite {machine.sqlite}."
    )


def _bars_told(run: BenchRun) -> str:
    """The picture of the chat run for who does not see it."""
    bars = pictures.bars(run)
    told = (f"{bar.title} {times(bar.wall_ratio)}, {times(bar.file_ratio)}, {times(bar.latest_ratio)}" for bar in bars)
    return f"A chat run of {bars[0].steps:,} steps, its time, file and read to trace-eventstore's: {'; '.join(told)}"


def _picture(name: str, beside: str, alt: str) -> str:
    light, dark = (beside + pictures.file_name(name, theme) for theme in pictures.THEMES)
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
        f'  <img alt="{escape(alt, quote=True)}" src="{light}" width="830">\n</picture>\n'
    )


def _valued(one: Measure, value: float) -> str:
    return f"{number(value)}{TIMES}" if one.unit == "x" else f"{number(value)} {one.unit}".rstrip()


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _pages(root: Path) -> dict[str, Path]:
    return {name: root / name for name in PAGES if (root / name).exists()}


def _beside(page: str) -> str:
    return "" if page.startswith("docs/") else "docs/"
