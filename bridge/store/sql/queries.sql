-- Every statement by its name, with its reason. ``bridge.store.sql`` reads this file.

-- meta_value: what belongs to the store as a whole
SELECT value FROM meta WHERE name = :name;

-- set_meta_value: the same, written
INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- add_source: a PBX is known from the first time it is configured
INSERT INTO source (name) VALUES (:name) ON CONFLICT (name) DO NOTHING;

-- source: where reading of one PBX goes on
SELECT id, guid, usn, ausn, sequence, rewinds, walk FROM source WHERE name = :name;

-- move_cursor: only from where we left it; no row changed means that another bridge was here
UPDATE source SET guid = :guid, usn = :usn, ausn = :ausn
WHERE id = :source_id AND guid IS :since_guid AND usn IS :since_usn AND ausn IS :since_ausn;

-- set_numbers: what counts the events of a source
UPDATE source SET sequence = :sequence, rewinds = :rewinds WHERE id = :source_id;

-- accounts: what the mirror knows of these
SELECT key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted, reuse
FROM account WHERE source_id = :source_id AND key IN (SELECT value FROM json_each(:keys));

-- save_account: one entry of the mirror; by place, since it runs for every change
INSERT INTO account (source_id, key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted, reuse,
    last_walk)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source_id, key) DO UPDATE SET
    account_guid = excluded.account_guid, guid = excluded.guid, usn = excluded.usn, ausn = excluded.ausn,
    digest = excluded.digest, content = excluded.content, revision = excluded.revision,
    is_deleted = excluded.is_deleted, reuse = excluded.reuse, last_walk = excluded.last_walk, missed = 0;

-- mark_seen: accounts that are as they were
UPDATE account SET last_walk = :walk, missed = 0
WHERE source_id = :source_id AND key IN (SELECT value FROM json_each(:keys));

-- begin_walk: everything seen from now on is seen by this walk
UPDATE source SET walk = :walk, verified_at = iif(:is_new_epoch, NULL, verified_at) WHERE id = :source_id;

-- verified_at: when nothing was missing for the last time
SELECT verified_at, certificate FROM source WHERE name = :name;

-- count_missed: after a proven walk
UPDATE account SET missed = missed + 1 WHERE source_id = :source_id AND last_walk < :walk AND NOT is_deleted;

-- missing: what enough walks did not see
SELECT key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted, reuse
FROM account WHERE source_id = :source_id AND missed >= :missed AND NOT is_deleted ORDER BY key LIMIT :limit;

-- certificate: the latest of a source in the present epoch
SELECT certificate FROM source WHERE name = :name AND verified_at IS NOT NULL;

-- certify: the latest certificate of a source
UPDATE source SET verified_at = :verified_at, certificate = :certificate WHERE id = :source_id;

-- count_accounts: how many a PBX has at present, or how many of those walks did not see
SELECT count(*) FROM account WHERE source_id = :source_id AND missed >= :missed AND NOT is_deleted;

-- bodies_of_events: an id that was given before belongs to these bytes
SELECT event_id, body FROM outbox WHERE event_id IN (SELECT value FROM json_each(:event_ids));

-- add_event: by place, since it runs for every change; where something is parked, hold follows
INSERT INTO outbox (source_id, sequence, event_id, event_type, account, routing_key, body, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);

-- newest_where_parked: behind this, what is added may have to be held; no row where nothing is parked
SELECT (SELECT max(position) FROM outbox) AS position
WHERE EXISTS (SELECT 1 FROM outbox AS parked WHERE parked.parked_at IS NOT NULL);

-- unpublished_rows: the next page to publish, in the order the changes were committed
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, routing_key, body, created_at,
    is_in_doubt
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE published_at IS NULL AND is_held = 0 AND position > :after ORDER BY position LIMIT :limit;

-- mark_published: the broker has confirmed these
UPDATE outbox SET published_at = :published_at, is_in_doubt = 0
WHERE position IN (SELECT value FROM json_each(:positions));

-- mark_in_doubt: sent, but the session ended before a confirm came
UPDATE outbox SET is_in_doubt = 1, attempts = attempts + 1
WHERE position IN (SELECT value FROM json_each(:positions));

-- mark_first_in_doubt: after an unclean stop, what may have been on its way
UPDATE outbox SET is_in_doubt = 1, attempts = attempts + 1 WHERE position IN
    (SELECT position FROM outbox WHERE published_at IS NULL AND is_held = 0 ORDER BY position LIMIT :limit);

-- count_unpublished: how much is still to be sent
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes
FROM outbox WHERE published_at IS NULL AND is_held = 0;

-- oldest_unpublished: since when something waits
SELECT created_at FROM outbox WHERE published_at IS NULL AND is_held = 0 ORDER BY position LIMIT 1;

