-- works for: 2
-- Several bridges may work on one store. A bridge of before would not know that it is one of them.

DROP INDEX bridge_alive;
ALTER TABLE bridge
    ADD COLUMN shares boolean NOT NULL DEFAULT false,  -- others may live beside it
    ADD COLUMN over_at timestamptz,             -- when it was found to be over, or ended
    ADD COLUMN is_ready boolean NOT NULL DEFAULT false, -- takes sources: the store is known to be the newest state of itself
    ADD COLUMN serves text NOT NULL DEFAULT '', -- digest of the names of the PBXs that it is configured for
    ADD COLUMN fence text,                      -- the queue that its connection to the broker holds
    ADD COLUMN page text NOT NULL DEFAULT '';   -- where it shows how it is doing
-- One that shares with nobody is alone; whether others live is looked at while the lock on the tables is held.
CREATE UNIQUE INDEX bridge_alone ON bridge ((1)) WHERE NOT is_over AND NOT shares;

ALTER TABLE source
    ADD COLUMN holder uuid,                     -- the life of the bridge that reads and publishes it; NULL: it is free
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0, -- counts holders; whoever has another one writes nothing
    ADD COLUMN former uuid,                     -- a holder that did not let go by itself, and may have messages on their way
    ADD COLUMN freed_at timestamptz,
    ADD COLUMN kept_for uuid,                   -- until then only for that bridge, to which it is handed over
    ADD COLUMN kept_until timestamptz;
CREATE INDEX source_holder ON source (holder);

-- What an operator, or another bridge, wants of the holder of a source, which finds and answers it.
CREATE TABLE wish (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    source_id integer NOT NULL,
    kind text NOT NULL,
    arguments text NOT NULL DEFAULT '{}',       -- JSON
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    answer text,                                -- JSON
    done_at timestamptz
);
CREATE INDEX wish_open ON wish (source_id) WHERE done_at IS NULL;
