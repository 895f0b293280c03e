"""Mutants of how the store writes: durability, guards, what is let in."""

from __future__ import annotations

from .mutant import mutant

MUTANTS = [
    # Durability
    mutant(
        "skipped sync",
        "FULL writes with synchronous=normal",
        "acknowledged_is_durable",
        "acknowledged appends are lost",
        (
            "database",
            'pragma("synchronous", self.durability)',
            'pragma("synchronous", "normal")',
        ),
    ),
    mutant(
        "sync off",
        "FULL writes with synchronous=off",
        "acknowledged_is_durable",
        "acknowledged appends are lost",
        (
            "database",
            'pragma("synchronous", self.durability)',
            'pragma("synchronous", "off")',
        ),
    ),
    mutant(
        "decision unsynced",
        "under NORMAL a human's decision is not synced",
        "a_decision_is_durable",
        "a decision is lost",
        (
            "trace",
            'sync = sync or any(event.kind == "barrier_decided" for event in control)',
            "sync = sync",
        ),
        (
            "deciding",
            "marks=marks, sync=True, at_us=at_us)",
            "marks=marks, at_us=at_us)",
        ),
    ),
    mutant(
        "intent unsynced",
        "under NORMAL the sync that an intent asks for is not made",
        "an_intent_comes_before_its_effect",
        "an effect without an intent in the disk",
        (
            "writer",
            '"full" if any(append.sync for append in batch) else usual',
            "usual",
        ),
    ),
    mutant(
        "ack before commit",
        "an append returns while its transaction is open",
        "acknowledged_is_seen",
        "an acknowledged append is not there",
        (
            "writer",
            "        try:\n            self._insert_row(append)\n"
            "        except apsw.ConstraintError as error:\n"
            "            self._refuse(append, error)\n",
            '        try:\n            self._execute("BEGIN")\n'
            "            self._insert_row(append)\n        except apsw.ConstraintError as error:\n"
            "            self._refuse(append, error)\n",
        ),
    ),
    mutant(
        "ack before group commit",
        "an append that queues returns before the group is committed",
        "the_queue_waits",
        "acknowledged before it was committed",
        (
            "writer",
            "if gate.acquire(timeout=self._database.busy_timeout_ms / 1000):",
            "if True:",
        ),
    ),
    mutant(
        "batch goes down together",
        "an append that is refused undoes the whole batch",
        "a_batch_is_of_independent_appends",
        "an acknowledged append of a batch is lost|the batch's errors",
        (
            "writer",
            'connection.execute(undone_by or "ROLLBACK TO one")',
            'connection.execute("ROLLBACK")',
        ),
    ),
    mutant(
        "retry after a failed sync",
        "an I/O error halts nothing",
        "an_io_error_halts",
        "halts the store|raises StoreHalted",
        (
            "database",
            "        self.halted = reason\n        self.is_open = False\n",
            "",
        ),
    ),
    mutant(
        "trusts the log",
        "opening a file believes the write-ahead log that a killed process left",
        "the_log_is_settled",
        "on opening",
        ("database", "            self.settle(connection)\n", "            pass\n"),
    ),
    mutant(
        "warning unheeded",
        "who had the file open when the disk failed another goes on as if nothing were",
        "the_log_is_settled",
        "before the next commit",
        ("writer", "self._turnstile.heed(lambda: self._database.settle(self._connection))", "pass"),
    ),
    mutant(
        "warns nobody",
        "a disk that fails is no news for other processes",
        "the_log_is_settled",
        "before the next commit",
        ("turnstile", "os.ftruncate(self._fd, os.fstat(self._fd).st_size + 1)", "os.fstat(self._fd)"),
    ),
    mutant(
        "checkpoint after a halt",
        "closing a halted store writes the WAL back",
        "an_io_error_halts",
        "a halted store wrote on close",
        (
            "database",
            "apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1",
            "apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0",
        ),
    ),
    mutant(
        "a full disk halts",
        "no space is taken for an I/O error",
        "a_full_disk_halts_nothing",
        "a full disk is StorageFull",
        (
            "database",
            "if isinstance(error, apsw.FullError):",
            "if isinstance(error, apsw.AbortError):",
        ),
        (
            "database",
            "isinstance(error, apsw.IOError | apsw.CorruptError)",
            "isinstance(error, apsw.Error)",
        ),
    ),
    mutant(
        "nobody waits",
        "the busy handler gives up at once",
        "a_writer_waits_for_the_lock",
        "does not wait for the lock",
        (
            "database",
            "if waited_ms > timeout_ms:",
            "if waited_ms >= 0:",
        ),
    ),
    # Appends
    mutant(
        "append_id ignored",
        "an append goes in under an id of the engine's own",
        "nothing_is_twice",
        "a retry is not the first append",
        (
            "trace",
            "own_id = store._random.getrandbits(63) if append_id is None else append_id",
            "own_id = store._random.getrandbits(63)",
        ),
    ),
    mutant(
        "own retry not settled",
        "the id in a StoreHalted is not looked for in the log",
        "an_io_error_halts",
        "a retry does not settle",
        (
            "reader",
            "            elif expected_version is not None:\n",
            "            elif expected_version == -1:\n",
        ),
    ),
    mutant(
        "append_id of any content",
        "a used id with another content counts as a retry",
        "nothing_is_twice",
        "an id is used once",
        (
            "trace",
            "if not same_events(found.body, body.encode() if isinstance(body, str) else body):",
            "if False:",
        ),
    ),
    mutant(
        "expected_version ignored",
        "an append goes in wherever the trace stands",
        "versions_are_guarded",
        "a stale handle appends nothing|is refused",
        (
            "trace",
            "follow = expected_version is ANY or unless_changed_since is not None",
            "follow = True",
        ),
        (
            "trace",
            "elif isinstance(expected_version, int) and expected_version != self._version:\n                raise",
            "elif self._version < 0:\n                raise",
        ),
    ),
    mutant(
        "notes count as changes",
        "unless_changed_since is broken by a note",
        "notes_change_nothing",
        "a note counts as a change",
        (
            "trace",
            "if any(event.kind not in MAIL for event in decode_rows(row.body)):",
            "if decode_rows(row.body):",
        ),
    ),
    mutant(
        "changes count as notes",
        "unless_changed_since is not broken by a delta",
        "notes_change_nothing",
        "an append after a change is refused",
        (
            "trace",
            "if any(event.kind not in MAIL for event in decode_rows(row.body)):",
            "if row.n < 0:",
        ),
    ),
    mutant(
        "no next-seq guard",
        "the trigger takes any seq",
        "the_log_defends_itself",
        "the log took a gap",
        (
            "WHERE NEW.first_seq IS NOT coalesce(\n",
            "WHERE NEW.first_seq < coalesce(\n",
        ),
    ),
    mutant(
        "log can be updated",
        "no trigger against UPDATE",
        "the_log_defends_itself",
        "the log took an update",
        (
            "CREATE TRIGGER log_no_update BEFORE UPDATE ON log BEGIN\n  SELECT RAISE(ABORT, 'the log is immutable');",
            "CREATE TRIGGER log_no_update BEFORE UPDATE ON log BEGIN\n  SELECT 1;",
        ),
    ),
    mutant(
        "log can be deleted",
        "no trigger against DELETE",
        "the_log_defends_itself",
        "the log took a deletion",
        (
            "WHERE NOT EXISTS (SELECT 1 FROM root WHERE trace = OLD.trace AND seq >= OLD.first_seq + OLD.n - 1)\n",
            "WHERE NOT EXISTS (SELECT 1 FROM log WHERE trace = OLD.trace)\n",
        ),
    ),
    mutant(
        "rows can be replaced",
        "INSERT OR REPLACE removes an older row",
        "the_log_defends_itself",
        "the log took a replacement",
        (
            "    WHERE EXISTS (SELECT 1 FROM log WHERE id = NEW.id);",
            "    WHERE NEW.id = -7;",
        ),
    ),
    # The door
    mutant(
        "NaN gets in",
        "a number that is none is written as null",
        "what_json_cannot_hold_is_refused",
        "NaN is refused",
        (
            "codec",
            "    if kind is float:\n        if not math.isfinite(value):",
            "    if kind is float:\n        if value is None:",
        ),
    ),
    mutant(
        "NaN gets in inside",
        "a number that is none is written as null inside a list",
        "what_json_cannot_hold_is_refused",
        "NaN inside is refused",
        (
            "codec",
            "    if isinstance(value, float) and not math.isfinite(value):\n",
            "    if value is ...:\n",
        ),
    ),
    mutant(
        "no limit of depth",
        "values may be nested as deep as they come",
        "what_json_cannot_hold_is_refused",
        "a value 200 deep is refused",
        (
            "codec",
            "> MAX_DEPTH and _depth(live) > MAX_DEPTH:",
            "> MAX_DEPTH and _depth(live) < 0:",
        ),
    ),
    mutant(
        "keys of one text",
        "two keys of one text are both written",
        "what_json_cannot_hold_is_refused",
        "two keys of one text is refused",
        (
            "codec",
            "            if json_encode(live) != raw:",
            "            if json_encode(live) == b'':",
        ),
    ),
    mutant(
        "redacted after the log",
        "a step's values reach the log before they are redacted",
        "redacted_words_never_reach_the_file",
        "redacted words stand in",
        (
            "step",
            "        if self._redact is not None:\n            value = self._redact(key, value)\n"
            "        wire, live, size = normalise(key, value)\n        kind = type(old)",
            "        wire, live, size = normalise(key, value)\n"
            "        if self._redact is not None:\n            live = self._redact(key, value)\n"
            "        kind = type(old)",
        ),
        (
            "trace",
            "events = [redact_event(self._store.redact, event) for event in events]",
            "events = list(events)",
        ),
    ),
    mutant(
        "first state unredacted",
        "what a trace is started with is not redacted",
        "redacted_words_never_reach_the_file",
        "redacted words stand in",
        (
            "store",
            "normalise_state({key: self.redact(key, value) for key, value in initial.items()})",
            "dict(initial)",
        ),
    ),
]