-- count_held: how much waits for an operator
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes, count(parked_at) AS parked
FROM outbox WHERE is_held = 1;

-- waiting_by_source: what an earlier bridge left, once at the start
SELECT source.name AS source, count(*) AS rows, count(parked_at) AS parked
FROM outbox JOIN source ON source.id = outbox.source_id WHERE published_at IS NULL GROUP BY source.name;

-- doubtful_by_source: rows in doubt are among the first of those that are to be sent
SELECT source.name AS source, count(*) AS rows FROM
    (SELECT source_id, is_in_doubt FROM outbox WHERE published_at IS NULL AND is_held = 0
     ORDER BY position LIMIT :limit) AS first JOIN source ON source.id = first.source_id
WHERE first.is_in_doubt = 1 GROUP BY source.name;

-- park: a row that the broker refused for good
UPDATE outbox SET parked_at = :parked_at, parked_reason = :reason, is_in_doubt = 0,
    attempts = attempts + 1 WHERE position = :position;

-- unpark: try it once more
UPDATE outbox SET parked_at = NULL, parked_reason = NULL WHERE position = :position AND parked_at IS NOT NULL;

-- discard: it is never sent, because an operator said so
UPDATE outbox SET parked_at = NULL, is_held = 0, published_at = :at, discarded_reason = :reason
WHERE position = :position AND parked_at IS NOT NULL;

-- hold: what comes behind a parked row of the same account, and every certificate of the source behind it
UPDATE outbox SET is_held = 1 WHERE published_at IS NULL AND is_held = 0 AND position > :after AND EXISTS (
    SELECT 1 FROM outbox AS parked WHERE parked.parked_at IS NOT NULL AND parked.source_id = outbox.source_id
    AND parked.position <= outbox.position AND (outbox.account IS NULL OR parked.account IS outbox.account));

-- release: what no parked row holds any more
UPDATE outbox SET is_held = 0 WHERE is_held = 1 AND NOT EXISTS (
    SELECT 1 FROM outbox AS parked WHERE parked.parked_at IS NOT NULL AND parked.source_id = outbox.source_id
    AND parked.position <= outbox.position AND (outbox.account IS NULL OR parked.account IS outbox.account));

-- parked_rows: for an operator, with how many wait behind each
SELECT position, source.name AS source, outbox.sequence, event_id, routing_key, body, outbox.created_at, parked_at,
    parked_reason, (SELECT count(*) FROM outbox AS held WHERE held.is_held = 1 AND held.source_id = outbox.source_id
        AND held.account IS outbox.account AND held.position > outbox.position) AS waiting
FROM outbox JOIN source ON source.id = outbox.source_id WHERE parked_at IS NOT NULL ORDER BY position;

-- prune_published: in small steps, so that no transaction is long; what the log still wants stays
DELETE FROM outbox WHERE position IN
    (SELECT position FROM outbox WHERE published_at < :before
        AND NOT EXISTS (SELECT 1 FROM log_queue WHERE log_queue.position = outbox.position)
    ORDER BY published_at LIMIT :limit);

-- recent_events: the last of one type, for a person to look at
SELECT position, source.name AS source, created_at, published_at, iif(length(body) <= :max_bytes, body, NULL) AS body,
    CASE WHEN discarded_reason IS NOT NULL THEN 'discarded' WHEN published_at IS NOT NULL THEN 'sent'
         WHEN parked_at IS NOT NULL THEN 'parked' WHEN is_held = 1 THEN 'held'
         WHEN is_in_doubt = 1 THEN 'in doubt' ELSE 'waiting' END AS state
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE event_type = :event_type ORDER BY position DESC LIMIT :limit;

-- meta_values: those that begin alike
SELECT name, value FROM meta WHERE name GLOB :pattern ORDER BY name;

-- drop_meta_value: no longer so
DELETE FROM meta WHERE name = :name;

-- known_accounts: a page of the mirror, for an operator
SELECT account.id AS number, source.name AS source, key, account.guid, account.usn, account.ausn, content, revision,
    is_deleted, last_walk, missed
FROM account JOIN source ON source.id = source_id WHERE account.id > :after ORDER BY account.id LIMIT :limit;

-- known_account: one of them
SELECT account.id AS number, source.name AS source, key, account.guid, account.usn, account.ausn, content, revision,
    is_deleted, last_walk, missed
FROM account JOIN source ON source.id = source_id WHERE source.name = :source AND key = :key;

-- events_of_account: sent or not, in order; no index, since only operators ask and every event would pay for it
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    published_at, is_in_doubt, attempts, is_held, parked_reason, discarded_reason, forgotten_at
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE source.name = :source AND account = :key ORDER BY position;

-- event: by its id
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    published_at, is_in_doubt, attempts, is_held, parked_reason, discarded_reason, forgotten_at
FROM outbox JOIN source ON source.id = outbox.source_id WHERE event_id = :event_id;

