"""Links that a line makes in memory: `verify` finds them to do what the log does, and no answer depends on them."""

from __future__ import annotations

import random

import pytest
from langgraph.checkpoint.base import empty_checkpoint

import eventstore as es
from eventstore.bases import Place
from eventstore.integrations.langgraph import EventStoreSaver

CONFIG = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
OFTEN = es.AdaptiveFold(min_tail_deltas=1, min_tail_rows=3, min_link_bytes=64, small_state_bytes=0)


def changed(values, seed, step):
    """What a graph may do next: lists that grow, are trimmed or edited, channels that come and go."""
    rng = random.Random(seed * 1000 + step)
    now = dict(values)
    now["messages"] = [*now.get("messages", []), {"n": step, "text": "x" * rng.randrange(200)}]
    if rng.random() < 0.1:
        now["messages"] = now["messages"][-rng.randrange(1, 6) :]
    if rng.random() < 0.1:
        now["messages"] = [*now["messages"][:-1], {"edited": step}]
    for channel in ("branch:to:rare", "branch:to:other", "note"):
        if rng.random() < 0.3:
            now.pop(channel, None)
        elif rng.random() < 0.3:
            now[channel] = rng.choice([None, step, "text" * rng.randrange(30), {"k": [step]}])
    return now


@pytest.mark.parametrize("seed", range(6))
def test_a_line_is_the_same_whatever_links_it_has(tmp_path, seed):
    with es.open(tmp_path / "runs.db", durability="normal", fold_policy=OFTEN) as store:
        saver, values, versions, expected, config = EventStoreSaver(store), {}, {}, [], CONFIG
        for step in range(150):
            before, values = values, changed(values, seed, step)
            touched = {name: f"{step:08}" for name in values if name not in before or values[name] is not before[name]}
            versions = (
                {name: f"{step:08}" if name in touched else versions[name] for name in values} if step else touched
            )
            checkpoint = {
                **empty_checkpoint(), "id": f"{step:04}", "channel_values": values, "channel_versions": versions,
                "versions_seen": {"rare" if step % 7 == 0 else "work": {"messages": f"{step:08}"}},
            }  # fmt: skip
            config = saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, touched)
            expected.append((step, values, versions))
        trace_id, _ = saver.place(CONFIG)
        assert {base.kind for base in store.bases(trace_id)} >= {"link"}
        report = store.verify()
        assert report.ok, report.problems
        for _ in range(2):
            found = [
                (each.metadata["step"], each.checkpoint["channel_values"], each.checkpoint["channel_versions"])
                for each in EventStoreSaver(store).list(CONFIG)
            ]
            assert found == expected[::-1]
            store.drop_bases()


def test_a_link_that_does_something_else_is_told(tmp_path):
    with es.open(tmp_path / "runs.db", durability="normal", fold_policy=OFTEN) as store:
        saver, config = EventStoreSaver(store), CONFIG
        for step in range(40):
            checkpoint = {
                **empty_checkpoint(), "id": f"{step:04}", "channel_values": {"log": [*range(step)], "n": step},
                "channel_versions": {"log": f"{step:04}", "n": f"{step:04}"},
            }  # fmt: skip
            config = saver.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {})
        assert store.verify().ok
        connection = store._database.writer
        row = connection.execute(
            "SELECT id, trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, CAST(body AS BLOB)"
            " FROM base WHERE parent > 0 ORDER BY id DESC LIMIT 1"
        ).fetchone()
        body = row[-1].replace(b"\xa1n", b"\xa1m")  # the other key, soundly signed
        connection.execute("DROP TRIGGER base_no_update")
        connection.execute(
            "UPDATE base SET body = ?, checksum = ? WHERE id = ?", (body, Place(*row[1:8]).checksum(body), row[0])
        )
        assert [problem.check for problem in store.verify().problems] == ["schema", "base"]


def test_a_long_list_that_is_cut_at_its_head_makes_no_link_longer_than_the_log(tmp_path):
    with es.open(tmp_path / "runs.db", durability="normal") as store:
        saver, config, items = EventStoreSaver(store), CONFIG, [{"n": n, "text": "x" * 500} for n in range(400)]
        for step in range(400):
            items = [*items[1:], {"n": 400 + step, "text": "y" * 500}]
            checkpoint = {
                **empty_checkpoint(), "id": f"{step:04}", "channel_values": {"log": items},
                "channel_versions": {"log": f"{step:04}"},
            }  # fmt: skip
            config = saver.put(
                config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {"log": f"{step:04}"}
            )
        stats = store.stats()
        assert stats.c1 <= 1.0
        assert store.verify().ok


def test_a_thread_is_not_cancelled_like_a_run(tmp_path):
    with EventStoreSaver(tmp_path / "runs.db") as saver:
        saver.put(CONFIG, {**empty_checkpoint(), "id": "1"}, {"source": "loop", "step": 0, "parents": {}}, {})
        with pytest.raises(es.EventStoreError, match="is no run: it is langgraph's thread 't'"):
            saver.store.cancel(saver.place(CONFIG)[0])
