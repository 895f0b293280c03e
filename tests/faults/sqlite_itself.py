"""What SQLite cannot tell of itself: files taken away under it, and a race that old versions lose."""

from __future__ import annotations

from . import detached_files, wal_reset

CAMPAIGNS = [*detached_files.CAMPAIGNS, *wal_reset.CAMPAIGNS]
