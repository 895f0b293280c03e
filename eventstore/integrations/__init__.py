"""Bridges to other libraries, each with an extra of its own; nothing here is imported by the engine."""
