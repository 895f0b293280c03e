"""A second process on the machine's file: `python peer.py` does what a JSON object a line asks for, and answers so.

It keeps the store of the last order open, as another writer of the file would, until it is told of another file.
"""

from __future__ import annotations

import json
import subprocess
import sys

import eventstore as es


class Peer:
    """The process, as the one that started it sees it."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, do, **order):
        """Its answer to an order."""
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self):
        """It ends when there are no more orders."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


class Worker:
    """The process, as it sees itself."""

    def __init__(self):
        self._store = None
        self._path = None

    def open(self, path):
        """The store on that file; the one before is closed."""
        if path != self._path:
            self.close()
            self._store, self._path = es.open(path, durability="normal", fold_policy=es.FoldEvery(3)), path
        return self._store

    def close(self):
        """Nothing is open."""
        if self._store is not None:
            self._store.close()
        self._store = self._path = None
        return {}

    def append(self, path, trace_id, puts, append_id):
        """Put these keys, wherever the trace stands."""
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        done = self.open(path).append(trace_id, deltas, append_id=append_id)
        return {"first_seq": done.first_seq, "version": done.version, "duplicate": done.duplicate}

    def reject(self, path, trace_id, barrier_id):
        """Reject what waits there."""
        self.open(path).decide(trace_id, barrier_id, es.Reject("no"))
        return {}

    def state(self, path, trace_id, seq):
        """What this process reads there."""
        return {"state": self.open(path).state_at(trace_id, seq)}


def main():
    """Carry out orders until there are no more."""
    worker = Worker()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except es.EventStoreError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(answer), flush=True)
    worker.close()


if __name__ == "__main__":
    main()
