"""Runs as tables of a database of their own, for Datasette and for SQL: written by sqlite-utils, kept up to date."""

from .export import Exported, OnProgress, export_analysis

__all__ = ["Exported", "OnProgress", "export_analysis"]
