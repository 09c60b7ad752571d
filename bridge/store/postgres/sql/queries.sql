-- Every statement by its name, with its reason. ``bridge.store.postgres.sql`` reads this file.

-- meta_value: what belongs to the store as a whole
SELECT value FROM meta WHERE name = :name;

-- set_meta_value: the same, written
INSERT INTO meta (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- add_source: a PBX is known from the first time it is configured
INSERT INTO source (name, lineage) VALUES (:name, :lineage) ON CONFLICT (name) DO NOTHING;

-- source: where reading of one PBX goes on
SELECT id, guid, usn, ausn, sequence, walk, lineage, is_initial, is_complete FROM source WHERE name = :name;

-- move_cursor: only from where we left it, and with it the number of the last event made; no row changed means that
-- another bridge was here
UPDATE source SET guid = :guid, usn = :usn, ausn = :ausn, sequence = :sequence
WHERE id = :source_id AND guid IS NOT DISTINCT FROM :since_guid
    AND usn IS NOT DISTINCT FROM :since_usn AND ausn IS NOT DISTINCT FROM :since_ausn;

-- end_initial: its reader was caught up: what appears from now on is new
UPDATE source SET is_initial = false WHERE id = :source_id AND is_initial;

-- accounts: what the mirror knows of these
SELECT key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted
FROM account WHERE source_id = :source_id AND key = ANY (ARRAY(SELECT json_array_elements_text(:keys::json)));

-- save_account: entries of the mirror, in one JSON text: measured, a quarter of the time of as many parameters
INSERT INTO account (source_id, key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted, last_walk)
SELECT :source_id, key, account_guid, guid, usn, ausn, decode(digest, 'hex'), content::text, revision, is_deleted, :walk
FROM json_to_recordset(:accounts::json) AS told (key text, account_guid text, guid text, usn text, ausn text, digest text,
    content json, revision bigint, is_deleted boolean)
ON CONFLICT (source_id, key) DO UPDATE SET
    account_guid = excluded.account_guid, guid = excluded.guid, usn = excluded.usn, ausn = excluded.ausn,
    digest = excluded.digest, content = excluded.content, revision = excluded.revision,
    is_deleted = excluded.is_deleted, last_walk = excluded.last_walk, missed = 0;

-- mark_seen: accounts that are as they were
UPDATE account SET last_walk = :walk, missed = 0
WHERE source_id = :source_id AND key = ANY (ARRAY(SELECT json_array_elements_text(:keys::json)));

-- begin_walk: everything seen from now on is seen by this walk
UPDATE source SET walk = :walk, verified_at = CASE WHEN :is_new_epoch THEN NULL ELSE verified_at END WHERE id = :source_id;

-- verified_at: when nothing was missing for the last time
SELECT verified_at, certificate FROM source WHERE name = :name;

-- count_missed: after a proven walk
UPDATE account SET missed = missed + 1 WHERE source_id = :source_id AND last_walk < :walk AND NOT is_deleted;

-- missing: what enough walks did not see
SELECT key, account_guid, guid, usn, ausn, digest, content, revision, is_deleted
FROM account WHERE source_id = :source_id AND missed >= :missed AND NOT is_deleted ORDER BY key LIMIT nullif(:limit::bigint, -1);

-- certificate: the latest of a source in the present epoch
SELECT certificate FROM source WHERE name = :name AND verified_at IS NOT NULL;

-- certify: the latest certificate of a source, and with the first one everything is told
UPDATE source SET verified_at = :verified_at, certificate = :certificate, is_complete = true WHERE id = :source_id;

-- count_accounts: how many a PBX has at present, or how many of those walks did not see
SELECT count(*) FROM account WHERE source_id = :source_id AND missed >= :missed AND NOT is_deleted;

-- revisions: of the present accounts, for a certificate; a page of them
SELECT key, revision FROM account WHERE source_id = :source_id AND key > :after AND NOT is_deleted
ORDER BY key LIMIT :limit;

-- add_event: in one JSON text, as above; the body in base64, since a PBX may say U+0000, which PostgreSQL takes out of no
-- JSON
INSERT INTO outbox (source_id, sequence, event_id, event_type, account, routing_key, body, created_at)
SELECT :source_id, sequence, event_id, event_type, account, routing_key, decode(body, 'base64'), created_at
FROM ROWS FROM (json_to_recordset(:events::json) AS (sequence bigint, event_id text, event_type text, account text,
    routing_key text, body text, created_at timestamptz)) WITH ORDINALITY ORDER BY ordinality;

-- progress: how far each lane of a sink is confirmed
SELECT lane, max(through) AS through FROM confirmed WHERE sink = :sink GROUP BY lane;

-- unsent_of_source: the next events of one source that a sink does not have, in the order they were committed. Compared as
-- pairs, here and below: otherwise the planner believes that walking over all positions finds those of one source soon
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    position <= doubt_through AS is_in_doubt
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE (source_id, position) > (:lane, :after) AND (source_id, position) <= (:lane, 9223372036854775807)
    AND sinks & :sink <> 0 AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
    AND EXISTS (SELECT 1 FROM bridge WHERE id = :me AND NOT is_over)
ORDER BY source_id, position LIMIT :limit;

-- unsent_of_all: the same over all sources
SELECT position, source.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    false AS is_in_doubt
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE position > :after AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
    AND EXISTS (SELECT 1 FROM bridge WHERE id = :me AND NOT is_over)
ORDER BY position LIMIT :limit;

-- confirm: a sink has everything of this lane up to there
INSERT INTO confirmed (sink, lane, through, at) VALUES (:sink, :lane, :through, :at)
ON CONFLICT DO NOTHING;

-- unsent_ids: what a sink does not have, up to a position; for who looks whether it has it after all
SELECT position, source.name AS source, event_id, account
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE position > :after AND position <= :through AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
ORDER BY position LIMIT nullif(:limit::bigint, -1);

-- confirmed_ids: the newest that a sink has, for who looks whether it still has them
SELECT position, source.name AS source, event_id, account
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE position > :after AND position <= :through AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
ORDER BY position DESC LIMIT :limit;

-- count_unsent_of_source: what a sink does not have of one source, once at the start
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes FROM outbox
WHERE source_id = :lane AND position > :after AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position);

