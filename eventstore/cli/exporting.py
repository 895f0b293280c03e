"""`export`: take traces out of the store, in another form."""

from __future__ import annotations

import click


@click.group()
def export() -> None:
    """Take traces out: for analysis, for another store, as a picture, as spans."""
