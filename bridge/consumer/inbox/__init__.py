"""Which changes were applied already: one rule, kept in SQLite or PostgreSQL."""
