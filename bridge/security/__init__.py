"""Secrets that are not shown, URLs that hide theirs, TLS, and which proxies are believed."""
