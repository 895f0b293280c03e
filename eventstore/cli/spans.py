"""`export otel`: runs as OpenTelemetry traces, sent to a collector over OTLP/HTTP.

Where to send, with which headers, certificates, compression and timeout is read by OpenTelemetry's own exporter from
the `OTEL_EXPORTER_OTLP_*` environment; `--endpoint` goes before it. What that exporter logs of a delivery that
failed becomes the reason in the one line that a command fails with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import click
from rich.progress import MofNCompleteColumn

from eventstore.errors import DeliveryFailed

from .choosing import choice, chosen
from .opening import json_option, open_for_reading
from .output import Output, count, visible
from .progress import progress_bar
from .stopping import INTERRUPTED

TRACES_PATH = "/v1/traces"
LOGGER = "opentelemetry"


@click.command("otel")
@choice
@click.option("--endpoint", metavar="URL", help="The collector, as http://localhost:4318; by default as OTEL_* says.")
@json_option
@click.pass_context
def spans(
    ctx: click.Context,
    traces: Sequence[str],
    name: str | None,
    status: str | None,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Send runs to an OpenTelemetry collector (OTLP over HTTP): a trace each, a span for each node that ran.

    All of them, unless TRACE or --name and --status choose. Sending again gives the same ids. Without --endpoint,
    the environment says where (OTEL_EXPORTER_OTLP_ENDPOINT, …_HEADERS, …_TIMEOUT, …), else localhost:4318.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from eventstore.integrations.otel import export_spans
    except ImportError as error:
        missing = "sending spans needs OpenTelemetry: pip install 'trace-eventstore[otel]'"
        raise click.ClickException(visible(f"{missing} ({error})")) from None
    output = Output(as_json)
    with open_for_reading(ctx.obj) as store, _told() as reasons:
        ids = chosen(store, traces, name, status)
        exporter = OTLPSpanExporter(endpoint=None if endpoint is None else traces_url(endpoint))
        close: Callable[[], None] = exporter.shutdown
        try:
            with _progress(ids) as each:
                sent = export_spans(store, each, exporter)
        except DeliveryFailed as error:
            told = "; ".join(dict.fromkeys([*reasons[:1], *reasons[-1:]])) or error.reason
            reason = f": {told}" if told else ""
            after = f" (after {count(error.delivered, 'span')})" if error.delivered else ""
            raise click.ClickException(visible(f"the collector did not take the spans{reason}{after}")) from None
        except KeyboardInterrupt:
            click.echo("Interrupted: sending again gives the same ids.", err=True)
            ctx.exit(INTERRUPTED)
        finally:
            close()
    if as_json:
        return output.object({"traces": len(ids), "spans": sent})
    return output.line(f"Sent {count(sent, 'span')} of {count(len(ids), 'run')}.")


def traces_url(endpoint: str) -> str:
    """Where traces go at a collector; a URL with a path is taken as it is. Raises click.UsageError.

    >>> traces_url("http://localhost:4318"), traces_url("https://collector/otel/v1/traces")
    ('http://localhost:4318/v1/traces', 'https://collector/otel/v1/traces')
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.UsageError(visible(f"--endpoint is a URL as http://localhost:4318, not {endpoint}"))
    return urlunsplit(parts._replace(path=TRACES_PATH)) if parts.path in ("", "/") else endpoint


class _Reasons(logging.Handler):
    """Keeps what was logged instead of printing it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.found.append(" ".join(record.getMessage().split()))


@contextmanager
def _told() -> Iterator[list[str]]:
    """What OpenTelemetry logs meanwhile, kept from stderr."""
    logger, handler = logging.getLogger(LOGGER), _Reasons()
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield handler.found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


@contextmanager
def _progress(ids: Sequence[str]) -> Iterator[Iterator[str]]:
    """The ids one by one, with a bar on stderr that says how many were taken."""
    bar = progress_bar("sending", MofNCompleteColumn(), "runs")
    with bar:
        task = bar.add_task("", total=len(ids))

        def each() -> Iterator[str]:
            for trace_id in ids:
                yield trace_id
                bar.advance(task)

        yield each()
