-- Threads of other frameworks. A scope is what such a framework keeps apart (LangGraph: one namespace of one thread).
-- It owns a family of traces: one for each unbroken line of checkpoints, forks of it, and a journal of the writes
-- that wait for the checkpoint after theirs. All of this is a projection of the log, but for what was deleted.
-- (A reference without an index behind it would make every erasure scan these tables: scope_trace alone has one.)

CREATE TABLE scope (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  adapter   TEXT NOT NULL,
  thread_id TEXT NOT NULL,
  namespace TEXT NOT NULL,
  journal   INTEGER,
  UNIQUE (adapter, thread_id, namespace)
) STRICT;

-- Which traces a scope reads. One that no scope reads any more, and that no fork stands on, is erased.
CREATE TABLE scope_trace (
  trace INTEGER NOT NULL REFERENCES trace (id),
  scope INTEGER NOT NULL,
  PRIMARY KEY (trace, scope)
) STRICT, WITHOUT ROWID;

CREATE INDEX scope_trace_scope ON scope_trace (scope);

CREATE TABLE scope_checkpoint (
  scope    INTEGER NOT NULL REFERENCES scope (id),
  name     TEXT NOT NULL,                           -- the framework's id of it
  parent   TEXT,                                    -- by name: it may be gone
  trace    INTEGER,                                 -- NULL: only writes of it have come yet
  seq      INTEGER,
  status   TEXT NOT NULL CHECK (status IN ('live', 'announced', 'ghost')),
  run_id   TEXT,
  metadata TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
  writes   TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(writes)),  -- [[trace, seq], …] of its writes in journals
  PRIMARY KEY (scope, name),
  CHECK ((trace IS NULL) = (seq IS NULL) AND (trace IS NULL) = (status = 'announced'))
) STRICT, WITHOUT ROWID;

CREATE INDEX scope_checkpoint_run ON scope_checkpoint (run_id) WHERE run_id IS NOT NULL;

CREATE VIEW threads AS
SELECT s.adapter, s.thread_id, s.namespace, c.name AS checkpoint_id, c.parent AS parent_checkpoint_id, c.status,
       t.trace_id, c.seq, c.run_id, c.metadata, json_array_length(c.writes) AS writes
  FROM scope_checkpoint c JOIN scope s ON s.id = c.scope LEFT JOIN trace t ON t.id = c.trace;
