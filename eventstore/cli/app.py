"""The group of commands: which file they work on, and how what goes wrong is told.

Whatever the engine or the system raises on purpose becomes one line on stderr and exit code 1; a wrong
command line exits with 2. A reader that goes away (`| head`) ends the command without a word.
"""

from __future__ import annotations

import errno
import os
import warnings
from typing import Any

import click

from eventstore import __version__
from eventstore.errors import BaseCorrupted, EventStoreError

from .backing import backup_command
from .branching import fork
from .comparing import diff
from .deciding import barriers, cancel, decide
from .explaining import blame, why
from .exporting import export
from .figures import stats
from .importing import import_
from .listing import checkpoints, runs
from .looking import log, state
from .opening import DEFAULT_DB
from .output import visible
from .pruning import prune
from .replaying import replay
from .running import graph, resume, run
from .salvaging import salvage_command
from .tailing import tail
from .threads import threads
from .threads_importing import import_langgraph
from .timing import timeline
from .verifying import verify
from .working import work


class Commands(click.Group):
    """A group that lists its commands in the order they were added and tells errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises click.ClickException for what the engine or the system refuses."""
        try:
            return super().invoke(ctx)
        except EventStoreError as error:
            raise click.ClickException(visible(str(error))) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            named = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(visible(f"{named}{error.strerror or error}")) from None
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            # A damaged file can trip code that trusts what it reads; the person at the prompt gets a line all the same.
            if os.environ.get("EVENTSTORE_DEBUG"):
                raise
            told = f"unexpected {type(error).__name__}: {error} (EVENTSTORE_DEBUG=1 shows where)"
            raise click.ClickException(visible(told)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--db",
    envvar="EVENTSTORE_DB",
    show_envvar=True,
    default=DEFAULT_DB,
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The event store to work on.",
)
@click.version_option(__version__, prog_name="eventstore")
@click.pass_context
def main(ctx: click.Context, db: str) -> None:
    """Record runs of agents and workflows durably, and look at any of them at any step.

    TRACE is a trace's id, or any beginning of it that no other trace shares; or a LangGraph thread's id (with
    :NAMESPACE for a subgraph's), which stands for the trace of its newest checkpoint. Every command takes --json.
    """
    ctx.obj = db
    ctx.with_resource(warnings.catch_warnings())
    warnings.simplefilter("always", BaseCorrupted)
    warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Warning | str, *_: Any) -> None:
    click.echo(f"Warning: {visible(str(message))}", err=True)


for _command in (
    import_,
    import_langgraph,
    run,
    resume,
    barriers,
    decide,
    cancel,
    work,
    tail,
    runs,
    threads,
    state,
    log,
    checkpoints,
    timeline,
    diff,
    blame,
    why,
    fork,
    replay,
    export,
    prune,
    graph,
    stats,
    verify,
    backup_command,
    salvage_command,
):
    main.add_command(_command)
