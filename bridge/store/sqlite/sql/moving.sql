-- What ``migrate-store`` reads of one store and writes into another: whole tables, in pages, by their keys.

-- page_of_source: every PBX
SELECT id, name, guid, usn, ausn, sequence, walk, verified_at, certificate, lineage, is_initial, is_complete,
    doubt_through
FROM source WHERE id > :after_id ORDER BY id LIMIT :limit;

-- put_source: the same, written
INSERT INTO source (id, name, guid, usn, ausn, sequence, walk, verified_at, certificate, lineage, is_initial,
    is_complete, doubt_through)
VALUES (:id, :name, :guid, :usn, :ausn, :sequence, :walk, :verified_at, :certificate, :lineage, :is_initial,
    :is_complete, :doubt_through) ON CONFLICT DO NOTHING;

-- empty_source: what an earlier try left
DELETE FROM source;

-- page_of_caller: the PBXs that dial
SELECT source_id, domain, pbx, seen_at, first_at, guid, addresses, odd
FROM caller WHERE source_id > :after_source_id ORDER BY source_id LIMIT :limit;

-- put_caller: the same, written
INSERT INTO caller (source_id, domain, pbx, seen_at, first_at, guid, addresses, odd)
VALUES (:source_id, :domain, :pbx, :seen_at, :first_at, :guid, :addresses, :odd) ON CONFLICT DO NOTHING;

-- empty_caller: what an earlier try left
DELETE FROM caller;

-- page_of_account: the mirror
SELECT source_id, key, account_guid, guid, usn, ausn, digest, CAST(content AS TEXT) AS content, revision, is_deleted,
    last_walk, missed
FROM account WHERE (source_id, key) > (:after_source_id, :after_key) ORDER BY source_id, key LIMIT :limit;

-- put_account: the same, written
INSERT INTO account (source_id, key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted, last_walk,
    missed)
VALUES (:source_id, :key, :account_guid, :guid, :usn, :ausn, :digest, CAST(:content AS BLOB), :revision, :is_deleted,
    :last_walk, :missed) ON CONFLICT DO NOTHING;

-- empty_account: what an earlier try left
DELETE FROM account;

-- page_of_outbox: events
SELECT position, source_id, sequence, event_id, event_type, account, routing_key, body, created_at, sinks,
    forgotten_at
FROM outbox WHERE position > :after_position ORDER BY position LIMIT :limit;

-- put_outbox: the same, written
INSERT INTO outbox (position, source_id, sequence, event_id, event_type, account, routing_key, body, created_at,
    sinks, forgotten_at)
VALUES (:position, :source_id, :sequence, :event_id, :event_type, :account, :routing_key, :body, :created_at, :sinks,
    :forgotten_at) ON CONFLICT DO NOTHING;

-- empty_outbox: what an earlier try left
DELETE FROM outbox;

-- page_of_confirmed: what sinks have
SELECT sink, lane, through, at
FROM confirmed WHERE (sink, lane, through) > (:after_sink, :after_lane, :after_through) ORDER BY sink, lane, through LIMIT :limit;

-- put_confirmed: the same, written
INSERT INTO confirmed (sink, lane, through, at)
VALUES (:sink, :lane, :through, :at) ON CONFLICT DO NOTHING;

-- empty_confirmed: what an earlier try left
DELETE FROM confirmed;

-- page_of_aside: what they do not get in its turn
SELECT sink, position, source_id, account, state, reason, at
FROM aside WHERE (sink, position) > (:after_sink, :after_position) ORDER BY sink, position LIMIT :limit;

-- put_aside: the same, written
INSERT INTO aside (sink, position, source_id, account, state, reason, at)
VALUES (:sink, :position, :source_id, :account, :state, :reason, :at) ON CONFLICT DO NOTHING;

-- empty_aside: what an earlier try left
DELETE FROM aside;

-- forget_position: before the next one
DELETE FROM sqlite_sequence WHERE name = 'outbox';

-- set_position: so many positions were given
INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', :position);
