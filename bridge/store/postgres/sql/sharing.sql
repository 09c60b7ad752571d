-- Several bridges on one store: who lives, who holds which source, and how that changes. Only the database's clock
-- decides, and no statement here waits for a lock of another bridge.

-- peers: the bridges that live, for how long, and how many sources each has
SELECT bridge.id::text, name, version, is_ready, serves, until < clock_timestamp() AS is_lapsed,
    extract(epoch FROM clock_timestamp() - started_at)::float8 AS age,
    extract(epoch FROM until - clock_timestamp())::float8 AS seconds,
    (SELECT count(*) FROM source WHERE holder = bridge.id) AS held
FROM bridge JOIN lease ON lease.bridge = bridge.id WHERE NOT is_over ORDER BY bridge.id;

-- free_sources: that nobody holds, for how long, and for whom they are kept at present
SELECT name, coalesce(extract(epoch FROM clock_timestamp() - freed_at)::float8, 1e9) AS seconds,
    CASE WHEN kept_until > clock_timestamp() THEN kept_for::text END AS kept_for
FROM source WHERE holder IS NULL ORDER BY id;

-- bury: those that did not say that they still live, for good: with the row goes what a late renewal would change. Not one
-- that is in the midst of a transaction: it ends that soon, or the database does
WITH silent AS (
    SELECT bridge.id FROM bridge JOIN lease ON lease.bridge = bridge.id
    WHERE NOT is_over AND until < clock_timestamp() AND bridge.id <> :me ORDER BY bridge.id
    FOR UPDATE OF bridge, lease SKIP LOCKED),
    ended AS (DELETE FROM lease USING silent WHERE lease.bridge = silent.id)
UPDATE bridge SET is_over = true, over_at = clock_timestamp() FROM silent WHERE bridge.id = silent.id
RETURNING bridge.id::text, name;

-- cut_stuck: ends the session in whose midst a silent bridge stands still, which keeps its row locked; see cut_stranded
SELECT pg_terminate_backend(pid) FROM bridge JOIN lease ON lease.bridge = bridge.id
    JOIN pg_locks ON locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock' AND transactionid = bridge.xmax
    JOIN pg_stat_activity USING (pid)
WHERE NOT is_over AND until < clock_timestamp() AND bridge.id <> :me AND wait_event = 'ClientRead'
    AND pid <> pg_backend_pid();

-- free_buried: what those had that are over; they may still have messages on their way
UPDATE source SET holder = NULL, former = coalesce(former, holder), freed_at = clock_timestamp() WHERE id IN (
    SELECT source.id FROM source JOIN bridge ON bridge.id = holder
    WHERE is_over ORDER BY source.id FOR NO KEY UPDATE OF source SKIP LOCKED);

-- add_sources: those that are configured are there, so that they can be claimed
INSERT INTO source (name, lineage, freed_at) SELECT name, :lineage, clock_timestamp() FROM json_array_elements_text(:names::json) AS told (name)
ON CONFLICT (name) DO NOTHING;

-- unknown_names: of these, the ones that are not there
SELECT name FROM json_array_elements_text(:names::json) AS told (name)
WHERE NOT EXISTS (SELECT 1 FROM source WHERE source.name = told.name);

