"""To be written."""

import click


@click.command()
def fork() -> None:
    """To be written."""
