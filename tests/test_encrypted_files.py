"""Encryption at rest, in processes of their own: `apsw-sqlite3mc` takes the place of `apsw` there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import eventstore as es

PLACE = Path(sys.prefix) / "encryption"
"""Where `make test` puts apsw-sqlite3mc, beside the apsw that all other tests use."""
KEY = "0123456789abcdef0123456789abcdef"
needs_cipher = pytest.mark.skipif(not PLACE.is_dir(), reason="make test puts apsw-sqlite3mc into .venv/encryption")


def encrypted(code, path, **variables):
    """Run code with `es`, `path` and `KEY` where SQLite can encrypt; what it prints, or the error's last line."""
    head = f"import eventstore as es, sys, os\npath, KEY = {str(path)!r}, {KEY!r}\n"
    found = subprocess.run(
        [sys.executable, "-c", head + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PLACE), *sys.path]), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() if found.returncode == 0 else found.stderr.strip().splitlines()[-1]


RECORD = """
with es.open(path, encryption_key=KEY, fold_policy=es.FoldEvery(3)) as store:
    trace = store.start({"secret word": ["a secret value"]}, id="secret-id", name="secret name")
    for number in range(20):
        with trace.step("secret node") as step:
            step.put("secret key", f"secret {number}")
    trace.raise_barrier("secret barrier", prompt="secret prompt")
    if "crash" in sys.argv: os._exit(0)
"""


@pytest.fixture
def secret(path):
    """A closed file of a few steps, encrypted."""
    assert encrypted(RECORD, path) == ""
    return path


@needs_cipher
def test_with_its_key_an_encrypted_file_is_as_any_other(secret):
    read = "with es.open(path, encryption_key=KEY{}) as store: print(store.verify().ok, store.state_at('secret-id'))"
    told = "True {'secret word': ['a secret value'], 'secret key': 'secret 19'}"
    assert encrypted(read.format(""), secret) == told
    assert encrypted(read.format(", read_only=True"), secret) == told


@needs_cipher
def test_no_word_of_it_stands_in_the_file_or_beside_it(path):
    assert encrypted(RECORD.replace('if "crash" in sys.argv: ', ""), path) == ""
    beside = [file for file in Path(path).parent.iterdir() if file.name.startswith(Path(path).name)]
    assert Path(f"{path}-wal") in beside and Path(f"{path}-wal").stat().st_size > 0
    for file in beside:
        content = file.read_bytes()
        assert b"secret" not in content and b"SQLite format" not in content and b"CREATE TABLE" not in content


@needs_cipher
@pytest.mark.parametrize("how", ["", ", encryption_key='another key that is long'"])
def test_without_its_key_it_is_no_event_store(secret, how):
    told = encrypted(f"es.open(path{how})", secret)
    assert told.startswith("eventstore.errors.NotAnEventStore: ") and secret in told


@needs_cipher
def test_a_plain_file_is_not_opened_with_a_key(path):
    es.open(path).close()
    assert encrypted("es.open(path, encryption_key=KEY)", path).startswith("eventstore.errors.NotAnEventStore: ")


@needs_cipher
def test_a_page_that_was_changed_is_not_read(secret):
    content = bytearray(Path(secret).read_bytes())
    for offset in range(4096 + 100, len(content), 4096):
        content[offset] ^= 1
    Path(secret).write_bytes(content)
    told = encrypted("with es.open(path, encryption_key=KEY) as store: print(store.state_at('secret-id'))", secret)
    assert told.startswith("eventstore.errors.")


@needs_cipher
def test_the_command_line_takes_the_key_from_the_environment(secret):
    verify = "from eventstore.cli.app import main; main(['--db', path, 'verify', '--json'])"
    assert '"ok":true' in encrypted(verify, secret, EVENTSTORE_ENCRYPTION_KEY=KEY)


def test_the_usual_sqlite_says_what_is_needed(path):
    with pytest.raises(es.StorageError, match="pip install apsw-sqlite3mc"):
        es.open(path, encryption_key=KEY)
    assert not Path(path).exists()


def test_an_encryption_key_is_no_short_password(path):
    with pytest.raises(ValueError, match="16 random bytes or more, this one 8"):
        es.open(path, encryption_key="password")
