-- A file that has been released is never edited: the next change of the tables is the next file.

-- What belongs to the store as a whole, by name.
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- One line per PBX: where reading goes on. Cursor parts are JSON texts as the PBX wrote them; NULL: it sent none.
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    guid TEXT, usn TEXT, ausn TEXT,
    sequence INTEGER NOT NULL DEFAULT 0,        -- of the last event made
    rewinds INTEGER NOT NULL DEFAULT 0,         -- how often the PBX used numbers again for other content
    walk INTEGER NOT NULL DEFAULT 0,            -- number of the full walk under way, or of the last one
    verified_at TEXT,                           -- end of the last proven full walk
    certificate BLOB                            -- JSON: what it found
);

-- The mirror: what was last published of each account. Deleted accounts stay, so that their revisions go on.
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    source_id INTEGER NOT NULL REFERENCES source (id),
    key TEXT NOT NULL,                          -- the account's guid without dashes, in lower case
    account_guid TEXT NOT NULL,
    guid TEXT, usn TEXT, ausn TEXT,
    digest BLOB NOT NULL,                       -- keyed: of all the PBX said, secrets included
    content BLOB NOT NULL,                      -- JSON: the published fields, nothing else
    revision INTEGER NOT NULL,
    is_deleted INTEGER NOT NULL,
    reuse INTEGER NOT NULL,
    last_walk INTEGER NOT NULL,                 -- the last walk that saw it
    missed INTEGER NOT NULL DEFAULT 0,          -- proven walks since then
    UNIQUE (source_id, key)
);

-- Events in the order they were committed. A row is done when the broker confirmed it; done rows stay for a while.
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER NOT NULL REFERENCES source (id),
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL UNIQUE,
    event_type TEXT NOT NULL,
    account TEXT,                               -- key of the account it tells of; NULL: of the source as a whole
    routing_key TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at TEXT NOT NULL,
    is_in_doubt INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,        -- how often it was sent and not confirmed
    published_at TEXT,                          -- when it was confirmed, or discarded
    is_held INTEGER NOT NULL DEFAULT 0,         -- parked, or waiting behind what is
    parked_at TEXT, parked_reason TEXT,         -- the broker refused it for good
    discarded_reason TEXT,                      -- an operator decided that it is never sent
    forgotten_at TEXT                           -- its personal data was taken out of the body
);

-- Keeps the search for unsent rows independent of how many sent ones are still there.
CREATE INDEX outbox_unpublished ON outbox (position) WHERE published_at IS NULL AND is_held = 0;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;
CREATE INDEX outbox_held ON outbox (source_id, account) WHERE is_held = 1;
CREATE INDEX outbox_parked ON outbox (source_id, account) WHERE parked_at IS NOT NULL;

-- What is still to be written to the log by the stream protocol, in the order of writing; empty where the exchange feeds
-- the log. A number is the publishing id: it is given once, and what was held gets a new one when it is let go.
CREATE TABLE log_queue (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL UNIQUE REFERENCES outbox (position) ON DELETE CASCADE,
    is_held INTEGER NOT NULL DEFAULT 0,         -- parked, or waiting behind what is
    parked_at TEXT, parked_reason TEXT          -- the log's broker refused it for good
);
CREATE INDEX log_queue_held ON log_queue (number) WHERE is_held = 1;
CREATE INDEX log_queue_parked ON log_queue (position) WHERE parked_at IS NOT NULL;
