"""Mutants of what states are made of: folds, bases, forks, trims, erasures, dumps."""

from __future__ import annotations

from .mutant import mutant

MUTANTS = [
    # Fold
    mutant(
        "a fold forgets deletes",
        "a delete leaves its key",
        "states_are_what_was_written",
        "another (live )?state",
        (
            "fold",
            '    elif op == "delete":\n        state.pop(key, None)\n    else:\n        state[key] = combine',
            '    elif op == "delete":\n        pass\n    else:\n        state[key] = combine',
        ),
    ),
    mutant(
        "a link forgets deletes",
        "the net effect of a stretch leaves deleted keys",
        "bases_change_no_answer",
        "another state|does not verify",
        (
            "link",
            "            self.entries.pop(key, None)\n            self.deleted[key] = None\n            return",
            "            self.entries.pop(key, None)\n            return",
        ),
    ),
    mutant(
        "sums become floats",
        "a sum of integers is a float",
        "states_are_what_was_written",
        "another (live )?state",
        (
            "fold",
            "            if INT_MIN <= total <= INT_MAX:\n                return total\n",
            "            if INT_MIN <= total <= INT_MAX:\n                return float(total)\n",
        ),
    ),
    mutant(
        "floats are summed at once",
        "a link adds its float sums in another order",
        "bases_change_no_answer",
        "another state|does not verify",
        (
            "link",
            "if type(state.get(key, 0)) is int and set(map(type, numbers)) == {int}:",
            "if numbers:",
        ),
    ),
    mutant(
        "splice off by one",
        "a splice begins one item late",
        "states_are_what_was_written",
        "another (live )?state",
        (
            "fold",
            "current[start : start + count] = items or []",
            "current[start + 1 : start + 1 + count] = items or []",
        ),
    ),
    mutant(
        "reducers on replay",
        "a replayed append goes through the reducer again",
        "states_are_what_was_written",
        "another state|does not verify",
        (
            "link",
            "            else:\n                apply(state, row.key, row.op, row.value)\n            continue",
            "            else:\n                apply(state, row.key, row.op, row.value)\n"
            '                row.op == "sum" and apply(state, row.key, row.op, row.value)\n'
            "            continue",
        ),
    ),
    mutant(
        "opaque items out of order",
        "the pieces of an adapter's list are put together backwards",
        "opaque_lists_grow",
        "not what was appended",
        (
            "opaque",
            'return self._chunks[0] if self._used == 1 else b"".join(self._chunks[: self._used])',
            'return self._chunks[0] if self._used == 1 else b"".join(self._chunks[: self._used][::-1])',
        ),
    ),
    mutant(
        "opaque count wrong",
        "an append to an adapter's list does not count its items",
        "opaque_lists_grow",
        "not what was appended|DeltaApply: splice of 'log' does not apply",
        (
            "opaque",
            'longer = Opaque(self._codec, b"", self._count + other._count)',
            'longer = Opaque(self._codec, b"", self._count)',
        ),
    ),
    # Bases
    mutant(
        "base at the wrong seq",
        "a base is stamped with its row's first seq",
        "bases_change_no_answer",
        "another state|does not verify|LogCorrupted: .*the next row holds",
        (
            "writer",
            "lineage(connection, trace_by_row(connection, trace), first_seq + n - 1)",
            "lineage(connection, trace_by_row(connection, trace), first_seq)",
        ),
    ),
    mutant(
        "link omits rows of others",
        "a link holds the appending handle's own row only",
        "bases_change_no_answer",
        "another state|does not verify",
        (
            "bases",
            "for _, _, row_body in rows(connection, segments, after):",
            "for _, _, row_body in list(rows(connection, segments, after))[-1:]:",
        ),
    ),
    mutant(
        "base unchecked",
        "a base's checksum is not looked at",
        "a_damaged_base_is_never_trusted",
        "another state",
        (
            "bases",
            "if not base.is_sound():",
            "if False:",
        ),
    ),
    mutant(
        "base of a sibling",
        "a fork takes its parent's bases from after the fork",
        "bases_change_no_answer",
        "another state",
        (
            "bases",
            "row: Any = connection.execute(NEAREST, (segment.trace, min(seq, segment.upto))).fetchone()",
            "row: Any = connection.execute(NEAREST, (segment.trace, seq)).fetchone()",
        ),
    ),
    mutant(
        "link over the wrong parent",
        "a link is applied over the empty state",
        "bases_change_no_answer",
        "another state|does not verify",
        (
            "bases",
            "        below = base.parent\n    for link in",
            "        below = EMPTY\n    for link in",
        ),
    ),
    # Forks, trims, erasures
    mutant(
        "fork shares one too many",
        "a fork reads the parent's row after the place where it was taken",
        "a_fork_shares_its_history_exactly",
        "another state|LogCorrupted: .*the next row holds",
        (
            "log",
            "upto = min(upto, trace.fork_seq)",
            "upto = min(upto, trace.fork_seq) + 1",
        ),
    ),
    mutant(
        "fork in mid-step",
        "a fork can be taken inside a step",
        "a_fork_shares_its_history_exactly",
        "a fork begins at a boundary",
        (
            "log",
            "    if found.last_seq != seq:\n        raise NotAStepBoundary",
            "    if False:\n        raise NotAStepBoundary",
        ),
    ),
    mutant(
        "trim loses the state",
        "the root holds an empty state",
        "a_trim_keeps_what_is_after_it",
        "another state",
        (
            "retention",
            "body = encode_whole(control, state, state_size_bytes(state))",
            "body = encode_whole(control, {}, state_size_bytes(state))",
        ),
    ),
    mutant(
        "root without its digest",
        "the chain does not go on from a root",
        "a_trim_keeps_what_is_after_it",
        "does not verify",
        (
            "retention",
            "connection.execute(INSERT_ROOT, (trace.id, at.version, at.at_us, at.digest,",
            "connection.execute(INSERT_ROOT, (trace.id, at.version, at.at_us, bytes(16),",
        ),
    ),
    mutant(
        "trim under a fork",
        "a trim takes what a fork, a barrier or a retry needs",
        "a_trim_keeps_what_is_after_it",
        "a fork keeps what it shares",
        (
            "retention",
            "_refuse(trace_id, blockers.of_trim(connection, trace, head, retry_window_s))",
            "head = head",
        ),
    ),
    mutant(
        "trim takes a question",
        "a trim removes where an open barrier was raised",
        "a_trim_keeps_what_is_after_it",
        "an open barrier keeps its question",
        (
            "blockers",
            "for barrier_id, seq in connection.execute(OPEN_AT, (trace.id, at.version)):",
            "for barrier_id, seq in ():",
        ),
    ),
    mutant(
        "trim takes a retry's row",
        "a trim removes what an append_id may be asked for again",
        "a_trim_keeps_what_is_after_it",
        "what may be tried again stays",
        (
            "blockers",
            "if at.at_us > cutoff_us:",
            "if at.at_us < 0:",
        ),
    ),
    mutant(
        "trimmed history readable",
        "below a root a state of what is left is given",
        "a_trim_keeps_what_is_after_it",
        "behind a root there is nothing to see",
        (
            "bases",
            "            raise Trimmed(trace_id, seq, segments[-1].upto, trimmed)",
            "            break",
        ),
    ),
    mutant(
        "root unchecked",
        "a root's checksum is not looked at",
        "a_damaged_root_is_refused",
        "a damaged root is never read",
        (
            "bases",
            "if crc != root_checksum(segment.trace, found, body)",
            "if found < 0",
        ),
    ),
    mutant(
        "trim trusts the log",
        "a trim does not check rows against the chain",
        "damage_is_never_made_the_truth",
        "a trim refuses damage",
        (
            "retention",
            "            if digest != row.digest:",
            "            digest = row.digest\n            if digest is None:",
        ),
    ),
    mutant(
        "erasure without a rewrite",
        "what was deleted is neither overwritten nor rewritten",
        "erased_words_are_gone",
        "erased words stand in",
        (
            "retention",
            '"PRAGMA incremental_vacuum" if mark is None else "VACUUM"',
            '"PRAGMA incremental_vacuum"',
        ),
        (
            "retention",
            'connection.pragma("secure_delete", 1)',
            'connection.pragma("secure_delete", 0)',
        ),
    ),
    mutant(
        "erasure leaves the WAL",
        "the write-ahead log is not truncated",
        "erased_words_are_gone",
        "erased words stand in",
        (
            "retention",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA wal_checkpoint(PASSIVE)",
        ),
    ),
    # Checkpoints and dumps
    mutant(
        "the oldest are kept",
        "pruning removes the newest checkpoints",
        "checkpoints_stay_where_they_are",
        "pruning left",
        (
            "checkpoints",
            "(SELECT checkpoint_id FROM checkpoint WHERE trace = ?1 ORDER BY seq DESC, checkpoint_id DESC LIMIT ?2)",
            "(SELECT checkpoint_id FROM checkpoint WHERE trace = ?1 ORDER BY seq, checkpoint_id DESC LIMIT ?2)",
        ),
    ),
    mutant(
        "a dump drops checkpoints",
        "checkpoints are counted, not written",
        "a_dump_is_the_whole_store",
        "checkpoints are missing",
        (
            "transfer.outgoing",
            '            lines.append((seq, checked("checkpoint", json_encode(fields), '
            "row.trace_id)))\n        self.checkpoints += len(found)\n"
            "        return lines, len(found)",
            "            del fields\n        self.checkpoints += len(found)\n        return lines, 0",
        ),
    ),
    mutant(
        "a load trusts digests",
        "the digests in a dump are believed",
        "a_dump_is_the_whole_store",
        "a changed dump is refused",
        (
            "transfer.incoming",
            "            if digest.hex() != line.digest:\n",
            "            digest = digest_of(line.digest)\n            if digest.hex() != line.digest:\n",
        ),
    ),
]
