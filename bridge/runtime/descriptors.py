"""File descriptors: how many the process may have, and that there are enough for all who share them."""

import resource


def afford(wanted: int) -> int:
    """Have the system allow *wanted* of them, or as many as it will, and return how many it allows."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= wanted:
        return wanted
    possible = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, most))
    return possible
