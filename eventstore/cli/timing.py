"""To be written."""

import click


@click.command()
def timeline() -> None:
    """To be written."""
