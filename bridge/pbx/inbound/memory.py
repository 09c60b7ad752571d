"""Keeps what strangers take of memory small, and gives back what they leave behind."""

import ctypes
import gc
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Final

READ_BYTES: Final = 1 << 15
"""Of TLS read in one go: two records of the largest size."""


def keep_buffers_small() -> None:
    """Have each connection by TLS read into less than asyncio's 256 KiB, which it fills with zeros at the very start.

    A hundred strangers are 25 MB otherwise, and a thousand PBXs that dial 250. It is a setting of the whole process:
    there is none of a server.
    """
    SSLProtocol.max_size = READ_BYTES


def spare_what_stays() -> None:
    """Have the collector of cycles pass over everything that is there by now: what ``give_back`` then costs is small.

    To go through all modules takes it a tenth of a second, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what nobody can reach any more, and hand free memory to the system where its C library can do that.

    A failed TLS handshake keeps itself alive until the garbage collector comes, and that one counts objects, not bytes.
    """
    gc.collect()
    _trim(0)


def _trimmer() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc has it, others do without
    except (OSError, AttributeError):
        return lambda _kept: None


_trim: Final = _trimmer()