-- count_unsent_of_all: the same over all sources
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes FROM outbox
WHERE position > :after AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position);

-- count_aside: how much waits for an operator
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes, count(*) FILTER (WHERE state = 'parked') AS parked
FROM aside JOIN outbox ON outbox.position = aside.position WHERE aside.sink = :sink AND state IN ('parked', 'held', 'fenced');

-- aside_by_source: the same by source
SELECT source_id AS lane, name, count(*) AS rows, count(*) FILTER (WHERE state = 'parked') AS parked
FROM aside JOIN source ON source.id = source_id WHERE sink = :sink AND state IN ('parked', 'held', 'fenced')
GROUP BY source_id, name;

-- doubt: sent, but the session ended before a confirm came
UPDATE source SET doubt_through = greatest(doubt_through, :through) WHERE id = :lane;

-- doubt_first: after an unclean stop, what may have been on its way
UPDATE source SET doubt_through = greatest(doubt_through, coalesce((SELECT max(position) FROM (
    SELECT position FROM outbox WHERE (source_id, position) > (:lane, :after)
        AND (source_id, position) <= (:lane, 9223372036854775807) ORDER BY source_id, position LIMIT :limit) AS first), 0))
WHERE id = :lane;

-- count_doubtful: events of one source that may have been sent
SELECT count(*) FROM outbox JOIN source ON source.id = outbox.source_id
WHERE outbox.source_id = :lane AND position > :after AND position <= doubt_through AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position);

-- set_aside: an event that a sink does not get in its turn
INSERT INTO aside (sink, position, source_id, account, state, reason, at)
SELECT :sink, position, source_id, account, :state, :reason, :at FROM outbox WHERE position = :position
ON CONFLICT (sink, position) DO UPDATE SET state = excluded.state, reason = excluded.reason, at = excluded.at;

