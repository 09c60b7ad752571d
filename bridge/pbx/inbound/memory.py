"""Gives memory back that strangers left behind."""

import ctypes
import gc
from collections.abc import Callable
from typing import Final


def give_back() -> None:
    """Free what nobody can reach any more, and hand free memory to the system where its C library can do that.

    A failed TLS handshake keeps itself alive until the garbage collector comes, with the 256 KiB that asyncio reads
    into; and that one counts objects, not bytes.
    """
    gc.collect()
    _trim(0)


def _trimmer() -> Callable[[int], object]:
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc has it, others do without
    except (OSError, AttributeError):
        return lambda _kept: None


_trim: Final = _trimmer()
