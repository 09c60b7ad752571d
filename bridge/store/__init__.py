"""Where cursor, mirror and outbox survive."""