-- count_to_hold: what the next statement holds; by state, since few are parked and many may be held
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes FROM outbox
WHERE source_id = :source_id AND position > :after AND sinks & :sink <> 0
    AND (account IS NULL OR account IN (SELECT parked.account FROM aside AS parked
        WHERE parked.sink = :sink AND parked.source_id = :source_id AND parked.state = 'parked'))
    AND NOT EXISTS (SELECT 1 FROM aside AS there WHERE there.sink = :sink AND there.position = outbox.position);

-- hold: behind a parked event: what is about the same account, and every certificate of the source
INSERT INTO aside (sink, position, source_id, account, state, at)
SELECT :sink, position, source_id, account, 'held', :at FROM outbox
WHERE source_id = :source_id AND position > :after AND sinks & :sink <> 0
    AND (account IS NULL OR account IN (SELECT parked.account FROM aside AS parked
        WHERE parked.sink = :sink AND parked.source_id = :source_id AND parked.state = 'parked'))
    AND NOT EXISTS (SELECT 1 FROM aside AS there WHERE there.sink = :sink AND there.position = outbox.position);

-- first_unsent: is anything of a source to be sent that has a position up to that?
SELECT position FROM outbox WHERE (source_id, position) > (:source_id, :after)
    AND (source_id, position) <= (:source_id, :through) AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
ORDER BY source_id, position LIMIT 1;

-- count_to_put_off: what the next statement puts off
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes FROM outbox
WHERE source_id = :source_id AND position > :after AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside AS there WHERE there.sink = :sink AND there.position = outbox.position);

-- put_off: what is to be sent of a source that somebody else sends for
INSERT INTO aside (sink, position, source_id, account, state, reason, at)
SELECT :sink, position, source_id, account, 'fenced', :reason, :at FROM outbox
WHERE source_id = :source_id AND position > :after AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside AS there WHERE there.sink = :sink AND there.position = outbox.position);

-- fenced_sources: of which something was put off; few sources, and an index over them
SELECT name FROM source WHERE EXISTS (SELECT 1 FROM aside
    WHERE aside.sink = :sink AND aside.source_id = source.id AND aside.state = 'fenced');

-- aside_ids: what waits aside, up to a position; for who looks whether the log has it after all
SELECT outbox.position, source.name AS source, event_id, outbox.account FROM aside
    JOIN outbox ON outbox.position = aside.position JOIN source ON source.id = outbox.source_id
WHERE aside.sink = :sink AND aside.state IN ('parked', 'held', 'fenced')
    AND outbox.position > :after AND outbox.position <= :through
ORDER BY outbox.position LIMIT nullif(:limit::bigint, -1);

-- aside_is_sent: what waited aside and is found in the log after all
UPDATE aside SET state = 'sent', reason = NULL, at = :at
WHERE sink = :sink AND position = :position AND state IN ('parked', 'held', 'fenced');

-- free_fenced: nobody else sends for that source any more
UPDATE aside SET state = 'again', reason = NULL, at = :at
WHERE sink = :sink AND source_id = :source_id AND state = 'fenced';

-- change_parked: an operator decided about a parked event
UPDATE aside SET state = :state, reason = :reason, at = :at
WHERE sink = :sink AND position = :position AND state = 'parked';

-- free_held: what no parked event holds any more is to be tried again, too; by state, since few are parked and many may
-- be held
UPDATE aside SET state = 'again' WHERE sink = :sink AND source_id = :source_id AND state = 'held'
    AND NOT EXISTS (SELECT 1 FROM aside AS parked
        WHERE parked.sink = :sink AND parked.source_id = :source_id AND parked.state = 'parked'
        AND (aside.account IS NULL OR parked.account IS NOT DISTINCT FROM aside.account));

-- count_again: what the next two statements send
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes
FROM aside JOIN outbox ON outbox.position = aside.position
WHERE sink = :sink AND aside.source_id = :source_id AND state = 'again';

