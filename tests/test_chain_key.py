"""A keyed chain: who does not have the key can damage the log, but not compute one that verifies."""

from __future__ import annotations

import io

import apsw
import pytest
from click.testing import CliRunner

import eventstore as es
from eventstore.chain import Chain, genesis
from eventstore.cli.app import main
from eventstore.transfer.loading import load
from eventstore.transfer.outgoing import dump

KEY = "sixteen bytes or more"
OTHER = "another one of that size"
ROWS = "SELECT first_seq, n, at_us, append_id, CAST(body AS BLOB) FROM log WHERE trace = 1 ORDER BY first_seq"


@pytest.fixture
def keyed(path, record):
    """A closed store whose digests are keyed: a trace with checkpoints, one that is trimmed, one that is erased."""
    with es.open(path, chain_key=KEY) as store:
        record(store, 8, "t1")
        record(store, 8, "t2")
        store.start({}, id="t3")
        store.open_trace("t1").checkpoint()
        store.trim("t2", 9, retry_window_s=0)
        store.erase("t3")
    return path


def recompute(path, chain):
    """Edit a row of the first trace past the guards, and give it and all after it the digests of `chain`."""
    connection = apsw.Connection(path)
    guard = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'log_no_update'").get
    connection.execute("DROP TRIGGER log_no_update")
    edited = "UPDATE log SET body = replace(body, 'step 2', 'step 9') WHERE trace = 1"
    connection.execute(edited)
    digest = genesis("t1")
    for first_seq, n, at_us, append_id, body in connection.execute(ROWS).fetchall():
        digest = chain.extend(digest, first_seq, n, at_us, append_id, body)
        connection.execute("UPDATE log SET digest = ? WHERE trace = 1 AND first_seq = ?", (digest, first_seq))
    connection.execute(guard)
    connection.close()


def test_with_its_key_a_file_is_as_any_other(keyed):
    with es.open(keyed, chain_key=KEY) as store:
        assert store.verify().ok
        with store.open_trace("t1").step("more") as step:
            step.put("n", 9)
        assert store.fork("t1", 9).version == 10 and store.verify().ok


def test_a_log_that_was_recomputed_verifies_without_a_key_and_not_with_one(path, keyed, record, tmp_path):
    plain = str(tmp_path / "plain.db")
    with es.open(plain) as store:
        record(store, 8, "t1")
        store.drop_bases()
    recompute(plain, Chain())
    with es.open(plain) as store:
        assert store.verify().ok and store.state_at("t1", 13)["text"] == "step 9"
    recompute(keyed, Chain())
    with es.open(keyed, chain_key=KEY) as store:
        (problem,) = [problem for problem in store.verify().problems if problem.in_log]
        assert (problem.trace_id, problem.seq, problem.check) == ("t1", 1, "digest")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({}, "needed to append"),
        ({"chain_key": OTHER}, "this is another one"),
        ({"chain_key": OTHER, "read_only": True}, "this is another one"),
    ],
)
def test_a_keyed_file_is_appended_to_with_its_key_only(keyed, how, told):
    with pytest.raises(es.WrongChainKey, match=told):
        es.open(keyed, **how)


def test_a_file_is_given_its_key_when_it_is_made(path):
    es.open(path).close()
    with pytest.raises(es.WrongChainKey, match="or never"):
        es.open(path, chain_key=KEY)


@pytest.mark.parametrize("secret", ["", "fifteen letters", b"123456789012345"])
def test_a_key_has_at_least_16_bytes(path, secret):
    with pytest.raises(ValueError, match="16 bytes or more"):
        es.open(path, chain_key=secret)


def test_without_the_key_a_file_is_read_and_not_judged(keyed):
    with es.open(keyed, read_only=True) as store:
        assert store.state_at("t1")["n"] == 8 and store.state_at("t2")["n"] == 8
        with pytest.raises(es.WrongChainKey, match="cannot be checked"):
            store.verify()
        with pytest.raises(es.WrongChainKey):
            dump(store, io.BytesIO())
        with pytest.raises(es.WrongChainKey):
            store.backup(f"{keyed}.copy")


def test_who_opens_a_file_with_a_key_is_told_when_the_key_was_taken_out_of_it(keyed):
    connection = apsw.Connection(keyed)
    with pytest.raises(apsw.ConstraintError):
        connection.execute("DELETE FROM chain_key")
    connection.execute("DROP TRIGGER chain_key_no_delete; DELETE FROM chain_key")
    connection.close()
    with pytest.raises(es.WrongChainKey, match="have no key"):
        es.open(keyed, chain_key=KEY)


def test_a_key_is_not_put_into_a_file_that_has_traces(path, raw):
    with es.open(path) as store:
        store.start({})
    with pytest.raises(apsw.ConstraintError, match="a file keeps its key"):
        raw.execute("INSERT INTO chain_key VALUES (1, zeroblob(16))")


def test_a_dump_goes_into_stores_of_the_same_key_only(keyed, tmp_path):
    lines = io.BytesIO()
    with es.open(keyed, chain_key=KEY, read_only=True) as store:
        dump(store, lines)
    for name, key in (("plain", None), ("other", OTHER)):
        with es.open(tmp_path / f"{name}.db", chain_key=key) as store:
            lines.seek(0)
            with pytest.raises(es.MalformedDump, match="made with the same"):
                load(store, lines)
            assert store.traces() == []
    with es.open(tmp_path / "same.db", chain_key=KEY) as store:
        lines.seek(0)
        assert load(store, lines).added == 2
        assert store.verify().ok


def test_the_command_line_takes_keys_from_the_environment(keyed):
    def verified(**variables):
        return CliRunner().invoke(main, ["--db", keyed, "verify"], env=variables)

    assert verified(EVENTSTORE_CHAIN_KEY=KEY).exit_code == 0
    missing, other, short = verified(), verified(EVENTSTORE_CHAIN_KEY=OTHER), verified(EVENTSTORE_CHAIN_KEY="short")
    assert (missing.exit_code, other.exit_code, short.exit_code) == (1, 1, 2)
    assert "cannot be checked without the key" in missing.output and "this is another one" in other.output
    assert "EVENTSTORE_CHAIN_KEY" in short.output and "unexpected" not in short.output
