-- Who the PBXs are that dial us: their source's name is made of this, and they are shown before they dial again.
CREATE TABLE caller (
    source_id INTEGER PRIMARY KEY REFERENCES source (id),
    domain TEXT NOT NULL,                       -- System Name
    pbx TEXT NOT NULL,                          -- PBX name
    seen_at TEXT NOT NULL,                      -- when it logged in last
    UNIQUE (domain, pbx)
);
