"""To be written."""

import click


@click.command()
def blame() -> None:
    """To be written."""


@click.command()
def why() -> None:
    """To be written."""
