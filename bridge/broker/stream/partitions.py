"""In which stream of a log of several an event goes: by its account, so that the order of an account is kept.

The rule is that of RabbitMQ's own clients for super streams (murmur3, 32 bits, seed 104729, modulo the number of
partitions), so that any of them can tell where an account is.
"""

from functools import lru_cache
from typing import Final

import mmh3

from bridge.model import OutboxRow, SourceName

_SEED: Final = 104729


def choose_partition(row: OutboxRow, partitions: int) -> int:
    """Return the number of the stream, from 0; what is about no account goes where its source's name says."""
    return 0 if partitions == 1 else _hashed(row.account or row.source, partitions)


def choose_partition_of_source(source: SourceName, partitions: int) -> int:
    """Return the number of the stream, from 0, that has all of *source*, where several bridges write the log."""
    return 0 if partitions == 1 else _hashed(source, partitions)


@lru_cache(maxsize=4096)
def _hashed(key: str, partitions: int) -> int:
    return int(mmh3.hash(key, _SEED, signed=False)) % partitions
