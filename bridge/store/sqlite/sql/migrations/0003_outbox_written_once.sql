-- An event is written once: who has it is told by appended lines, and what is not sent in its turn by a small table.

-- A lineage is a generation of what is known of one source; see ``lineage``.
ALTER TABLE source DROP COLUMN rewinds;
ALTER TABLE source ADD COLUMN lineage TEXT NOT NULL DEFAULT '';
ALTER TABLE source ADD COLUMN is_initial INTEGER NOT NULL DEFAULT 1;    -- until its reader is caught up for the first time
ALTER TABLE source ADD COLUMN is_complete INTEGER NOT NULL DEFAULT 0;   -- once a proven walk has told everything
ALTER TABLE source ADD COLUMN doubt_through INTEGER NOT NULL DEFAULT 0; -- unsent events up to here may have been sent
ALTER TABLE account DROP COLUMN reuse;

ALTER TABLE outbox RENAME TO former_outbox;
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT, -- also the publishing id in the log: given once
    source_id INTEGER NOT NULL REFERENCES source (id),
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    account TEXT,                               -- key of the account it tells of; NULL: of the source as a whole
    routing_key TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at TEXT NOT NULL,
    sinks INTEGER NOT NULL DEFAULT 3,           -- who wants it: 1 the exchange, 2 the log; a copy is for one of them
    forgotten_at TEXT                           -- its personal data was taken out of the body
);
CREATE UNIQUE INDEX outbox_of_source ON outbox (source_id, position);

-- What a sink has: everything of a lane up to a position, apart from what is aside. A line a second and lane at most.
-- The exchange has a lane for each source, by its id; the log has one for all, 0.
CREATE TABLE confirmed (
    sink INTEGER NOT NULL, lane INTEGER NOT NULL, through INTEGER NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (sink, lane, through)
) WITHOUT ROWID;

-- Events that a sink does not get in their turn, and why: 'parked' (refused for good), 'held' (behind a parked one of its
-- account), 'moved' (tried again as a copy at the end), 'discarded' (an operator let it go), 'sent' (was there before).
CREATE TABLE aside (
    sink INTEGER NOT NULL, position INTEGER NOT NULL, source_id INTEGER NOT NULL, account TEXT,
    state TEXT NOT NULL, reason TEXT, at TEXT NOT NULL,
    PRIMARY KEY (sink, position)
) WITHOUT ROWID;
CREATE INDEX aside_state ON aside (sink, source_id, state);

-- An event as an operator looks it up: what the exchange makes of it. An event that waits in its turn has no state.
CREATE VIEW recorded AS SELECT
    outbox.position, source.name AS source, outbox.sequence, event_id, event_type, outbox.account, routing_key, body,
    created_at, forgotten_at, state, reason, aside.at AS aside_at, outbox.position <= doubt_through AS is_in_doubt,
    iif(state IS NULL, (SELECT at FROM confirmed WHERE sink = 1 AND lane = outbox.source_id AND through >= outbox.position
        ORDER BY through LIMIT 1), iif(state = 'sent', aside.at, NULL)) AS confirmed_at
FROM outbox CROSS JOIN source ON source.id = outbox.source_id
    LEFT JOIN aside ON aside.sink = 1 AND aside.position = outbox.position
WHERE sinks & 1 AND state IS NOT 'moved';

-- What earlier tables had. Their lineages had no order: they become the oldest there can be, and a new one begins.
INSERT INTO outbox (position, source_id, sequence, event_id, event_type, account, routing_key, body, created_at, forgotten_at)
SELECT position, source_id, sequence, event_id, event_type, account, routing_key,
    CAST(replace(CAST(body AS TEXT), '"lineage":"' || json_extract(CAST(body AS TEXT), '$.lineage') || '"',
        '"lineage":"00010101T000000000Z-' || substr(json_extract(CAST(body AS TEXT), '$.lineage'), 1, 4) || '"') AS BLOB),
    created_at, forgotten_at
FROM former_outbox ORDER BY position;
INSERT INTO sqlite_sequence (name, seq) SELECT 'outbox', seq FROM sqlite_sequence
WHERE name = 'former_outbox' AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'outbox');
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'former_outbox')
WHERE name = 'outbox' AND EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'former_outbox');

INSERT INTO confirmed (sink, lane, through, at)
SELECT 1, source_id, max(position), published_at FROM former_outbox
WHERE published_at IS NOT NULL AND discarded_reason IS NULL GROUP BY source_id, published_at;
INSERT INTO aside (sink, position, source_id, account, state, reason, at)
SELECT 1, position, source_id, account,
    CASE WHEN discarded_reason IS NOT NULL THEN 'discarded' WHEN parked_at IS NOT NULL THEN 'parked' ELSE 'held' END,
    coalesce(discarded_reason, parked_reason), coalesce(parked_at, published_at, created_at)
FROM former_outbox WHERE discarded_reason IS NOT NULL OR (published_at IS NULL AND is_held = 1);
INSERT INTO confirmed (sink, lane, through, at)
SELECT 2, 0, max(position), max(created_at) FROM former_outbox
WHERE position NOT IN (SELECT position FROM log_queue) AND EXISTS (SELECT 1 FROM meta WHERE name = 'log_partitions')
HAVING max(position) IS NOT NULL;
INSERT INTO aside (sink, position, source_id, account, state, reason, at)
SELECT 2, log_queue.position, source_id, account, iif(log_queue.parked_at IS NULL, 'held', 'parked'),
    log_queue.parked_reason, coalesce(log_queue.parked_at, created_at)
FROM log_queue JOIN former_outbox ON former_outbox.position = log_queue.position WHERE log_queue.is_held = 1;

-- What was let go and not sent yet while later ones were: as a copy at the end, as from now on, and so is what waits
-- behind it, or else that would overtake it.
CREATE TEMP TABLE late AS
SELECT 1 AS sink, position FROM former_outbox WHERE published_at IS NULL AND is_held = 0 AND source_id IN (
    SELECT source_id FROM former_outbox WHERE published_at IS NULL AND is_held = 0 GROUP BY source_id
    HAVING min(position) < (SELECT max(through) FROM confirmed WHERE sink = 1 AND lane = source_id))
UNION ALL SELECT 2, position FROM log_queue WHERE is_held = 0
    AND (SELECT min(position) FROM log_queue WHERE is_held = 0)
        < (SELECT max(through) FROM confirmed WHERE sink = 2 AND lane = 0);
INSERT INTO outbox (source_id, sequence, event_id, event_type, account, routing_key, body, created_at, sinks)
SELECT source_id, sequence, event_id, event_type, account, routing_key, body, created_at, late.sink
FROM late JOIN outbox ON outbox.position = late.position ORDER BY late.position;
INSERT INTO aside (sink, position, source_id, account, state, at)
SELECT sink, late.position, source_id, account, 'moved', created_at
FROM late JOIN outbox ON outbox.position = late.position;
DROP TABLE late;

DROP TABLE log_queue;
DROP TABLE former_outbox;
DELETE FROM meta WHERE name IN ('lineage', 'unchecked', 'restored', 'log_unchecked', 'log_confirmed', 'log_former');
INSERT INTO meta (name, value)
SELECT 'copied', CAST('{"why": "the store of a version whose events had other ids"}' AS BLOB) WHERE EXISTS (SELECT 1 FROM source)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;
