-- For people, with any SQLite tool. A msgpack (BLOB) body shows as one event of kind 'opaque'.

CREATE VIEW traces AS
SELECT t.trace_id, t.name, t.status,
       coalesce((SELECT l.first_seq + l.n - 1 FROM log l WHERE l.trace = t.id ORDER BY l.first_seq DESC LIMIT 1),
                (SELECT max(r.seq) FROM root r WHERE r.trace = t.id), t.fork_seq) AS version,
       strftime('%Y-%m-%dT%H:%M:%S', t.created_us / 1000000, 'unixepoch') || printf('.%06dZ', t.created_us % 1000000) AS created_at,
       (SELECT strftime('%Y-%m-%dT%H:%M:%S', l.at_us / 1000000, 'unixepoch') || printf('.%06dZ', l.at_us % 1000000)
          FROM log l WHERE l.trace = t.id ORDER BY l.first_seq DESC LIMIT 1) AS updated_at,
       p.trace_id AS parent_trace_id,
       nullif(t.fork_seq, 0) AS fork_seq
  FROM trace t LEFT JOIN trace p ON p.id = t.parent;

CREATE VIEW events AS
SELECT t.trace_id,
       l.first_seq,                                  -- indexed: narrow by this, then by seq
       l.first_seq + coalesce(e.key, 0) AS seq,
       CASE typeof(l.body) WHEN 'text' THEN coalesce(e.value ->> 'kind', 'delta') ELSE 'opaque' END AS kind,
       e.value AS event,
       strftime('%Y-%m-%dT%H:%M:%S', l.at_us / 1000000, 'unixepoch') || printf('.%06dZ', l.at_us % 1000000) AS at,
       l.append_id,
       lower(hex(l.digest)) AS digest
  FROM trace t JOIN log l ON l.trace = t.id
  LEFT JOIN json_each(CASE typeof(l.body) WHEN 'text' THEN l.body ELSE '[]' END) e;

CREATE VIEW deltas AS
SELECT trace_id, first_seq, seq,
       event ->> 'key' AS key,
       coalesce(event ->> 'op', 'put') AS op,
       event -> 'value' AS value,
       coalesce(event ->> 'source', 'node') AS source,
       at
  FROM events WHERE kind = 'delta';

CREATE VIEW barriers AS
SELECT t.trace_id, b.barrier_id,
       r.event -> 'data' ->> 'node' AS node,
       r.event -> 'data' ->> 'prompt' AS prompt,
       b.raised_seq, r.at AS raised_at,
       strftime('%Y-%m-%dT%H:%M:%S', b.deadline_us / 1000000, 'unixepoch') || printf('.%06dZ', b.deadline_us % 1000000) AS deadline_at,
       b.decided_seq, d.at AS decided_at,
       d.event -> 'data' -> 'decision' AS decision,
       d.event -> 'data' -> 'decision' ->> 'by' AS decided_by
  FROM barrier b JOIN trace t ON t.id = b.trace
  LEFT JOIN events r ON r.trace_id = t.trace_id AND r.seq = b.raised_seq
       AND r.first_seq = (SELECT max(first_seq) FROM log WHERE trace = b.trace AND first_seq <= b.raised_seq)
  LEFT JOIN events d ON d.trace_id = t.trace_id AND d.seq = b.decided_seq
       AND d.first_seq = (SELECT max(first_seq) FROM log WHERE trace = b.trace AND first_seq <= b.decided_seq);

CREATE VIEW checkpoints AS
SELECT c.checkpoint_id, t.trace_id, c.seq, c.node, c.graph_hash, c.triggers, c.metadata,
       strftime('%Y-%m-%dT%H:%M:%S', c.created_us / 1000000, 'unixepoch') || printf('.%06dZ', c.created_us % 1000000) AS created_at
  FROM checkpoint c JOIN trace t ON t.id = c.trace;

CREATE VIEW bases AS
SELECT b.id, t.trace_id, b.seq, CASE WHEN b.parent IS NULL THEN 'whole' ELSE 'link' END AS kind, b.parent,
       length(CAST(b.body AS BLOB)) AS body_bytes, b.chain_bytes, b.state_bytes, b.reason,
       b.algorithm || ':' || printf('%08x', b.checksum) AS checksum,
       strftime('%Y-%m-%dT%H:%M:%S', b.at_us / 1000000, 'unixepoch') || printf('.%06dZ', b.at_us % 1000000) AS at
  FROM base b JOIN trace t ON t.id = b.trace;
