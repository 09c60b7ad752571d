"""Logs: events with fields, on stderr, as text for people or JSON lines for machines, and never a secret in them."""

import logging
import sys
from collections import deque
from collections.abc import MutableMapping, Sequence
from typing import Any, Final, Literal

import structlog

from bridge.security.secret import is_telling, scrub
from bridge.security.urls import HIDDEN

Format = Literal["auto", "text", "json"]

RECENT_LINES: Final = 1000
"""Kept in memory; about 300 KB."""

MAX_DEPTH: Final = 50
"""Of what is scrubbed; nothing of ours is nested half as deep, and Python itself would break off at 500."""


def get_logger(name: str) -> Any:
    """Return the logger of a module; events are named ``subject.happened`` and carry fields."""
    return structlog.stdlib.get_logger(name)


def recent() -> Sequence[str]:
    """Return the last lines, as JSON whatever the format on stderr is, the oldest first."""
    return list(_recent.lines)


class _Recent(logging.Handler):
    """Keeps the last lines in memory, for a support bundle."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=RECENT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


_recent: Final = _Recent()


def configure(level: str = "info", log_format: Format = "auto") -> None:
    """Send all logs, those of the libraries too, to stderr."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _scrub_fields,
    ]
    is_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
        if is_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    for each, render in ((handler, renderer), (_recent, structlog.processors.JSONRenderer(ensure_ascii=False))):
        each.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=shared,
                processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _scrub_fields, render],
            )
        )
    root = logging.getLogger()
    root.handlers[:] = [handler, _recent]
    root.setLevel(level.upper())
    # What these tell on their own is told by our events, with more sense.
    for name in ("aiormq", "aio_pika", "websockets", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.getLevelName(level.upper()), logging.CRITICAL))


def _scrub_fields(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: value if name.startswith("_") else _scrubbed(name, value) for name, value in fields.items()}


def scrub_all(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return *value*, which may be nested *depth* levels, with every text in it scrubbed; what is no JSON becomes text.

    What stands under a key like ``password`` is hidden whatever it is.
    """
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict | list | tuple | set | frozenset) and not depth:
        return "…"
    if isinstance(value, dict):
        return {scrub(str(name)): _scrubbed(str(name), inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_all(inner, depth - 1) for inner in value]
    return value if isinstance(value, int | float | bool | None) else scrub(str(value))


def _scrubbed(name: str, value: Any, depth: int = MAX_DEPTH) -> Any:
    return HIDDEN if is_telling(name) and isinstance(value, str) and value else scrub_all(value, depth)
