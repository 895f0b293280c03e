-- Durable runs. Who works on a trace is no fact of the log: it changes all the time and dies with a
-- process. The log holds the epoch of each ownership; an append of an older epoch than the lease's is
-- not inserted.

CREATE TABLE owner (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,     -- and the byte of PATH-owners that the process keeps locked
  name       TEXT NOT NULL,                         -- pid@host
  started_us INTEGER NOT NULL,
  beat       INTEGER NOT NULL DEFAULT 0             -- counts up while the process lives
) STRICT;

CREATE TABLE lease (
  trace  INTEGER PRIMARY KEY REFERENCES trace (id),
  epoch  INTEGER NOT NULL CHECK (epoch > 0),
  owner  INTEGER,                                   -- NULL: free to be taken
  due_us INTEGER                                    -- while free: nothing is to be done before
) STRICT;

-- What each graph hash means, to say what changed.
CREATE TABLE graph (
  graph_hash TEXT NOT NULL PRIMARY KEY,
  definition TEXT NOT NULL CHECK (json_valid(definition))
) STRICT, WITHOUT ROWID;

CREATE TRIGGER graph_no_update BEFORE UPDATE ON graph BEGIN
  SELECT RAISE(ABORT, 'a graph hash means one graph');
END;

CREATE INDEX trace_open ON trace (status, name, id) WHERE status IN ('running', 'waiting');

-- Bases are derived, and control, which they hold, says more now.
DELETE FROM base;

-- The inbox: whoever waits longest comes first.
ALTER TABLE barrier ADD COLUMN raised_us INTEGER;
UPDATE barrier SET raised_us = coalesce(
  (SELECT at_us FROM log WHERE log.trace = barrier.trace AND first_seq <= raised_seq ORDER BY first_seq DESC LIMIT 1),
  (SELECT created_us FROM trace WHERE id = barrier.trace));
CREATE INDEX barrier_pending ON barrier (raised_us, trace, barrier_id) WHERE decided_seq IS NULL;
CREATE INDEX barrier_deadline ON barrier (deadline_us) WHERE decided_seq IS NULL AND deadline_us IS NOT NULL;

CREATE VIEW runs AS
SELECT t.trace_id, t.name, t.status, l.epoch, o.name AS owner,
       strftime('%Y-%m-%dT%H:%M:%S', l.due_us / 1000000, 'unixepoch') || printf('.%06dZ', l.due_us % 1000000) AS due_at
  FROM lease l JOIN trace t ON t.id = l.trace LEFT JOIN owner o ON o.id = l.owner;
