"""Cases: each a file made from a sample by a seed and its number alone, so that any of them can be made again."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import NamedTuple

import apsw

from .foreign_bytes import DAMAGE, Pages
from .foreign_lines import LINES, OTHERS
from .foreign_sql import CANARY, SQL
from .sample import make, stopped


class Case(NamedTuple):
    """`file`: to look at; `dump`: it is one to be imported; `what`: how it was made."""

    number: int
    what: str
    file: Path
    is_dump: bool


class Makers:
    """Makes cases of a sample, each from the seed and its number alone."""

    def __init__(self, run):
        self.run = run
        self.sample = run.folder / "sample.db"
        if not self.sample.exists():
            make(self.sample, run.seed)
        self.data = self.sample.read_bytes()
        dump = run.folder / "sample.jsonl"
        if not dump.exists():
            with stopped(run.seed):  # so that a seed gives the dump to the byte
                dump_of(self.sample, dump)
        self.lines = dump.read_bytes().splitlines(keepends=True)

    def case(self, number):
        rng = self.run.rng("case", number)
        kind = rng.choices(("damage", "sql", "dump", "other"), (45, 30, 18, 7))[0]
        path = self.run.folder / f"case-{number}.db"
        return getattr(self, kind)(number, rng, path)

    def damage(self, number, rng, path):
        pages = Pages(self.data, rng)
        chosen = [rng.choice(DAMAGE) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
        for damage in chosen:
            if pages.count > 4:
                damage(pages)
        path.write_bytes(bytes(pages.data))
        if rng.random() < 0.1:
            beside(path, rng)
        return Case(number, "+".join(one.__name__ for one in chosen), path, False)

    def sql(self, number, rng, path):
        path.write_bytes(self.data)
        change = rng.choice(SQL)
        changed(path, change, rng)
        return Case(number, change.__name__, path, False)

    def dump(self, number, rng, path):
        lines = list(self.lines)
        chosen = [rng.choice(LINES) for _ in range(rng.choice((1, 1, 2, 5)))]
        for change in chosen:
            if len(lines) > 2:
                change(lines, rng)
        data = b"".join(lines)
        if rng.random() < 0.2:
            data = gzip.compress(data, 1, mtime=0)
            if rng.random() < 0.7:
                bent = bytearray(data)
                bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
                data = bytes(bent[: rng.randrange(len(bent))] if rng.random() < 0.5 else bent)
        path = path.with_suffix(".jsonl")
        path.write_bytes(data)
        return Case(number, "+".join(one.__name__ for one in chosen), path, True)

    def other(self, number, rng, path):
        data = rng.choice((*OTHERS, rng.randbytes(rng.randrange(1, 20_000))))
        if rng.random() < 0.1:
            data = gzip.compress(bytes(60_000_000), 9, mtime=0)  # a gigabyte would say no more: a line is bounded
        path.write_bytes(data)
        if rng.random() < 0.3:
            beside(path, rng)
        return Case(number, "no event store", path, rng.random() < 0.5)


def beside(path, rng):
    """Files beside it that SQLite looks for."""
    for side in rng.sample(("-wal", "-journal", "-shm"), rng.choice((1, 2))):
        head = rng.choice(
            (
                b"\x37\x7f\x06\x82\x00\x2d\xe2\x18\x00\x00\x10\x00",
                b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7\x00\x00\x00\x05",
                b"",
            )
        )
        Path(f"{path}{side}").write_bytes(head + rng.randbytes(rng.choice((0, 20, 5000))))


def changed(path, change, rng):
    connection = apsw.Connection(str(path))
    try:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.create_scalar_function(CANARY, lambda *_: 1, -1, deterministic=True)
        connection.create_scalar_function("seal", lambda *_: 1, -1, deterministic=True)
        connection.execute("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF").fetchall()
        change(connection, rng)
    except apsw.Error:
        pass  # SQLite itself would not have it: the file stays as far as it came
    finally:
        connection.close()


def dump_of(path, target):
    import eventstore as es

    with es.open(str(path), read_only=True) as store, target.open("wb") as out:
        from eventstore.transfer.outgoing import dump

        dump(store, out)
