"""From delivered rows to confirmed events, and why nothing is lost and nothing sent twice on the way.

1. Cursor, mirror and outbox rows commit together, so a crash loses a whole batch or nothing (``ingest``).
2. The cursor moves only from the value we read, so two bridges cannot commit the same batch (``Transaction.move`` in
   ``store.contract``).
3. Changes are differences against the mirror and nothing else, so hearing a fact twice changes nothing
   (``events.diff``).
4. A row counts as done only behind the sink's confirm, so every change is sent at least once (``relay``).
5. An event's id is the name of its place (lineage, source, sequence): it cannot be given twice, and an inbox that keeps
   (lineage, revision) of an account applies it at most once and never goes back.

``reconcile`` adds what a full walk proves: what the mirror missed, and what is no longer there.
"""
