"""LangGraph's InMemorySaver as the law, with what it lacks: copies, pruning, deletion of runs.

What was pruned is hidden and not deleted: so the history of a delta channel is always the whole one.
"""

from __future__ import annotations

from itertools import islice

from langgraph.checkpoint.memory import InMemorySaver
from savers import at


class Reference(InMemorySaver):
    """A saver in memory that can do all that BaseCheckpointSaver names."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.hidden = set()

    def visible(self, thread, namespace):
        """The ids of the checkpoints that one can get, in order."""
        stored = self.storage.get(thread, {}).get(namespace, {})
        return sorted(name for name in stored if (thread, namespace, name) not in self.hidden)

    def get_tuple(self, config):
        thread, namespace = config["configurable"]["thread_id"], config["configurable"].get("checkpoint_ns", "")
        names = self.visible(thread, namespace)
        wanted = config["configurable"].get("checkpoint_id") or (names[-1] if names else None)
        return super().get_tuple(at(thread, wanted, namespace)) if wanted in names else None

    def list(self, config, *, filter=None, before=None, limit=None):
        found = super().list(config, filter=filter, before=before)
        return islice((one for one in found if tuple(one.config["configurable"].values()) not in self.hidden), limit)

    def copy_thread(self, source_thread_id, target_thread_id):
        self.delete_thread(target_thread_id)
        for namespace, stored in list(self.storage[source_thread_id].items()):
            self.storage[target_thread_id][namespace] = dict(stored)
        for kept in (self.writes, self.blobs):
            for (thread, *place), value in list(kept.items()):
                if thread == source_thread_id:
                    kept[(target_thread_id, *place)] = dict(value) if isinstance(value, dict) else value
        self.hidden |= {(target_thread_id, *place) for thread, *place in self.hidden if thread == source_thread_id}

    def prune(self, thread_ids, *, strategy="keep_latest"):
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
            for namespace in list(self.storage.get(thread, {})):
                self.hidden |= {(thread, namespace, name) for name in self.visible(thread, namespace)[:-1]}

    def delete_for_runs(self, run_ids):
        for found in list(self.list(None)):
            if found.metadata.get("run_id") in run_ids:
                self.hidden.add(tuple(found.config["configurable"].values()))
        for thread, namespace in {place[:2] for place in self.hidden}:
            if not self.visible(thread, namespace):  # nothing is left, so writes that came early go as well
                self.forget(thread, namespace)

    def forget(self, thread, namespace):
        """A namespace as if it had never been."""
        self.storage[thread].pop(namespace, None)
        for kept in (self.writes, self.blobs):
            for place in [place for place in kept if place[:2] == (thread, namespace)]:
                del kept[place]
        self.hidden = {place for place in self.hidden if place[:2] != (thread, namespace)}

    def delete_thread(self, thread_id):
        super().delete_thread(thread_id)
        self.hidden = {place for place in self.hidden if place[0] != thread_id}

    def path(self, thread, namespace, name):
        """The channel versions and stored channels of a checkpoint's ancestors, nearest first."""
        stored = self.storage[thread][namespace]
        while (name := stored[name][2]) in stored:
            checkpoint = super().get_tuple(at(thread, name, namespace)).checkpoint
            yield (thread, namespace, name) in self.hidden, checkpoint["channel_versions"], checkpoint["channel_values"]