-- recorded_events: a page of those made since a time
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    published_at, is_in_doubt, attempts, is_held, parked_reason, discarded_reason, forgotten_at
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE position > :after AND created_at >= :since ORDER BY position LIMIT :limit;

-- last_position: of the newest event
SELECT coalesce(max(position), 0) FROM outbox;

-- sources: every PBX that was ever followed
SELECT name, guid, usn, ausn, sequence, walk, verified_at,
    (SELECT count(*) FROM account WHERE source_id = source.id AND NOT is_deleted) AS accounts,
    (SELECT count(*) FROM account WHERE source_id = source.id AND is_deleted) AS deleted
FROM source ORDER BY name;

-- count_outbox: what there is, by kind
SELECT count(*) AS events, count(published_at) AS done, count(discarded_reason) AS discarded,
    count(forgotten_at) AS forgotten, min(created_at) AS oldest_at, max(published_at) AS last_published_at
FROM outbox;

-- doubt_unsent_until: a restored copy cannot know whether these were sent
UPDATE outbox SET is_in_doubt = 1 WHERE published_at IS NULL AND position <= :position;

-- drop_unsent_certificates: never sent, and void in a new lineage, which begins with a walk of its own
DELETE FROM outbox WHERE published_at IS NULL AND position > :position AND account IS NULL;

-- restart_sequences: a new lineage counts from 1, and nothing is verified in it
UPDATE source SET sequence = 0, verified_at = NULL, certificate = NULL;

-- restart_revisions: the same for accounts
UPDATE account SET revision = 0;

-- unsent_behind: a page of what gets numbers of the new lineage
SELECT position, source_id, account, body FROM outbox
WHERE published_at IS NULL AND position > :position AND account IS NOT NULL ORDER BY position LIMIT 500;

-- renumber_event: before it is ever sent
UPDATE outbox SET sequence = :sequence, body = :body WHERE position = :position;

-- renumber_account: the last revision made in the new lineage
UPDATE account SET revision = :revision WHERE source_id = :source_id AND key = :key;

-- renumber_source: the last sequence made in the new lineage
UPDATE source SET sequence = :sequence WHERE id = :source_id;

-- account_everywhere: one account, at every PBX that has or had it
SELECT account.id, source_id, source.name AS source, account_guid, is_deleted
FROM account JOIN source ON source.id = source_id WHERE key = :key;

-- events_with_person: those of one account that still tell something about it
SELECT position, body, iif(
    EXISTS (SELECT 1 FROM log_queue WHERE log_queue.position = outbox.position), NULL, published_at) AS published_at
FROM outbox WHERE source_id = :source_id AND account = :key AND forgotten_at IS NULL;

-- forget_account: numbers and digest stay, so that nothing is taken for news
UPDATE account SET content = :content WHERE id = :id;

-- forget_event: the same; one that was not sent never is
UPDATE outbox SET body = :body, forgotten_at = :at, is_held = 0, parked_at = NULL, parked_reason = NULL,
    discarded_reason = iif(published_at IS NULL, 'its account was forgotten', discarded_reason),
    published_at = coalesce(published_at, :at)
WHERE position = :position;

-- unsent_events: for somebody who wants to know what does not move
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    published_at, is_in_doubt, attempts, is_held, parked_reason, discarded_reason, forgotten_at
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE published_at IS NULL ORDER BY is_held DESC, position LIMIT :limit;

-- newest_event: what a clock has to be behind
SELECT created_at FROM outbox ORDER BY position DESC LIMIT 1;

-- count_in_doubt: what may have passed the exchange without our knowing
SELECT count(*) FROM outbox WHERE published_at IS NULL AND is_in_doubt = 1;

-- count_undone: what the exchange still wants, held or not
SELECT count(*) FROM outbox WHERE published_at IS NULL;

-- log_number: the last number given, kept by SQLite even when its row is gone
SELECT seq FROM sqlite_sequence WHERE name = 'log_queue';

-- log_add: an event that was just added; it waits where an earlier one of its account is parked, see add_event
INSERT INTO log_queue (position, is_held) SELECT position, EXISTS (
    SELECT 1 FROM log_queue AS refused INDEXED BY log_queue_parked CROSS JOIN outbox AS parked ON parked.position = refused.position
    WHERE refused.parked_at IS NOT NULL AND parked.source_id = outbox.source_id
    AND (outbox.account IS NULL OR parked.account IS outbox.account))
FROM outbox WHERE event_id = :event_id;

-- log_add_unsent: what waits when the log begins to be written by us
INSERT INTO log_queue (position) SELECT position FROM outbox WHERE published_at IS NULL ORDER BY position;

-- log_rows: the next page to write
SELECT number, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at
FROM log_queue JOIN outbox ON outbox.position = log_queue.position JOIN source ON source.id = outbox.source_id
WHERE log_queue.is_held = 0 AND number > :after ORDER BY number LIMIT :limit;

