"""The command line: `eventstore [--db PATH] COMMAND`."""

from .app import main

__all__ = ["main"]
