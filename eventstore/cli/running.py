"""`run`, `resume` and `graph`: a graph at the prompt.

Events are printed as they are committed. The last line says how the run stands and, where it waits, which
command decides; that command may be given in any other terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from eventstore.checkpoint import GraphHashMode
from eventstore.commands import EffectRule
from eventstore.errors import RunFailed
from eventstore.record import GraphResult
from eventstore.runs import resume as resume_run
from eventstore.runs import run as start_run
from eventstore.store import Store

from .loading import graph_argument, load_graph
from .opening import command_for, find_trace, json_option, open_any, open_for_writing, trace_argument
from .output import Output, visible
from .stopping import INTERRUPTED, graceful_stop
from .telling import Listener

STYLES = {"completed": "bold green", "waiting": "yellow"}


@click.command()
@graph_argument
@click.option("--state", metavar="JSON|@FILE", help="The initial state, a JSON object.")
@click.option("--id", "trace_id", metavar="ID", help="The trace's id; one that exists is gone on with.")
@json_option
@click.pass_context
def run(ctx: click.Context, target: str, state: str | None, trace_id: str | None, as_json: bool) -> None:
    """Run a graph until it ends or waits for a decision.

    GRAPH is module:name or path/to/file.py:name, seen from the current folder. Ctrl-C gives the run back at
    its next step. Exits with 0 when the run is completed or waits, 1 when it failed, 130 when it was stopped.
    """
    graph = load_graph(target)
    initial = None if state is None else _initial(state)

    def work(store: Store, listener: Listener, stop: Any) -> GraphResult:
        return start_run(graph, store, initial, id=trace_id, on_event=listener, stop=stop)

    _follow(ctx, target, open_any(ctx.obj), work, Output(as_json))


@click.command()
@graph_argument
@trace_argument
@click.option("--force-graph", is_flag=True, help="Go on though the graph is not the one the run was recorded with.")
@click.option("--renamed-from", metavar="NEW=OLD", multiple=True, help="A node that the changed graph renamed.")
@click.option("--at", metavar="NODE", help="Go on at that node of the changed graph.")
@click.option("--force", is_flag=True, help="Go on though its last owners all died.")
@click.option("--reopen", is_flag=True, help="Go on though it was cancelled.")
@click.option(
    "--effects",
    type=click.Choice(get_args(EffectRule)),
    default="ask",
    show_default=True,
    help="In a fork: what to do before a side effect that its parent has had.",
)
@click.option("--wait", "wait_s", metavar="SECONDS", type=click.FloatRange(0), default=0, help="For another owner.")
@json_option
@click.pass_context
def resume(
    ctx: click.Context,
    target: str,
    trace: str,
    force_graph: bool,
    renamed_from: Sequence[str],
    at: str | None,
    force: bool,
    reopen: bool,
    effects: EffectRule,
    wait_s: float,
    as_json: bool,
) -> None:
    """Go on with a run where its log ends: after a decision, a failure, a stop or a crash."""
    graph = load_graph(target)
    renamed = dict(_pair("--renamed-from", text) for text in renamed_from)
    store = open_for_writing(ctx.obj)

    def work(store: Store, listener: Listener, stop: Any) -> GraphResult:
        return resume_run(
            graph,
            store,
            find_trace(store, trace),
            mode=GraphHashMode.FORCE if force_graph else GraphHashMode.STRICT,
            renamed_from=renamed or None,
            at=at,
            force=force,
            reopen=reopen,
            effects=effects,
            wait_s=wait_s,
            on_event=listener,
            stop=stop,
        )

    _follow(ctx, target, store, work, Output(as_json))


@click.command()
@graph_argument
@json_option
def graph(target: str, as_json: bool) -> None:
    """Print a graph as a Mermaid flowchart; as JSON, its definition and hash."""
    loaded = load_graph(target)
    if as_json:
        plan = loaded.plan()
        return Output(True).object({"name": plan.name, "hash": plan.hash, "definition": plan.definition})
    output = Output(False)
    for line in loaded.mermaid().splitlines():
        output.line(visible(line))
    return None


def _follow(
    ctx: click.Context,
    target: str,
    store: Store,
    work: Callable[[Store, Listener, Any], GraphResult],
    output: Output,
) -> None:
    with store, graceful_stop() as stop:
        listener = Listener(output, stop)
        try:
            result = work(store, listener, stop)
        except RunFailed as error:
            listener.check()
            if output.as_json:
                state = store.state_at(error.trace_id)
                _object(output, GraphResult(error.trace_id, state, [], 0, "failed"), error.reason)
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted: resuming the run goes on from its last step.", err=True)
            ctx.exit(INTERRUPTED)
        listener.check()
        if output.as_json:
            _object(output, result, None)
        else:
            _tell(ctx, target, store, result, output)
    if result.status == "running":
        ctx.exit(INTERRUPTED)
    ctx.exit(0 if result.status in ("completed", "waiting") else 1)


def _object(output: Output, result: GraphResult, error: str | None) -> None:
    fields = {
        "type": "Result",
        "trace_id": result.trace_id,
        "status": result.status,
        "pending_barriers": result.pending_barriers,
        "state": result.state,
    }
    output.object(fields if error is None else {**fields, "error": error})


def _tell(ctx: click.Context, target: str, store: Store, result: GraphResult, output: Output) -> None:
    status = "given back" if result.status == "running" else result.status
    output.line(visible(f"{status}: {result.trace_id}"), STYLES.get(status, "bold"))
    again = command_for(ctx.obj, "resume", target, result.trace_id)
    if result.status == "running":
        output.hint(f"Go on: {again}")
    if result.status != "waiting":
        return
    for info in store.barriers(trace_id=result.trace_id):
        output.line(visible(f"  {info.barrier_id}: {info.prompt}" if info.prompt else f"  {info.barrier_id}"))
        output.hint(f"Decide: {command_for(ctx.obj, 'decide', result.trace_id, info.barrier_id, 'approve')}")
    output.hint(f"Then:   {again}")


def _initial(text: str) -> dict[str, Any]:
    """The state that `--state` gives. Raises click.BadParameter, OSError."""
    raw = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode(errors="surrogateescape")
    try:
        state = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(visible(f"no JSON: {error}"), param_hint="--state") from None
    if not isinstance(state, dict):
        raise click.BadParameter("the initial state is a JSON object", param_hint="--state")
    return state


def _pair(option: str, text: str) -> tuple[str, str]:
    new, equals, old = text.partition("=")
    if not (new and equals and old):
        raise click.BadParameter(visible(f"{text}: write NEW=OLD"), param_hint=option)
    return new, old
