-- What tells a PBX that dials from another one of the same name, and since when we know it.
ALTER TABLE caller ADD COLUMN first_at TEXT;                        -- NULL: from before this was kept
ALTER TABLE caller ADD COLUMN guid TEXT NOT NULL DEFAULT '';        -- of its App object; empty: not known
ALTER TABLE caller ADD COLUMN addresses TEXT NOT NULL DEFAULT '[]'; -- JSON: from where it dials
ALTER TABLE caller ADD COLUMN odd TEXT;                             -- JSON: what was unlike that, until somebody says yes
