"""From delivered rows to confirmed events, and why nothing is lost and nothing sent twice on the way.

1. Cursor, mirror and outbox rows commit together, so a crash loses a whole batch or nothing (``ingest``).
2. The cursor moves only from the value we read, so two bridges cannot commit the same batch (``Transaction.move``).
3. Changes are differences against the mirror, so hearing a fact twice changes nothing (``normalize.judge``).
4. A row is done only after the broker confirmed it, so every change is sent at least once (``drain``).
5. An event's id is fixed with its row and an inbox remembers it, so it is applied at most once.

``reconcile`` adds what a full walk proves: what the mirror missed, and what is no longer there.
"""
