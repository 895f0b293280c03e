"""A file of LangGraph's SqliteSaver brought over: every checkpoint and every pending write, without making an object.

Thread by thread, each of many commits. Of a thread that was cut short, what is there can be told: it equals the file,
it has the parents of all that it has, and nothing else. So the next import goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from pathlib import Path

import msgspec
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventstore.store import Store

from .families import ImportRefused
from .pieces import Pieces
from .saver import EventStoreSaver
from .sqlite_file import SqliteFile
from .thread_import import Outcome, ThreadImport
from .values import Serializer

KEY = "LANGGRAPH_AES_KEY"


class ImportedThread(msgspec.Struct, frozen=True):
    """What became of a thread. `checkpoints`, `writes`: how many came now; `why`: it was refused.

    `outcome`: `added`; `completed`, the rest of one that was there in part; `present`, it was there and equal;
    `refused`, the store does not have it, or another one of that name, as before.

    >>> ImportedThread("t1", "added", 12, 30).why
    ''
    """

    thread_id: str
    outcome: Outcome
    checkpoints: int = 0
    writes: int = 0
    why: str = ""


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did. `added`, `completed`, `present`: threads; `refused`: those, and why.

    `checkpoints`, `writes`: how many came; `source_bytes`: the old file's size; `store_bytes`: how much larger the
    store's file is now.

    >>> ImportReport("checkpoints.sqlite", 1, 0, 0, [], 12, 30, 4_000_000, 50_000, 0.1).added
    1
    """

    path: str
    added: int
    completed: int
    present: int
    refused: list[ImportedThread]
    checkpoints: int
    writes: int
    source_bytes: int
    store_bytes: int
    seconds: float


def import_sqlite(
    path: str | PathLike[str],
    saver_or_store: EventStoreSaver | Store,
    *,
    thread_ids: Iterable[str] | None = None,
    on_thread: Callable[[ImportedThread], object] | None = None,
    on_step: Callable[[float], object] | None = None,
) -> ImportReport:
    """Bring over the threads of a file that LangGraph's SqliteSaver wrote, all or those named.

    The file is read only, and nothing in it is instantiated. Each thread is read back and compared; one that came
    out different is not kept. Importing again adds what is new, and nothing twice. What is encrypted stays so: by the
    saver's `EncryptedSerializer`, or for a store by that of LANGGRAPH_AES_KEY. With `durability="normal"` the store is
    synced once, at the end. `on_thread` is told of each thread; `on_step` how far it is, from 0 to 1.

    Raises NotCheckpoints for another file; ImportRefused for a thread that it does not have, for one that is
    encrypted without a key; storage errors.

    >>> import tempfile, eventstore
    >>> from langgraph.checkpoint.base import empty_checkpoint
    >>> from langgraph.checkpoint.sqlite import SqliteSaver
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     config = {"configurable": {"thread_id": "t1", "checkpoint_ns": ""}}
    ...     with SqliteSaver.from_conn_string(f"{folder}/old.sqlite") as old:
    ...         _ = old.put(config, empty_checkpoint(), {"step": -1}, {})
    ...     with eventstore.open(f"{folder}/new.db", durability="normal") as store:
    ...         report = import_sqlite(f"{folder}/old.sqlite", store)
    >>> report.added, report.checkpoints, report.refused
    (1, 1, [])
    """
    started = time.perf_counter()
    store = saver_or_store if isinstance(saver_or_store, Store) else saver_or_store.store
    size_before = _size(store)
    done: list[ImportedThread] = []
    with SqliteFile(fspath(path)) as file:
        threads = _chosen(file, thread_ids)
        rows, rows_done = sum(threads.values()), 0

        def on_part(part: float) -> None:
            if on_step is not None:
                on_step((rows_done + part * threads[thread_id]) / rows)

        importing = ThreadImport(file, store, _pieces(file, saver_or_store), on_part)
        for thread_id in threads:
            try:
                imported = ImportedThread(thread_id, *importing.thread(thread_id))
            except ImportRefused as error:
                imported = ImportedThread(thread_id, "refused", why=str(error))
            rows_done += threads[thread_id]
            done.append(imported)
            if on_thread is not None:
                on_thread(imported)
        file.check()
        kept = [thread.thread_id for thread in done if thread.outcome != "refused"]
        if kept and store.durability != "full":
            importing.sync(kept[-1])
    store._writer.quiet(lambda: store._database.writer.wal_checkpoint())
    outcomes = [thread.outcome for thread in done]
    return ImportReport(
        file.path,
        outcomes.count("added"),
        outcomes.count("completed"),
        outcomes.count("present"),
        [thread for thread in done if thread.outcome == "refused"],
        sum(thread.checkpoints for thread in done),
        sum(thread.writes for thread in done),
        file.size_bytes,
        _size(store) - size_before,
        time.perf_counter() - started,
    )


def _chosen(file: SqliteFile, thread_ids: Iterable[str] | None) -> dict[str, int]:
    """The threads to bring over, and how many rows each has."""
    threads = file.threads()
    if thread_ids is None:
        return threads
    wanted = dict.fromkeys(thread_ids)
    if unknown := [thread_id for thread_id in wanted if thread_id not in threads]:
        raise ImportRefused(f"{file.path} has no thread {', '.join(map(repr, unknown))}")
    return {thread_id: rows for thread_id, rows in threads.items() if thread_id in wanted}


def _pieces(file: SqliteFile, saver_or_store: EventStoreSaver | Store) -> Pieces:
    serde: Serializer = JsonPlusSerializer(allowed_msgpack_modules=None)
    if isinstance(saver_or_store, EventStoreSaver):
        serde = saver_or_store.serde
    encrypted = file.encrypted()
    if encrypted is None or isinstance(serde, EncryptedSerializer):
        return Pieces(serde, is_sealed=encrypted is not None)
    if isinstance(saver_or_store, EventStoreSaver):
        raise ImportRefused(f"{file.path} is encrypted ({encrypted}), and the saver's serde is no EncryptedSerializer")
    try:
        return Pieces(EncryptedSerializer.from_pycryptodome_aes(serde), is_sealed=True)
    except (ValueError, ImportError) as error:
        raise ImportRefused(f"{file.path} is encrypted ({encrypted}); its key is read from {KEY}: {error}") from None


def _size(store: Store) -> int:
    path = Path(store.path)
    return path.stat().st_size if path.exists() else 0