-- claim: from now on they are ours, as far as nobody was faster
UPDATE source SET holder = :me, epoch = epoch + 1, freed_at = NULL, kept_for = NULL, kept_until = NULL WHERE id IN (
    SELECT id FROM source WHERE holder IS NULL AND name IN (SELECT json_array_elements_text(:names::json) COLLATE "C")
    AND (kept_until IS NULL OR kept_until <= clock_timestamp() OR kept_for = :me)
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id, name, epoch, former::text;

-- claim_again: what we still have after we took it to be lost; whatever was begun before counts no more
UPDATE source SET epoch = epoch + 1 WHERE holder = :me RETURNING id, name, epoch, former::text;

-- let_go: nothing of us is on its way; of one before us there may be
UPDATE source SET holder = NULL, freed_at = clock_timestamp(), kept_for = :kept_for,
    kept_until = CASE WHEN :kept_for::uuid IS NOT NULL THEN clock_timestamp() + make_interval(secs => :seconds) END
WHERE id = :source_id AND holder = :me AND epoch = :epoch;

-- let_go_all: the same at the end of a life, which may have something on its way of some of them
UPDATE source SET holder = NULL, freed_at = clock_timestamp(), kept_for = NULL, kept_until = NULL,
    former = CASE WHEN id IN (SELECT json_array_elements_text(:in_flight::json)::int) THEN coalesce(former, :me)
        ELSE former END
WHERE holder = :me;

-- take_all: nobody has any of them any more, since everything begins anew
UPDATE source SET holder = NULL, epoch = epoch + 1, former = coalesce(former, holder), freed_at = clock_timestamp(),
    kept_for = NULL, kept_until = NULL WHERE holder IS NOT NULL;

-- lock_free_source: one whose rows may go, since nobody has it but us, nor is about to; nobody gets it meanwhile
SELECT id FROM source WHERE id = :source_id
    AND (holder IS NULL OR holder = :me OR EXISTS (SELECT 1 FROM bridge WHERE id = holder AND is_over)) FOR UPDATE SKIP LOCKED;

-- hold_source: first in every transaction about a source. It fails where that is not ours: zero has no logarithm
WITH mine AS (SELECT id FROM source WHERE id = :source_id AND holder = :me AND epoch = :epoch FOR NO KEY UPDATE)
SELECT ln(count(*)) FROM mine;

-- held_source: the same, and where reading goes on
SELECT id, guid, usn, ausn, sequence, walk, lineage, is_initial, is_complete FROM source
WHERE name = :name AND holder = :me AND epoch = :epoch FOR NO KEY UPDATE;

-- unsent_of_held: as unsent_of_source, by whom it is held only: who slept reads nothing new. Not joined by number: the
-- planner would look at what each source of ours has
SELECT position, held.name AS source, outbox.sequence, event_id, event_type, account, routing_key, body, created_at,
    position <= doubt_through AS is_in_doubt
FROM outbox CROSS JOIN (SELECT name, doubt_through FROM source WHERE id = :lane AND holder = :me AND epoch = :epoch) AS held
WHERE (source_id, position) > (:lane, :after) AND (source_id, position) <= (:lane, 9223372036854775807)
    AND sinks & :sink <> 0 AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
    AND EXISTS (SELECT 1 FROM bridge WHERE id = :me AND NOT is_over)
ORDER BY source_id, position LIMIT :limit;

-- confirm_held: as extend_or_confirm, for a source that is ours. Fails where it is not, as the one above: nobody has to
-- wait for an answer to know that
WITH mine AS (SELECT id FROM source WHERE id = :lane AND holder = :me AND epoch = :epoch FOR NO KEY UPDATE),
    extended AS (UPDATE confirmed SET through = :through, at = :at FROM mine
        WHERE sink = :sink AND lane = mine.id AND through = :before RETURNING 1),
    appended AS (INSERT INTO confirmed (sink, lane, through, at)
        SELECT :sink, mine.id, :through, :at::timestamptz FROM mine WHERE NOT EXISTS (SELECT 1 FROM extended)
        ON CONFLICT DO NOTHING)
SELECT ln(count(*)) FROM mine;

-- progress_of_lane: how far one lane of a sink is confirmed
SELECT coalesce(max(through), 0) AS through FROM confirmed WHERE sink = :sink AND lane = :lane;

-- aside_of_source: what waits aside of one source
SELECT count(*) AS rows, coalesce(sum(length(body)), 0) AS bytes, count(*) FILTER (WHERE state = 'parked') AS parked
FROM aside JOIN outbox ON outbox.position = aside.position
WHERE aside.sink = :sink AND aside.source_id = :source_id AND state IN ('parked', 'held', 'fenced');

-- newest_lineage: the newest that was given to any source, whoever gave it
SELECT coalesce(max(lineage COLLATE "C"), '') AS lineage FROM source;

-- others_alive: who lives beside us, whether it shares or not
SELECT bridge.id::text, name, shares, extract(epoch FROM until - clock_timestamp())::float8 AS seconds
FROM bridge JOIN lease ON lease.bridge = bridge.id WHERE NOT is_over;

-- begin_shared_life: from now on it is us, beside others that share
INSERT INTO bridge (id, name, version, tables, shares) VALUES (:me, :name, :version, :tables, true);

-- free_all: nobody holds a source where one bridge has the store for itself
UPDATE source SET holder = NULL, former = NULL WHERE holder IS NOT NULL OR former IS NOT NULL;

-- tell_of_us: what the others have to know
UPDATE bridge SET is_ready = :is_ready, serves = :serves, page = :page WHERE id = :me;

-- set_fence: the queue that our connection to the broker holds, known before the first message goes out
UPDATE bridge SET fence = :fence WHERE id = :me AND NOT is_over;

-- fence_of: which queue a bridge that is over held, and since when it is over
SELECT fence, coalesce(extract(epoch FROM clock_timestamp() - over_at)::float8, 1e9) AS seconds FROM bridge WHERE id = :life;

-- clear_former: nothing of former holders is on its way any more
UPDATE source SET former = NULL WHERE id = :source_id AND holder = :me AND epoch = :epoch;

-- end_lapsed_alone: one that shares with nobody and did not say that it still lives, for good
WITH lapsed AS (DELETE FROM lease USING bridge
    WHERE bridge.id = lease.bridge AND NOT is_over AND NOT shares AND until < clock_timestamp() RETURNING lease.bridge)
UPDATE bridge SET is_over = true, over_at = clock_timestamp() WHERE NOT is_over AND id IN (SELECT bridge FROM lapsed);

-- held_by_dead: is there anything to be freed?
SELECT EXISTS (SELECT 1 FROM source JOIN bridge ON bridge.id = holder WHERE is_over) AS is_any;

-- free_ids: the numbers of the sources that nobody has
SELECT id FROM source WHERE holder IS NULL;

-- holders: which bridge has each source; nobody is the empty one
SELECT source.name, coalesce(bridge.name, '') AS bridge FROM source LEFT JOIN bridge ON bridge.id = holder
ORDER BY source.name;

-- add_wish: what somebody wants of the holder of a source
INSERT INTO wish (source_id, kind, arguments, asked_by)
SELECT id, :kind, :arguments, :asked_by FROM source WHERE name = :name RETURNING id;

-- wishes_for_us: of all that we have and somebody still waits for, the oldest first
SELECT wish.id, source.name AS source, kind, arguments,
    extract(epoch FROM clock_timestamp() - asked_at)::float8 AS age
FROM wish JOIN source ON source.id = source_id
WHERE done_at IS NULL AND holder = :me AND asked_at > clock_timestamp() - make_interval(secs => :seconds) ORDER BY wish.id;

-- answer_wish: it was done, or why it was not
UPDATE wish SET answer = :answer, done_at = clock_timestamp() WHERE id = :id AND done_at IS NULL;

-- answer_to: what became of a wish
SELECT answer FROM wish WHERE id = :id AND done_at IS NOT NULL;

-- drop_wish: nobody waits for it any more
DELETE FROM wish WHERE id = :id AND done_at IS NULL;

-- forget_wishes: that were answered long ago, or that nobody ever will
DELETE FROM wish WHERE asked_at < clock_timestamp() - interval '1 hour';

-- source_of_parked: whose event waits at a position for an operator
SELECT source.name AS source FROM aside JOIN source ON source.id = source_id
WHERE position = :position AND state = 'parked';

-- count_waiting: what a sink that has a lane for each source does not have of any of them
SELECT count(*) AS rows FROM outbox WHERE sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
    AND position > (SELECT coalesce(max(through), 0) FROM confirmed WHERE confirmed.sink = :sink AND lane = source_id);

-- confirm_all: a sink that has a lane for each source has everything up to there
INSERT INTO confirmed (sink, lane, through, at) SELECT :sink, id, :through, :at::timestamptz FROM source
ON CONFLICT DO NOTHING;

-- unsent_ids_by_source: as unsent_ids, of a sink that has a lane for each source
SELECT position, source.name AS source, event_id, account
FROM outbox JOIN source ON source.id = outbox.source_id
WHERE position > :after AND position <= :through AND sinks & :sink <> 0
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.sink = :sink AND aside.position = outbox.position)
    AND position > (SELECT coalesce(max(through), 0) FROM confirmed WHERE confirmed.sink = :sink AND lane = source_id)
ORDER BY position LIMIT nullif(:limit::bigint, -1);

-- lock_log: for the length of a transaction that decides how the log is written
SELECT pg_advisory_xact_lock(31086190);
