"""The other end: receive account changes, and apply each of them once."""
