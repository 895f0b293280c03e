"""`replay`: recorded runs against the graph of today, a line each, with progress on stderr.

The store is opened read-only, and no side effect happens. A trace that cannot be replayed has its line too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple, cast

import click
import msgspec
from rich.progress import MofNCompleteColumn
from rich.text import Text

from eventstore.divergence import Replay
from eventstore.errors import EventStoreError
from eventstore.graph import Graph
from eventstore.redaction import Redactor
from eventstore.replaying import replay as replay_trace
from eventstore.step import described
from eventstore.store import Store

from .choosing import choice, chosen
from .loading import graph_argument, load_graph, load_named
from .opening import at_option, command_for, json_option, open_for_reading
from .output import Column, Output, count, visible
from .progress import progress_bar
from .stopping import INTERRUPTED

ID_CHARACTERS = 36


class Outcome(NamedTuple):
    """What came of one trace: its replay, or why it could not be replayed."""

    trace_id: str
    found: Replay | None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was replayed without a divergence."""
        return self.found is not None and self.found.ok


@click.command()
@graph_argument
@choice
@click.option("--all", "all_", is_flag=True, help="Every run of the graph (or of --name), instead of named ones.")
@click.option("--from", "after", metavar="AT", help="Only what came after it (AT as for --until).")
@at_option("--until", "Only what came up to it.")
@click.option(
    "--redact",
    "hook",
    metavar="HOOK",
    help="The redaction hook of the runs: module:function or file.py:function.",
)
@click.option("--no-values", is_flag=True, help="Show no value and no message of an exception.")
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    target: str,
    traces: Sequence[str],
    name: str | None,
    status: str | None,
    all_: bool,
    after: str | None,
    until: str | None,
    hook: str | None,
    no_values: bool,
    as_json: bool,
) -> None:
    """Run a graph's functions again on recorded runs, and tell where they first do something else.

    Nothing is written, no node with side effects is called, and calls are answered from the log. Exits with 0
    when every run was replayed without a divergence, else with 1. What nodes print goes to stderr.

    Both values of a divergence are shown, and the new one is what the function makes today: where runs were
    recorded with a redaction hook, name it with --redact, or what it hides differs and is shown. --no-values shows
    keys and places only.
    """
    if all_ == bool(traces):
        raise click.UsageError("name the traces to replay, or give --all")
    with redirect_stdout(sys.stderr):
        graph = load_graph(target)
        redact = None if hook is None else _load_hook(hook)
    output = Output(as_json)
    done: list[bool] = []
    with _opened(ctx.obj, redact) as store:
        named = chosen(store, traces, name if traces or name is not None else graph.name, status)
        with _progress(len(named)) as advance:
            outcomes = _outcomes(graph, store, named, after, until, no_values, done, advance)
            if as_json:
                output.array(map(_fields, outcomes))
            elif output.terminal:  # the bar stands where the lines will
                table = _Table()
                for outcome in outcomes:
                    table.add(outcome)
            else:
                output.rows(_columns(named), map(_row, outcomes))
    if output.terminal:
        table.tell(ctx.obj, output, named)
    if len(done) < len(named):
        click.echo(f"Interrupted after {count(len(done), 'trace')} of {len(named):,}.", err=True)
        ctx.exit(INTERRUPTED)
    ctx.exit(0 if all(done) else 1)


def _outcomes(
    graph: Graph,
    store: Store,
    traces: Sequence[str],
    after: str | None,
    until: str | None,
    no_values: bool,
    done: list[bool],
    advance: Any,
) -> Iterator[Outcome]:
    """Replay one after the other, `done` tells which were ok; an interrupt ends it, and what was told stays whole."""
    for trace_id in traces:
        try:
            with redirect_stdout(sys.stderr):
                found = replay_trace(graph, store, trace_id, after=after, until=until)
            outcome = Outcome(trace_id, _without_values(found) if no_values else found)
        except EventStoreError as error:
            outcome = Outcome(trace_id, None, str(error))
        except KeyboardInterrupt:
            return
        except Exception:
            raise
        except BaseException as error:  # a node's own: it ends the work on this run
            told = type(error).__name__ if no_values else described(error)
            outcome = Outcome(trace_id, None, f"a node raised {told}")
        done.append(outcome.ok)
        advance()
        yield outcome


def _without_values(found: Replay) -> Replay:
    if found.divergence is None:
        return found
    return msgspec.structs.replace(found, divergence=found.divergence.without_values())


def _load_hook(target: str) -> Redactor:
    """The function that `target` names. Raises click.ClickException, click.UsageError."""
    found = load_named(target, "function")
    if not callable(found):
        raise click.ClickException(visible(f"{target} is {type(found).__name__}, not a function"))
    return cast("Redactor", found)


def _opened(path: str, redact: Redactor | None) -> Store:
    return open_for_reading(path, redact=redact)


def _fields(outcome: Outcome) -> dict[str, Any]:
    found = outcome.found
    if found is None:
        return {"trace_id": outcome.trace_id, "ok": False, "error": outcome.error}
    fields = {name: getattr(found, name) for name in found.__struct_fields__ if name != "divergence"}
    fields["ok"] = found.ok
    if found.divergence is not None:
        fields |= {"divergence": found.divergence, "message": str(found.divergence)}
    return fields


def _columns(traces: Sequence[str]) -> tuple[Column, ...]:
    longest = max((len(visible(trace_id)) for trace_id in traces), default=ID_CHARACTERS)
    return (
        Column("trace", longest, style="bold"),
        Column("name", cut=True),
        Column("checked", 7, justify="right"),
        Column("reused", 6, justify="right", style="dim"),
        Column("result", cut=True),
    )


def _row(outcome: Outcome) -> list[object]:
    found = outcome.found
    if found is None:
        return [outcome.trace_id, None, None, None, f"not replayed: {outcome.error}"]
    return [found.trace_id, found.name, found.checked, found.reused, str(found.divergence or "ok")]


class _Table:
    """The lines of a terminal, and the first replay that differs."""

    def __init__(self) -> None:
        self.rows: list[list[object]] = []
        self.ok = 0
        self.differing: Replay | None = None

    def add(self, outcome: Outcome) -> None:
        """One more line."""
        *cells, result = _row(outcome)
        self.rows.append([*cells, Text(visible(str(result)), "green" if outcome.ok else "bold red")])
        self.ok += outcome.ok
        if self.differing is None and not outcome.ok:
            self.differing = outcome.found

    def tell(self, db: str, output: Output, traces: Sequence[str]) -> None:
        """Print the lines, the sum, and where to look closer."""
        output.rows(_columns(traces), self.rows)
        if len(self.rows) > 1:
            all_ok = self.ok == len(self.rows)
            output.line(f"{count(self.ok, 'trace')} of {len(self.rows):,} ok", "bold green" if all_ok else "bold red")
        found = self.differing
        if found is None or found.divergence is None:
            return
        if found.graph_changes:
            output.hint(visible(f"The graph is not the recorded one: {'; '.join(found.graph_changes)}"))
        output.hint(visible(f"{found.trace_id}: {found.divergence}"))
        output.hint(f"Look closer: {command_for(db, 'why', found.trace_id, str(found.divergence.seq))}")


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Gives what moves the bar by one trace; there is a bar for several traces on a terminal."""
    bar = progress_bar("replaying", MofNCompleteColumn(), shown=total > 1)
    task = bar.add_task("", total=total)
    with bar:
        yield lambda: bar.advance(task)
