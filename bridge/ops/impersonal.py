"""What a bridge says of itself, without what others said that is quoted in it, so that it may be sent away."""

import re
from typing import Any, Final

from bridge.events.wording import without_quotes

_TRACEBACKS: Final = frozenset({"exception", "stack"})
_KIND: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)(?::.*)?")
_LINES: Final = ("Traceback (", "The above exception", "During handling")


def impersonal(value: Any) -> Any:
    """Return *value*, which is JSON, without quotes; of a traceback, without what the exceptions say."""
    if isinstance(value, str):
        return without_quotes(value)
    if isinstance(value, dict):
        return {
            name: _traceback(inner) if name in _TRACEBACKS and isinstance(inner, str) else impersonal(inner)
            for name, inner in value.items()
        }
    return [impersonal(inner) for inner in value] if isinstance(value, list) else value


def _traceback(text: str) -> str:
    """Return where it happened and of which kind the exceptions were; a message may quote anything."""
    kept = []
    for line in text.splitlines():
        if line.startswith(("  ", "\t", *_LINES)) or not line.strip():
            kept.append(line)
        elif found := _KIND.fullmatch(line):
            kept.append(found[1])
    return "\n".join(kept)
