"""What a store does with its tables, whichever database keeps them: statements by name, and what follows from rows.

Both engines have the same tables and the same names of statements, each in its own SQL. An engine adds how a statement
is run, how changes become durable together, and who may write.
"""
