-- The log defends itself against any tool that opens the file. BEFORE INSERT also
-- refuses the two ways in which INSERT OR REPLACE would remove an older row.

CREATE TRIGGER log_append BEFORE INSERT ON log BEGIN
  SELECT RAISE(ABORT, 'append_id is already in the log')
    WHERE typeof(NEW.append_id) = 'text' AND EXISTS (
      SELECT 1 FROM log WHERE trace = NEW.trace AND append_id = NEW.append_id AND typeof(append_id) = 'text');
  SELECT RAISE(ABORT, 'not the next seq of its trace')
    WHERE NEW.first_seq IS NOT coalesce(
      (SELECT first_seq + n FROM log WHERE trace = NEW.trace ORDER BY first_seq DESC LIMIT 1),
      (SELECT max(seq) + 1 FROM root WHERE trace = NEW.trace),
      (SELECT fork_seq + 1 FROM trace WHERE id = NEW.trace));
  SELECT RAISE(ABORT, 'log rows are never replaced')
    WHERE EXISTS (SELECT 1 FROM log WHERE id = NEW.id);
END;

CREATE TRIGGER log_no_update BEFORE UPDATE ON log BEGIN
  SELECT RAISE(ABORT, 'the log is immutable');
END;

-- Two recorded exceptions: history at or before a root, and an erased trace.
CREATE TRIGGER log_no_delete BEFORE DELETE ON log BEGIN
  SELECT RAISE(ABORT, 'the log is immutable')
    WHERE NOT EXISTS (SELECT 1 FROM root WHERE trace = OLD.trace AND seq >= OLD.first_seq + OLD.n - 1)
      AND NOT EXISTS (SELECT 1 FROM tombstone WHERE trace = OLD.trace);
END;

CREATE TRIGGER root_no_update BEFORE UPDATE ON root BEGIN
  SELECT RAISE(ABORT, 'a root is immutable');
END;

CREATE TRIGGER root_no_replace BEFORE INSERT ON root BEGIN
  SELECT RAISE(ABORT, 'a root is behind the last one')
    WHERE EXISTS (SELECT 1 FROM root WHERE trace = NEW.trace AND seq >= NEW.seq);
END;

CREATE TRIGGER root_no_delete BEFORE DELETE ON root BEGIN
  SELECT RAISE(ABORT, 'a root is immutable')
    WHERE NOT EXISTS (SELECT 1 FROM root WHERE trace = OLD.trace AND seq > OLD.seq)
      AND NOT EXISTS (SELECT 1 FROM tombstone WHERE trace = OLD.trace);
END;

CREATE TRIGGER trace_no_replace BEFORE INSERT ON trace BEGIN
  SELECT RAISE(ABORT, 'the trace exists')
    WHERE EXISTS (SELECT 1 FROM trace WHERE trace_id = NEW.trace_id OR id = NEW.id);
  SELECT RAISE(ABORT, 'the trace was erased')
    WHERE EXISTS (SELECT 1 FROM tombstone WHERE trace_id = NEW.trace_id OR trace = NEW.id);
  SELECT RAISE(ABORT, 'the history to fork from is gone')
    WHERE NEW.parent IS NOT NULL
      AND (NOT EXISTS (SELECT 1 FROM trace WHERE id = NEW.parent)
        OR EXISTS (SELECT 1 FROM root WHERE trace = NEW.parent AND seq > NEW.fork_seq));
END;

CREATE TRIGGER trace_no_update BEFORE UPDATE OF id, trace_id, name, parent, fork_seq, created_us ON trace BEGIN
  SELECT RAISE(ABORT, 'only the status of a trace changes');
END;

CREATE TRIGGER trace_no_delete BEFORE DELETE ON trace BEGIN
  SELECT RAISE(ABORT, 'the log is immutable')
    WHERE NOT EXISTS (SELECT 1 FROM tombstone WHERE trace = OLD.id);
END;

CREATE TRIGGER tombstone_no_update BEFORE UPDATE ON tombstone BEGIN
  SELECT RAISE(ABORT, 'a tombstone is immutable');
END;

CREATE TRIGGER tombstone_no_replace BEFORE INSERT ON tombstone BEGIN
  SELECT RAISE(ABORT, 'a tombstone is immutable')
    WHERE EXISTS (SELECT 1 FROM tombstone WHERE trace_id = NEW.trace_id OR trace = NEW.trace);
END;

CREATE TRIGGER tombstone_no_delete BEFORE DELETE ON tombstone BEGIN
  SELECT RAISE(ABORT, 'a tombstone is immutable');
END;

CREATE TRIGGER base_no_update BEFORE UPDATE ON base BEGIN
  SELECT RAISE(ABORT, 'a base is written once');
END;
