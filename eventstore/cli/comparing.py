"""To be written."""

import click


@click.command()
def diff() -> None:
    """To be written."""
