"""Mutants of how damage is found: the chain, `verify`, and the projections."""

from __future__ import annotations

from .mutant import mutant

MUTANTS = [
    mutant(
        "chain without times",
        "a digest does not cover at_us",
        "every_column_is_in_the_chain",
        "does not find an edited at_us",
        (
            "chain",
            "_place(first_seq, n, at_us, own)",
            "_place(first_seq, n, 0, own)",
        ),
    ),
    mutant(
        "chain without append ids",
        "a digest does not cover a caller's append_id",
        "every_column_is_in_the_chain",
        "does not find an edited append_id",
        (
            "chain",
            "            link += str(append_id).encode()",
            '            link += b""',
        ),
    ),
    mutant(
        "chain without own ids",
        "a digest does not cover the engine's append ids",
        "every_column_is_in_the_chain",
        "does not find an edited own id",
        (
            "chain",
            "own = append_id if type(append_id) is int else -1",
            "own = 0 if type(append_id) is int else -1",
        ),
    ),
    mutant(
        "chain without bodies",
        "a digest does not cover the events",
        "every_column_is_in_the_chain",
        "does not find an edited body",
        (
            "chain",
            "+ blake2b(body, digest_size=16).digest()",
            "+ blake2b(digest_size=16).digest()",
        ),
    ),
    mutant(
        "chains begin alike",
        "the chain does not cover the trace's id",
        "every_column_is_in_the_chain",
        "does not find an edited trace_id",
        (
            "chain",
            "blake2b(trace_id.encode(), digest_size=16)",
            'blake2b(b"", digest_size=16)',
        ),
    ),
    mutant(
        "verify skips the chain",
        "digests are not compared",
        "every_column_is_in_the_chain",
        "does not find an edited at_us",
        (
            "log_check",
            "row.append_id, row.body) != row.digest:",
            "row.append_id, row.body) == b'':",
        ),
    ),
    mutant(
        "verify skips bases",
        "bases are not looked at",
        "a_damaged_base_is_never_trusted",
        "verify does not name a damaged base",
        (
            "log_check",
            "        if found is not None:\n            self.fail(base.seq",
            "        if found == '':\n            self.fail(base.seq",
        ),
    ),
    mutant(
        "verify trusts checksums",
        "a whole base is not compared with the fold of the log",
        "verify_compares_bases_with_the_log",
        "takes a false base",
        (
            "base_check",
            "if msgpack_encode(decode_whole(base.body)) != msgpack_encode(now):",
            "if not decode_whole(base.body):",
        ),
    ),
    mutant(
        "verify skips projections",
        "status and barriers are not compared with the log",
        "every_column_is_in_the_chain",
        "does not find an edited status",
        (
            "row_check",
            "    if trace.status != status:",
            "    if trace.status == '':",
        ),
    ),
    mutant(
        "status not updated",
        "the list of traces does not learn of a change",
        "projections_tell_what_the_log_tells",
        "the list of traces says",
        (
            "pending",
            "if status_of(after) != status_of(before):",
            "if False:",
        ),
    ),
    mutant(
        "inbox not updated",
        "a decided barrier stays in the inbox",
        "projections_tell_what_the_log_tells",
        "the inbox says",
        (
            "pending",
            'statements.append((DECIDE_BARRIER, (seq, TRACE_ROW, event.data["barrier_id"])))',
            "pass",
        ),
    ),
    mutant(
        "verify skips barriers",
        "the inbox is not compared with the log",
        "every_column_is_in_the_chain",
        "does not find an edited barrier",
        ("row_check", "        if listed.get(barrier_id) != said.get(barrier_id):", "        if barrier_id == '':"),
    ),
    mutant(
        "verify skips guards",
        "a trigger that is gone is not missed",
        "what_the_log_does_not_say_is_sealed",
        "does not find a changed guard",
        ("verify", '        yield Problem("-", 0, "schema", str(error), True)', "        yield from ()"),
    ),
    mutant(
        "verify skips the gone",
        "a trace that is gone without a tombstone is not missed",
        "what_the_log_does_not_say_is_sealed",
        "does not find a changed trace",
        (
            "row_check",
            "        for free in range(before + 1, min(number, before + 100)):",
            "        for free in range(0):",
        ),
    ),
    mutant(
        "seals unchecked",
        "a row beside the log is never compared with its seal",
        "what_the_log_does_not_say_is_sealed",
        "does not find a changed checkpoint",
        ("chain", "return seal == expected or (seal is None and not self._key)", "return expected is not None"),
    ),
    mutant(
        "seals of nothing",
        "a seal does not cover the fields",
        "what_the_log_does_not_say_is_sealed",
        "does not find a changed checkpoint",
        ("chain", "blake2b(_encode_fields(fields), digest_size=8,", "blake2b(b'', digest_size=8,"),
    ),
    mutant(
        "keyless digests",
        "the digests of a keyed file are computed without its key",
        "a_key_keeps_the_chain",
        "takes a forged chain",
        (
            "chain",
            "return blake2b(link, digest_size=16, key=self._key).digest()",
            "return blake2b(link, digest_size=16).digest()",
        ),
    ),
    mutant(
        "any key will do",
        "a keyed file is opened with another key",
        "a_key_keeps_the_chain",
        "another key opens nothing",
        (
            "database",
            "        if given == found:\n            return\n",
            "        if given != b'':\n            return\n",
        ),
    ),
    mutant(
        "heads unchecked",
        "a head that was kept elsewhere is not looked for",
        "a_head_kept_elsewhere_shows_a_lost_end",
        "does not miss the end",
        ("verify", "            if trace.trace_id in wanted:\n", "            if trace.trace_id == '':\n"),
    ),
]
