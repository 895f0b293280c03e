"""What the campaigns found, as a table for a terminal and one for a document."""

from __future__ import annotations

from rich.table import Table

SHOWN_FAILURES = 20


def table(results, title, width):
    """Each result with its controls beside it."""
    made = Table(title=title, width=width, title_justify="left")
    for name, justify in (
        ("what was tried", "left"),
        ("cases", "right"),
        ("distinct", "right"),
        ("lost", "left"),
        ("control, which must lose", "left"),
    ):
        made.add_column(name, justify=justify, overflow="fold")
    for result in results:
        style = "" if result.holds else "red"
        made.add_row(*_cells(result), style=style)
    return made


def markdown(results):
    """The same for a document."""
    rows = [
        ["what was tried", "cases", "distinct", "lost", "control, which must lose"],
        ["---", "--:", "--:", "---", "---"],
    ]
    rows += [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in _cells(result)] for result in results]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def put_into(document, rows, told):
    """Between the document's marks, with where the figures are from."""
    begin, end = "<!-- faults -->\n", "<!-- /faults -->"
    text = document.read_text("utf-8")
    head, tail = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    document.write_text(f"{head}{rows}\n\n{told}\n{tail}", "utf-8")


def print_failures(console, results):
    """Each loss in words, and each control that is blind."""
    for result in results:
        for failure in result.failures[:SHOWN_FAILURES]:
            console.print(f"LOST in {result.what}: {failure}", markup=False, highlight=False, soft_wrap=True)
        if len(result.failures) > SHOWN_FAILURES:
            console.print(f"… and {len(result.failures) - SHOWN_FAILURES} more in {result.what}", markup=False)
        for control in result.controls:
            if not control.lost:
                console.print(f"BLIND: {control.what} lost nothing, so {result.what} proves nothing", markup=False)
        if not result.controls:
            console.print(f"BLIND: {result.what} has no control", markup=False)


def _cells(result):
    lost = f"{len(result.failures)} {result.lost}"
    controls = "\n".join(f"{control.what}: {control.lost:,} of {control.tried:,}" for control in result.controls)
    what = f"{result.what}\n{result.notes}" if result.notes else result.what
    return [what, f"{result.tried:,}", f"{result.distinct:,}" if result.distinct else "-", lost, controls]
