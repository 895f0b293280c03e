"""Traces as JSON Lines: out of one store, and into another that is then equal."""

from .loading import LoadCounts, load
from .outgoing import DumpCounts, dump

__all__ = ["DumpCounts", "LoadCounts", "dump", "load"]
