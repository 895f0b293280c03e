"""To be written."""

import click


@click.command()
def prune() -> None:
    """To be written."""
