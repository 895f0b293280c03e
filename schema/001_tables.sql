-- The log is the only truth. One row is one commit: the events of one step,
-- seq first_seq .. first_seq + n - 1 of one trace. TEXT bodies are JSON; a BLOB
-- body is msgpack (it holds an adapter's opaque bytes). Columns that are read
-- alone stand before the body, so that a long body is never paged through.

CREATE TABLE trace (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,     -- an erased trace's id never comes back
  trace_id   TEXT NOT NULL UNIQUE CHECK (length(trace_id) BETWEEN 1 AND 200),
  name       TEXT NOT NULL,
  parent     INTEGER REFERENCES trace (id),         -- a fork shares its parent's prefix
  fork_seq   INTEGER NOT NULL DEFAULT 0,            -- the last shared seq
  created_us INTEGER NOT NULL,
  status     TEXT NOT NULL DEFAULT 'running',       -- projection of the log
  CHECK ((parent IS NULL) = (fork_seq = 0) AND fork_seq >= 0)
) STRICT;

CREATE INDEX trace_forks ON trace (parent, fork_seq) WHERE parent IS NOT NULL;

CREATE TABLE log (
  id        INTEGER PRIMARY KEY CHECK (id > 0),
  trace     INTEGER NOT NULL,                       -- the append guard knows no row without its trace
  first_seq INTEGER NOT NULL,
  n         INTEGER NOT NULL CHECK (n > 0),
  append_id ANY,                                    -- TEXT: a caller's; INTEGER: the engine's own
  at_us     INTEGER NOT NULL,
  digest    BLOB NOT NULL CHECK (length(digest) = 16),
  body      ANY NOT NULL CHECK (typeof(body) = 'blob' OR (typeof(body) = 'text' AND json_valid(body))),
  UNIQUE (trace, first_seq)
) STRICT;

CREATE UNIQUE INDEX log_append_id ON log (trace, append_id) WHERE typeof(append_id) = 'text';

-- Where a trimmed trace begins: state and control at seq, and the chain's digest there.
CREATE TABLE root (
  trace  INTEGER NOT NULL REFERENCES trace (id),
  seq    INTEGER NOT NULL CHECK (seq > 0),
  at_us  INTEGER NOT NULL,
  digest BLOB NOT NULL CHECK (length(digest) = 16),
  checksum INTEGER NOT NULL,
  body   ANY NOT NULL,
  PRIMARY KEY (trace, seq)
) STRICT, WITHOUT ROWID;

-- What is left of an erased trace.
CREATE TABLE tombstone (
  trace_id  TEXT NOT NULL PRIMARY KEY,
  trace     INTEGER NOT NULL,
  version   INTEGER NOT NULL,
  digest    BLOB NOT NULL,
  erased_by TEXT,
  erased_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Derived: a base is the state at seq, whole (parent NULL) or as the net effect over
-- its parent. Any base may be deleted; ids are never used again, so a parent is never mistaken.
CREATE TABLE base (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  trace       INTEGER NOT NULL REFERENCES trace (id),
  seq         INTEGER NOT NULL,
  parent      INTEGER,
  chain_bytes INTEGER NOT NULL,                     -- bodies from here down to the whole state
  state_bytes INTEGER NOT NULL,                     -- size of the state at seq
  log_bytes   INTEGER NOT NULL,                     -- event bodies up to seq
  base_bytes  INTEGER NOT NULL,                     -- bases written for them, this one included
  at_us       INTEGER NOT NULL,
  checksum    INTEGER NOT NULL,
  algorithm   TEXT NOT NULL DEFAULT 'crc32',
  reason      TEXT NOT NULL,
  body        ANY NOT NULL,
  UNIQUE (trace, seq)
) STRICT;

CREATE TABLE checkpoint (
  checkpoint_id TEXT NOT NULL UNIQUE,
  trace         INTEGER NOT NULL REFERENCES trace (id),
  seq           INTEGER NOT NULL,
  node          TEXT,                               -- the next node to enter
  graph_hash    TEXT NOT NULL,
  triggers      TEXT NOT NULL CHECK (json_valid(triggers)),
  metadata      TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
  created_us    INTEGER NOT NULL,
  PRIMARY KEY (trace, seq, checkpoint_id)
) STRICT, WITHOUT ROWID;

-- Projection of the barrier events, for the inbox.
CREATE TABLE barrier (
  trace       INTEGER NOT NULL REFERENCES trace (id),
  barrier_id  TEXT NOT NULL,
  raised_seq  INTEGER NOT NULL,
  deadline_us INTEGER,
  decided_seq INTEGER,
  PRIMARY KEY (trace, barrier_id)
) STRICT, WITHOUT ROWID;