-- log_done: the broker has these
DELETE FROM log_queue WHERE number IN (SELECT value FROM json_each(:numbers));

-- log_count: how much is still to be written, and how much of it waits for an operator
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes, coalesce(sum(log_queue.is_held), 0) AS held_rows,
    coalesce(sum(iif(log_queue.is_held, length(body), 0)), 0) AS held_bytes, count(log_queue.parked_at) AS parked
FROM log_queue JOIN outbox ON outbox.position = log_queue.position;

-- log_oldest: since when something waits
SELECT created_at FROM log_queue JOIN outbox ON outbox.position = log_queue.position
WHERE log_queue.is_held = 0 ORDER BY number LIMIT 1;

-- log_park: a row that the log refuses for good
UPDATE log_queue SET parked_at = :parked_at, parked_reason = :reason WHERE number = :number;

-- log_hold: see hold
UPDATE log_queue SET is_held = 1 WHERE is_held = 0 AND EXISTS (
    SELECT 1 FROM outbox AS mine, log_queue AS refused INDEXED BY log_queue_parked CROSS JOIN outbox AS parked ON parked.position = refused.position
    WHERE mine.position = log_queue.position AND refused.parked_at IS NOT NULL
    AND parked.source_id = mine.source_id AND parked.position <= mine.position
    AND (mine.account IS NULL OR parked.account IS mine.account));

-- log_unpark: try it once more
UPDATE log_queue SET parked_at = NULL, parked_reason = NULL WHERE position = :position AND parked_at IS NOT NULL;

-- log_discard: it is never written, because an operator said so
DELETE FROM log_queue WHERE position = :position AND parked_at IS NOT NULL;

-- log_release: what no parked row holds any more, behind everything that was numbered before; see LogQueue
INSERT OR REPLACE INTO log_queue (position) SELECT held.position
FROM log_queue AS held JOIN outbox AS mine ON mine.position = held.position
WHERE held.is_held = 1 AND NOT EXISTS (
    SELECT 1 FROM log_queue AS refused INDEXED BY log_queue_parked CROSS JOIN outbox AS parked ON parked.position = refused.position
    WHERE refused.parked_at IS NOT NULL AND parked.source_id = mine.source_id AND parked.position <= mine.position
    AND (mine.account IS NULL OR parked.account IS mine.account))
ORDER BY held.position;

-- log_parked: for an operator, with how many wait behind each
SELECT log_queue.position, source.name AS source, outbox.sequence, event_id, routing_key, body, outbox.created_at,
    log_queue.parked_at, log_queue.parked_reason, (
        SELECT count(*) FROM log_queue AS other JOIN outbox AS held ON held.position = other.position
        WHERE other.is_held = 1 AND held.source_id = outbox.source_id AND held.account IS outbox.account
        AND held.position > outbox.position) AS waiting
FROM log_queue JOIN outbox ON outbox.position = log_queue.position JOIN source ON source.id = outbox.source_id
WHERE log_queue.parked_at IS NOT NULL ORDER BY log_queue.position;

-- log_former: what waits under the producer of a lineage that ended
SELECT number FROM log_queue WHERE is_held = 0 AND position <= :position AND number <= :number;

-- log_drop: it is forgotten, or never to be written
DELETE FROM log_queue WHERE position = :position;

-- unverified_source: one is enough
SELECT name FROM source WHERE verified_at IS NULL LIMIT 1;

-- caller: what is known of a PBX that dials, by the name of its source
SELECT domain, pbx, seen_at, caller.guid, addresses, odd FROM caller JOIN source ON source.id = source_id WHERE name = :name;

-- callers: the PBXs that dialled since then
SELECT name, domain, pbx, caller.guid, addresses, odd FROM caller JOIN source ON source.id = source_id
WHERE seen_at >= :since ORDER BY name;

-- count_callers: how many PBXs dialled since then; a stamp in the future is believed by nobody
SELECT count(*) AS callers FROM caller WHERE seen_at BETWEEN :since AND :now;

-- count_new_callers: how many of them for the first time
SELECT count(*) AS callers FROM caller WHERE first_at BETWEEN :since AND :now;

-- add_caller: a PBX is known from the first time it dials; a name that is another's is not changed
INSERT INTO caller (source_id, domain, pbx, seen_at, first_at, guid, addresses)
SELECT id, :domain, :pbx, :at, :at, :guid, :addresses FROM source WHERE name = :name ON CONFLICT DO NOTHING;

-- keep_caller: it dialled again, or somebody said yes to what was odd
UPDATE caller SET seen_at = :seen_at, guid = :guid, addresses = :addresses, odd = :odd
WHERE source_id = (SELECT id FROM source WHERE name = :name);