-- copy_again: tried again behind what is sent now, with the same id and bytes, in the order in which they were made. Their
-- positions do not tell that: what was tried again and parked once more stands behind what it holds. A certificate has
-- the sequence of the last change that it covers. The lineage is taken out as text, for the same reason as above; what a
-- PBX said comes behind it, and its quotation marks have a backslash
INSERT INTO outbox (source_id, sequence, event_id, event_type, account, routing_key, body, created_at, sinks)
SELECT outbox.source_id, sequence, event_id, event_type, outbox.account, routing_key, body, created_at, :sink
FROM aside JOIN outbox ON outbox.position = aside.position
WHERE sink = :sink AND aside.source_id = :source_id AND state = 'again'
ORDER BY substring(convert_from(body, 'UTF8') FROM '"lineage":"([^"]*)"') COLLATE "C" NULLS FIRST, sequence,
    outbox.account IS NULL, outbox.position;

-- mark_moved: and stands at its new position from now on
UPDATE aside SET state = 'moved', reason = NULL, at = :at
WHERE sink = :sink AND source_id = :source_id AND state = 'again';

-- source_of_position: whose event it is, and how large
SELECT source_id, length(body) AS bytes FROM outbox WHERE position = :position;

-- bytes_waiting: whose event it is and how large that a sink would get in its turn; nothing where it does not wait for that
SELECT source_id, length(body) AS bytes FROM outbox WHERE position = :position AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position);

-- parked_beside: what is parked beside a parked event and has to keep its order with it: of its account, and for a
-- certificate whatever is parked of the source
SELECT outbox.position, outbox.sequence, outbox.account, body FROM aside AS mine
    JOIN aside AS other ON other.sink = mine.sink AND other.source_id = mine.source_id AND other.state = 'parked'
        AND (mine.account IS NULL OR other.account IS NOT DISTINCT FROM mine.account)
    JOIN outbox ON outbox.position = other.position
WHERE mine.sink = :sink AND mine.position = :position AND mine.state = 'parked';

-- sources_with_held: of which something is held
SELECT DISTINCT source_id FROM aside WHERE sink = :sink AND state = 'held';

-- parked_rows: for an operator, with how many wait behind each
SELECT outbox.position, source.name AS source, outbox.sequence, event_id, routing_key, body, outbox.created_at,
    aside.at AS parked_at, reason, (SELECT count(*) FROM aside AS held
        WHERE held.sink = :sink AND held.state = 'held' AND held.source_id = aside.source_id
            AND held.account IS NOT DISTINCT FROM aside.account AND held.position > aside.position) AS waiting
FROM aside JOIN outbox ON outbox.position = aside.position JOIN source ON source.id = outbox.source_id
WHERE aside.sink = :sink AND aside.state = 'parked' ORDER BY aside.position;

-- extend_confirmed: the same as the last line tells, and a little more, within one second
UPDATE confirmed SET through = :through, at = :at WHERE sink = :sink AND lane = :lane AND through = :before;

-- extend_or_confirm: both in one, so that nobody has to wait for the answer to the first
WITH extended AS (UPDATE confirmed SET through = :through, at = :at
    WHERE sink = :sink AND lane = :lane AND through = :before RETURNING 1)
INSERT INTO confirmed (sink, lane, through, at)
SELECT :sink, :lane, :through, :at::timestamptz WHERE NOT EXISTS (SELECT 1 FROM extended) ON CONFLICT DO NOTHING;

-- confirmed_before: everything of a lane up to there has been with a sink since before that time: all lines before the
-- first that is younger. A line from the future tells nothing, and the next one tells for it
SELECT max(through) AS through FROM confirmed WHERE sink = :sink AND lane = :lane AND at < :before
    AND through < coalesce((SELECT through FROM confirmed AS young WHERE young.sink = :sink AND young.lane = :lane
        AND young.at >= :before AND young.at <= :now ORDER BY through LIMIT 1), 9223372036854775807);

-- prune_events: in small steps, so that no transaction is long; what waits for an operator stays
DELETE FROM outbox WHERE source_id = :source_id AND position = ANY (ARRAY(SELECT position FROM outbox
    WHERE (source_id, position) >= (:source_id, 0) AND (source_id, position) <= (:source_id, :through)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink IN (1, 2) AND aside.position = outbox.position
        AND state IN ('parked', 'held', 'fenced')) ORDER BY source_id, position LIMIT :limit));

