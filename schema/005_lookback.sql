-- Looking back, and giving back.
-- A base says how many steps lie behind it, so that a step is found without a fold. Those of older files stay, and
-- say nothing; a fork's go, since its first event means more to control now, and are written anew.

DROP VIEW bases;
ALTER TABLE base RENAME TO base_4;

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
  steps       INTEGER,                              -- steps up to seq
  steps_crc   INTEGER,                              -- crc32 of trace, seq and steps, which are read without the body
  reason      TEXT NOT NULL,
  body        ANY NOT NULL,
  UNIQUE (trace, seq)
) STRICT;

INSERT INTO base (id, trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, at_us, checksum, algorithm, reason, body)
SELECT b.id, b.trace, b.seq, b.parent, b.chain_bytes, b.state_bytes, b.log_bytes, b.base_bytes, b.at_us, b.checksum, b.algorithm, b.reason, b.body
  FROM base_4 b JOIN trace t ON t.id = b.trace WHERE t.parent IS NULL;
DELETE FROM sqlite_sequence WHERE name = 'base';
INSERT INTO sqlite_sequence (name, seq) SELECT 'base', seq FROM sqlite_sequence WHERE name = 'base_4';
DROP TABLE base_4;

CREATE INDEX base_steps ON base (trace, steps, seq);

CREATE TRIGGER base_no_update BEFORE UPDATE ON base BEGIN
  SELECT RAISE(ABORT, 'a base is written once');
END;

CREATE VIEW bases AS
SELECT b.id, t.trace_id, b.seq, CASE WHEN b.parent IS NULL THEN 'whole' ELSE 'link' END AS kind, b.parent,
       length(CAST(b.body AS BLOB)) AS body_bytes, b.chain_bytes, b.state_bytes, b.steps, b.reason,
       b.algorithm || ':' || printf('%08x', b.checksum) AS checksum,
       strftime('%Y-%m-%dT%H:%M:%S', b.at_us / 1000000, 'unixepoch') || printf('.%06dZ', b.at_us % 1000000) AS at
  FROM base b JOIN trace t ON t.id = b.trace;

-- The guards ask for a trace's tombstone at every deleted row.
CREATE INDEX tombstone_trace ON tombstone (trace);

-- A row while an erased trace's words may stand in the file: from the erasure's own transaction until the file and
-- its write-ahead log are rewritten. Older files do not say whether that happened.
CREATE TABLE IF NOT EXISTS rewrite_due (
  id        INTEGER PRIMARY KEY CHECK (id = 1),
  erased_us INTEGER NOT NULL                        -- when, and which: it never is the same twice
) STRICT;
INSERT OR IGNORE INTO rewrite_due (id, erased_us) SELECT 1, max(erased_us) FROM tombstone HAVING count(*) > 0;
