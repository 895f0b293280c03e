"""`work`: a process that goes on with the runs of a graph, until it is stopped."""

from __future__ import annotations

import click

from eventstore.errors import RunFailed
from eventstore.worker import Worked, Worker

from .loading import graph_argument, load_graph
from .opening import json_option, open_any
from .output import Output, visible
from .stopping import INTERRUPTED, graceful_stop

STYLES = {"completed": "green", "waiting": "yellow", "failed": "bold red", "refused": "bold red"}


@click.command()
@graph_argument
@click.option("--concurrency", metavar="N", type=click.IntRange(1), default=4, show_default=True, help="Runs at once.")
@click.option(
    "--poll",
    "poll_s",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Between two looks into the file.",
)
@click.option("--once", is_flag=True, help="Return when nothing is due any more.")
@json_option
@click.pass_context
def work(ctx: click.Context, target: str, concurrency: int, poll_s: float, once: bool, as_json: bool) -> None:
    """Go on with runs of a graph: decided, due for a retry, past a deadline, or left by an owner that died.

    Prints a line for each run that it worked on. Ctrl-C and SIGTERM give every run back at its next step.
    """
    graph = load_graph(target)
    output = Output(as_json)
    with open_any(ctx.obj) as store, graceful_stop() as stop:
        worker = Worker(
            graph,
            store,
            concurrency=concurrency,
            poll_s=poll_s,
            on_result=lambda worked: _print(output, worked),
            stop=stop,
        )
        output.hint(visible(f"Working on runs of {graph.name} in {store.path}."))
        try:
            worker.run(once)
        except KeyboardInterrupt:
            click.echo("Interrupted: other workers can take over what was being worked on.", err=True)
            ctx.exit(INTERRUPTED)


def _print(output: Output, worked: Worked) -> None:
    status, rest = _in_words(worked)
    if output.as_json:
        fields = {"trace_id": worked.trace_id, "status": status}
        if worked.result is not None:
            return output.object({**fields, "pending_barriers": worked.result.pending_barriers})
        return output.object({**fields, "error": str(worked.error)})
    return output.line(visible(f"{worked.trace_id}  {status:<10}  {rest}".rstrip()), STYLES.get(status, "cyan"))


def _in_words(worked: Worked) -> tuple[str, str]:
    """How a run stands now, and the rest. `refused`: it could not be gone on with."""
    if worked.result is not None:
        return worked.result.status, ", ".join(worked.result.pending_barriers)
    if isinstance(worked.error, RunFailed):
        where = "" if worked.error.node is None else f"{worked.error.node}: "
        return "failed", f"{where}{worked.error.reason}"
    return "refused", str(worked.error)