-- prune_aside: of events that are gone
DELETE FROM aside WHERE source_id = :source_id AND position <= :through AND state NOT IN ('parked', 'held', 'fenced')
    AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.position = aside.position);

-- prune_confirmed: lines that tell of nothing any more; the last one of a lane stays
DELETE FROM confirmed WHERE sink = :sink AND lane = :lane AND through < :through;

-- recent_events: the last of one type, for a person to look at; what is larger comes without its body
SELECT position, source, created_at, confirmed_at, state, is_in_doubt,
    CASE WHEN length(body) <= :max_bytes THEN body END AS body
FROM recorded WHERE event_type = :event_type ORDER BY position DESC LIMIT :limit;

-- events_of_account: sent or not, in order; no index, since only operators ask and every event would pay for it
SELECT * FROM recorded WHERE source = :source AND account = :key ORDER BY position;

-- event: by its id; no index, for the same reason
SELECT * FROM recorded WHERE event_id = :event_id;

-- recorded_events: a page of those made since a time
SELECT * FROM recorded WHERE position > :after AND created_at >= :since ORDER BY position LIMIT :limit;

-- unsent_events: for somebody who wants to know what does not move
SELECT * FROM recorded WHERE confirmed_at IS NULL AND state IS DISTINCT FROM 'discarded'
ORDER BY state IS NULL, position LIMIT :limit;

-- last_event: the last of one type and source
SELECT body, outbox.created_at, forgotten_at FROM outbox
WHERE source_id = (SELECT id FROM source WHERE name = :name) AND event_type = :event_type
ORDER BY position DESC LIMIT 1;

-- last_confirmed: when the exchange had something of a source last
SELECT at FROM confirmed WHERE sink = 1 AND lane = (SELECT id FROM source WHERE name = :name)
ORDER BY through DESC LIMIT 1;

-- flow: when events of one type were made and confirmed, the newest first
SELECT created_at, confirmed_at FROM recorded WHERE event_type = :event_type ORDER BY position DESC LIMIT :limit;

-- last_published: when the exchange had anything last
SELECT max(at) AS at FROM confirmed WHERE sink = 1;

-- count_outbox: what there is
SELECT count(*) AS events, count(forgotten_at) AS forgotten, min(created_at) AS oldest_at,
    (SELECT max(at) FROM confirmed WHERE sink = 1) AS last_published_at,
    (SELECT count(*) FROM aside WHERE state = 'discarded') AS discarded FROM outbox;

-- renew_sources: a new generation: nothing may be concluded from what was known
UPDATE source SET lineage = :lineage, sequence = 0, guid = NULL, usn = NULL, ausn = NULL, is_initial = true,
    is_complete = false, verified_at = NULL, certificate = NULL, doubt_through = :position;

-- renew_source: the same of one that subscribers were told the end of
UPDATE source SET lineage = :lineage, sequence = 0, guid = NULL, usn = NULL, ausn = NULL, is_initial = true,
    is_complete = false, verified_at = NULL, certificate = NULL WHERE id = :source_id;

-- begin_lineage: a new generation of one source, in which nothing is told yet; what is known stays
UPDATE source SET lineage = :lineage, sequence = 0, is_complete = false, verified_at = NULL, certificate = NULL
WHERE id = :source_id;

-- rename_source: it goes on under another name
UPDATE source SET name = :name WHERE id = :source_id;

-- drop_deleted_accounts: whose revisions went on under the former name only
DELETE FROM account WHERE source_id = :source_id AND is_deleted;

-- drop_caller: who dials under that name is met anew
DELETE FROM caller WHERE source_id = :source_id;

-- rename_notes: what was noted about a source, whose name such a note ends with
UPDATE meta SET name = left(name, -length(:before)) || :after
WHERE length(name) > length(:before) AND right(name, length(:before)) = :before;

