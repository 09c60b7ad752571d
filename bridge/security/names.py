"""How names that somebody logs in with are compared."""

import string
from typing import Final

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def without_case(domain: str) -> str:
    """Return a System Name as all its spellings are compared: A to Z like a to z, and nothing else is alike."""
    return domain.translate(_LOWER)
