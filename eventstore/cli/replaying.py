"""To be written."""

import click


@click.command()
def replay() -> None:
    """To be written."""
