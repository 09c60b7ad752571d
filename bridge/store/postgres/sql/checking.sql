-- What ``check`` asks.

-- facts: how the server is set up, as far as this user may see it
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS version_name,
    current_setting('fsync') AS fsync, current_setting('autovacuum') AS autovacuum,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standby_names,
    has_schema_privilege(current_schema(), 'CREATE') AS may_create,
    (SELECT count(*) FROM pg_stat_replication) AS standbys,
    (SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
        WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()) AS oldest_seconds,
    (SELECT coalesce(max(age(backend_xmin)), 0) FROM pg_stat_activity
        WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()) AS oldest_transactions,
    (SELECT pid FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
        ORDER BY xact_start, age(backend_xmin) DESC LIMIT 1) AS oldest_pid;