-- drop_notes: the same, of a source that is gone
DELETE FROM meta WHERE length(name) > length(:suffix) AND right(name, length(:suffix)) = :suffix;

-- is_waiting: is there anything of this source that a sink does not have, or that waits for an operator?
SELECT EXISTS (SELECT 1 FROM outbox WHERE source_id = :source_id AND position > :through AND sinks & :sink <> 0
        AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position))
    OR EXISTS (SELECT 1 FROM aside WHERE sink = :sink AND source_id = :source_id
        AND state IN ('parked', 'held', 'fenced'));

-- drop_accounts: of a source that is gone
DELETE FROM account WHERE source_id = :source_id;

-- drop_events: the same
DELETE FROM outbox WHERE source_id = :source_id;

-- drop_aside: the same
DELETE FROM aside WHERE source_id = :source_id;

-- drop_lines: the same, of the sink that has a lane for each source
DELETE FROM confirmed WHERE sink = 1 AND lane = :source_id;

-- drop_source: the last of it
DELETE FROM source WHERE id = :source_id;

-- empty_mirror: the same: it tells everything anew
DELETE FROM account;

-- positions_given: the last position given, kept even when its row is gone
SELECT last_value AS seq FROM outbox_position WHERE is_called;

-- incomplete_sources: of which no proven walk has told everything in their lineage
SELECT name FROM source WHERE NOT is_complete;

-- source_ids: every PBX by its number, and how far it is: the last event, and the walk of the certificate behind that
SELECT id, name, sequence, lineage, CASE
    WHEN (convert_from(certificate, 'UTF8')::json ->> 'sequence')::bigint = sequence
        THEN (convert_from(certificate, 'UTF8')::json ->> 'walk')::bigint ELSE 0 END AS certified FROM source;

-- meta_values: those that begin alike
SELECT name, value FROM meta WHERE starts_with(name, rtrim(:pattern, '*')) ORDER BY name;

-- drop_meta_value: no longer so
DELETE FROM meta WHERE name = :name;

-- known_accounts: a page of the mirror, for an operator
SELECT source_id, source.name AS source, key, account.guid, account.usn, account.ausn, content, revision,
    is_deleted, last_walk, missed, lineage, sequence
FROM account JOIN source ON source.id = source_id WHERE (source_id, key) > (:after_source, :after_key) ORDER BY source_id, key LIMIT :limit;

-- known_account: one of them
SELECT source_id, source.name AS source, key, account.guid, account.usn, account.ausn, content, revision,
    is_deleted, last_walk, missed, lineage, sequence
FROM account JOIN source ON source.id = source_id WHERE source.name = :source AND key = :key;

-- last_position: of the newest event
SELECT coalesce(max(position), 0) FROM outbox;

-- sources: every PBX that was ever followed
SELECT name, guid, usn, ausn, sequence, lineage, walk, verified_at, is_complete,
    EXISTS (SELECT 1 FROM caller WHERE source_id = source.id) AS dials,
    (SELECT count(*) FROM account WHERE source_id = source.id AND NOT is_deleted) AS accounts,
    (SELECT count(*) FROM account WHERE source_id = source.id AND is_deleted) AS deleted
FROM source ORDER BY name;

-- account_everywhere: one account, at every PBX that has or had it
SELECT source_id, source.name AS source, account_guid, is_deleted
FROM account JOIN source ON source.id = source_id WHERE key = :key;

-- forget_account: numbers and digest stay, so that nothing is taken for news; not of one that is there again by now
UPDATE account SET content = convert_from(:content, 'UTF8') WHERE source_id = :source_id AND key = :key AND is_deleted;

-- newest_event: what a clock has to be behind
SELECT created_at FROM outbox ORDER BY position DESC LIMIT 1;

-- events_with_person: those of one account that still tell something about it, also of former lineages; no index, as above
SELECT position, source_id, body, sinks FROM outbox WHERE account = :key AND forgotten_at IS NULL;

-- person: is there anything that was told of this account?
SELECT EXISTS (SELECT 1 FROM account WHERE key = :key) OR EXISTS (SELECT 1 FROM outbox WHERE account = :key);

