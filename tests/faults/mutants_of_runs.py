"""Mutants of barriers and durable runs."""

from __future__ import annotations

from .mutant import mutant

MUTANTS = [
    # Barriers
    mutant(
        "a decision accepted twice",
        "a decided barrier stays pending",
        "a_barrier_is_decided_once",
        "a second decision is refused",
        (
            "control",
            '    yield "waits", "sum", -1\n'
            '    yield f"barrier/{data[\'barrier_id\']}", "delete", None\n    yield f"resolved/',
            '    yield "waits", "sum", -1\n    yield f"resolved/',
        ),
    ),
    mutant(
        "the default over a human",
        "a barrier's default decides before its deadline",
        "deadlines_are_kept",
        "the default over a human's decision",
        (
            "deciding",
            "if deadline_us is not None and at_us >= deadline_us:",
            "if deadline_us is not None:",
        ),
    ),
    mutant(
        "a deadline lost on restart",
        "the log keeps no deadline",
        "deadlines_are_kept",
        "past its deadline the default decides",
        (
            "control",
            'for name in ("node", "deadline_us", "default", "reason")',
            'for name in ("node", "default", "reason")',
        ),
    ),
    mutant(
        "a default lost on restart",
        "the log keeps no default decision",
        "deadlines_are_kept",
        "another decision stands",
        (
            "control",
            '("node", "deadline_us", "default", "reason")',
            '("node", "deadline_us", "reason")',
        ),
    ),
    mutant(
        "an early decision forgotten",
        "a decision that came before its barrier is not looked for",
        "an_early_decision_counts",
        "an early decision was lost",
        (
            "barrier",
            'if (exact := control.get(f"decision/{barrier_id}")) is not None:',
            'if (exact := control.get("")) is not None:',
        ),
    ),
    mutant(
        "an early decision for ever",
        "a second decision takes the place of one that came early",
        "an_early_decision_counts",
        "an early decision stands",
        (
            "barrier",
            'if f"decision/{barrier}" in control:',
            'if f"decision/{barrier}" in ():',
        ),
    ),
    # Runs
    mutant(
        "no epoch check",
        "INSERT_ROW in the place of INSERT_OWNED",
        "a_fenced_owner_writes_nothing",
        "a fenced owner wrote",
        (
            "writer",
            "        if append.epoch is None:\n            self._execute(INSERT_ROW",
            "        if True:\n            self._execute(INSERT_ROW",
        ),
    ),
    mutant(
        "a fenced owner once more",
        "the lease is checked against any epoch that was",
        "a_fenced_owner_writes_nothing",
        "a fenced owner wrote",
        (
            "writer",
            '" (?1, (SELECT ?2 FROM lease WHERE trace = ?1 AND epoch = ?8), ?3, ?4, ?5, ?6, ?7)"',
            '" (?1, (SELECT ?2 FROM lease WHERE trace = ?1 AND epoch >= ?8), ?3, ?4, ?5, ?6, ?7)"',
        ),
    ),
    mutant(
        "a living owner robbed",
        "a lease is taken whether its owner lives or not",
        "a_living_owner_keeps_its_run",
        "a living owner's run was taken",
        (
            "ownership",
            "holder is not None and holder != owner and self._lives(",
            "holder is not None and holder == -1 and self._lives(",
        ),
    ),
    mutant(
        "an effect before its intent",
        "no intent is written before a node with side effects is called",
        "an_intent_comes_before_its_effect",
        "an effect without an intent in the log",
        (
            "scheduler",
            "        return NodeIntended(target, idempotency_key(self.trace.id, target, occurrence, target))",
            "        return None",
        ),
        (
            "scheduler",
            "                yield from self.commit(Batch(after=[self.intent(path, "
            "self.occurrence(node))], sync=True))\n                self.fresh.add(path)\n",
            "                self.fresh.add(path)\n",
        ),
    ),
    mutant(
        "a branch before its intent",
        "no intent is written before branches with side effects are called",
        "an_intent_comes_before_its_effect",
        "an effect without an intent in the log",
        (
            "branching",
            "            yield from run.commit(Batch(after=intents, sync=True))\n            run.fresh.update",
            "            run.fresh.update",
        ),
    ),
    mutant(
        "a doubt passed over",
        "an intent without a result is no reason to ask",
        "an_effect_is_never_doubled_silently",
        "doubled silently",
        (
            "scheduler",
            'if f"intent/{path}" in self.control or f"resolved/{path}" in self.control:\n                return (yield',
            "if False:\n                return (yield",
        ),
    ),
    mutant(
        "the attempt in the key",
        "each attempt of a visit has an idempotency key of its own",
        "a_key_is_of_its_visit",
        "attempts of one visit have several keys",
        (
            "scheduler",
            'idempotency_key(self.trace.id, path.partition("/")[0], occurrence, path)',
            'idempotency_key(self.trace.id, path.partition("/")[0], occurrence, f"{path} {self.attempt(path)}")',
        ),
    ),
    mutant(
        "one key for all visits",
        "the idempotency key does not tell visits apart",
        "a_key_is_of_its_visit",
        "two visits have one key",
        (
            "idempotency",
            "json.dumps([trace_id, node, occurrence, path])",
            "json.dumps([trace_id, node, path])",
        ),
    ),
    mutant(
        "branches in order of completion",
        "a join merges what came first, first",
        "branches_join_in_their_declared_order",
        "branches in another order",
        (
            "branching",
            "            for branch in self.branches\n"
            '            if f"held/{branch.path}" in run.control\n        ]\n        for delta',
            "            for branch in sorted(self.branches, key=lambda one: "
            'list(run.control).index(f"held/{one.path}"))\n'
            '            if f"held/{branch.path}" in run.control\n        ]\n        for delta',
        ),
    ),
    mutant(
        "map branches misnumbered",
        "a map's branches are numbered from the end",
        "branches_join_in_their_declared_order",
        "of other items",
        (
            "branching",
            'return [Branch(f"{node.name}/{index}", node, item, index) for index, item in enumerate(items)]',
            'return [Branch(f"{node.name}/{index}", node, item, index) for index, item in enumerate(items[::-1])]',
        ),
    ),
    mutant(
        "held branches run again",
        "a resume forgets which branches are done",
        "held_branches_do_not_run_again",
        "a held branch ran again",
        (
            "branching",
            'missing = [branch for branch in branches if not run.present(f"held/{branch.path}", '
            'f"failed/{branch.path}")]',
            "missing = list(branches)",
        ),
    ),
    mutant(
        "a route evaluated again",
        "a resume chooses the way from the last node anew",
        "a_run_goes_on_where_it_was",
        "a route was evaluated again",
        (
            "scheduler",
            '        """Go on with what an earlier owner, or a decision, left half done."""\n',
            '        """Go on with what an earlier owner, or a decision, left half done."""\n'
            "        for entry in self.trace.entries()[-1:]:\n"
            "            self.trace._control['next'] = self.route(self.plan.nodes[entry.node_name], "
            "self.draft())\n",
        ),
    ),
    mutant(
        "the last node runs again",
        "a resume begins with the node that was over",
        "a_run_goes_on_where_it_was",
        "a completed node ran again",
        (
            "scheduler",
            '        """Go on with what an earlier owner, or a decision, left half done."""\n',
            '        """Go on with what an earlier owner, or a decision, left half done."""\n'
            "        for entry in self.trace.entries()[-1:]:\n"
            "            self.trace._control['next'] = entry.node_name\n",
        ),
    ),
    mutant(
        "recorded values made again",
        "a durable call of an earlier process is not replayed",
        "a_run_goes_on_where_it_was",
        "a recorded value was made again",
        (
            "scheduler",
            'replayed = list(self.control.get(f"calls/{path}", ()))',
            "replayed = []",
        ),
    ),
    mutant(
        "attempts start over",
        "a resume counts attempts from one",
        "attempts_are_counted_across_processes",
        "the attempts in several processes",
        (
            "scheduler",
            "        self.looks = 0\n",
            "        self.looks = 0\n"
            "        for key in [key for key in trace._control if key.startswith('retry/')]:\n"
            "            trace._control[key] = {**trace._control[key], 'attempt': 0}\n",
        ),
    ),
    mutant(
        "a retry before its time",
        "the wait before a retry is not sat out",
        "attempts_are_counted_across_processes",
        "a retry came before it was due",
        (
            "scheduler",
            'return 0 if retry is None else int(retry["at_us"])',
            "return 0",
        ),
    ),
    mutant(
        "a cancel unheard",
        "a cancelled run goes on",
        "a_cancelled_run_stops",
        "a cancelled run went on",
        (
            "scheduler",
            "        if self.desk.is_cancelled():\n            self.fresh.clear()",
            "        if False:\n            self.fresh.clear()",
        ),
    ),
    mutant(
        "any graph will do",
        "a run is resumed by another graph",
        "another_graph_is_refused",
        "another graph is refused",
        (
            "entering",
            "    if recorded == plan.hash:\n        return []",
            "    if recorded:\n        return []",
        ),
    ),
    mutant(
        "a fork in its parent's doubt",
        "a fork inherits the open intents of its parent",
        "a_fork_is_not_in_its_parents_doubt",
        "a fork inherits an intent",
        (
            "control",
            'PARENTS_ALONE = ("decision/", "intent/", "retry/", "failed/")',
            'PARENTS_ALONE = ("decision/", "retry/", "failed/")',
        ),
    ),
    mutant(
        "a fork repeats effects",
        "what the parent did is not looked at",
        "a_fork_is_not_in_its_parents_doubt",
        "a fork repeated its parent's effect",
        (
            "entering",
            "            found |= effects_after(store.events(parent_id, after=fork_seq), control)",
            "            pass",
        ),
    ),
]
