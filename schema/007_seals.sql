-- What the hash chain does not cover is sealed: a checksum over all columns of the row and the trace's id, keyed where
-- the chain is. Rows of older files have none.

ALTER TABLE root ADD COLUMN created_us INTEGER;     -- of the trace: the commit that told it is gone
ALTER TABLE root ADD COLUMN seal INTEGER;
ALTER TABLE checkpoint ADD COLUMN seal INTEGER;
ALTER TABLE tombstone ADD COLUMN seal INTEGER;
ALTER TABLE scope ADD COLUMN seal INTEGER;          -- over whose it is: journals come and go

-- A row where digests and seals are keyed: what tells the key from others. Written when the file is made, or never.
CREATE TABLE chain_key (
  id          INTEGER PRIMARY KEY CHECK (id = 1),
  fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 16)
) STRICT;

CREATE TRIGGER chain_key_no_update BEFORE UPDATE ON chain_key BEGIN
  SELECT RAISE(ABORT, 'a file keeps its key');
END;

CREATE TRIGGER chain_key_no_replace BEFORE INSERT ON chain_key BEGIN
  SELECT RAISE(ABORT, 'a file keeps its key')
    WHERE EXISTS (SELECT 1 FROM chain_key) OR EXISTS (SELECT 1 FROM trace) OR EXISTS (SELECT 1 FROM tombstone);
END;

CREATE TRIGGER chain_key_no_delete BEFORE DELETE ON chain_key BEGIN
  SELECT RAISE(ABORT, 'a file keeps its key');
END;