-- forget_event: the same
UPDATE outbox SET body = :body, forgotten_at = :at WHERE position = :position;

-- aside_of_event: who does not get it, and why
SELECT sink, state FROM aside WHERE position = :position;

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

-- end_lapsed: who did not say that it still lives, for good; it waits for the transaction that such a one has open. What
-- a late renewal would change is gone
WITH lapsed AS (DELETE FROM lease WHERE until < clock_timestamp() RETURNING bridge)
UPDATE bridge SET is_over = true, over_at = clock_timestamp() WHERE NOT is_over AND id IN (SELECT bridge FROM lapsed);

-- alive: who has the store, and for how many seconds unless it says so again
SELECT bridge.id::text, name, version, tables, extract(epoch FROM until - clock_timestamp())::float8 AS seconds
FROM bridge JOIN lease ON lease.bridge = bridge.id WHERE NOT is_over;

-- begin_life: from now on it is us; fails where somebody else lives
INSERT INTO bridge (id, name, version, tables) VALUES (:me, :name, :version, :tables);

-- begin_lease: for the first time
INSERT INTO lease (bridge, until) VALUES (:me, clock_timestamp() + make_interval(secs => :seconds));

-- renew_lease: we still live; nothing changed means that somebody else has the store
UPDATE lease SET until = clock_timestamp() + make_interval(secs => :seconds)
WHERE bridge = :me AND EXISTS (SELECT 1 FROM bridge WHERE id = :me AND NOT is_over);

-- disbelieve_leases: nobody asks for more than two minutes, so who has more asked before the clock was set back, and says
-- so again if it lives
UPDATE lease SET until = clock_timestamp() + make_interval(secs => :seconds)
WHERE until > clock_timestamp() + interval '2 minutes';

-- end_life: a clean stop
UPDATE bridge SET is_over = true, over_at = clock_timestamp() WHERE id = :me AND NOT is_over AND commits = :commits;

-- forget_lives: of which nobody will ask any more
DELETE FROM bridge WHERE is_over AND coalesce(over_at, started_at) < clock_timestamp() - interval '30 days'
    AND NOT EXISTS (SELECT 1 FROM source WHERE holder = bridge.id OR former = bridge.id);

-- count_commit: first in every transaction: it fails where we may not write, or are not where we left off
WITH mine AS (UPDATE bridge SET commits = commits + 1 WHERE id = :me AND NOT is_over AND commits = :commits RETURNING 1)
SELECT 1 / count(*) FROM mine;

-- my_commits: what became of us
SELECT commits, is_over FROM bridge WHERE id = :me;

-- cut_stranded: ends a session of ours that has our row locked and hears nothing more, since the network forgot it: in a
-- pipeline the server would wait for ever, as it counts neither as idle nor as slow. Not one whose commit waits for a
-- standby
SELECT pg_terminate_backend(pid) FROM bridge
    JOIN pg_locks ON locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock' AND transactionid = bridge.xmax
    JOIN pg_stat_activity USING (pid)
WHERE bridge.id = :me AND wait_event = 'ClientRead' AND pid <> pg_backend_pid();

-- checked: what a database can be recognised by. A standby that was promoted and a restored backup are on another timeline,
-- a restored dump has other tables, a copy made as TEMPLATE has the same ones and is another database. Not from pg_control_checkpoint(), which shows the old one until the next checkpoint
SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
    || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text
    || '/' || 'outbox'::regclass::oid::text AS checked;

-- has_tables: whether anything was made here before
SELECT to_regclass('schema_version') IS NOT NULL AS has_any, current_setting('server_encoding') AS encoding;

-- tables: which there are, and the oldest whose bridges can work with them
SELECT tables, works_for FROM schema_version;

-- in_force: how the session of this very statement behaves, whoever set that
SELECT current_setting('synchronous_commit') AS synchronous_commit, current_setting('lock_timeout') AS lock_timeout,
    current_setting('statement_timeout') AS statement_timeout,
    current_setting('idle_in_transaction_session_timeout') AS idle_in_transaction_session_timeout;
