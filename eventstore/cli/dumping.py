"""To be written."""

import click


@click.command()
def jsonl() -> None:
    """To be written."""
