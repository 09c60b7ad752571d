"""``run --shadow``: the real PBXs, and nothing that anybody else would notice."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bridge.config.settings import Settings
from bridge.events.cloudevents import AccountChanged
from bridge.ops.terminal import TerminalPublisher
from bridge.runtime.bridge import Bridge
from bridge.runtime.wiring import build_bridge

LOOK_SECONDS: Final = 0.1
"""How often it is looked whether all is read, with ``--once``."""


@dataclass(slots=True)
class ShadowSummary:
    """What would have been sent."""

    events: dict[str, int] = field(default_factory=dict)
    """By routing key."""
    size_bytes: int = 0
    unpublished: dict[str, list[str]] = field(default_factory=dict)
    """Fields that the configuration keeps back, by PBX."""
    problems: dict[str, str] = field(default_factory=dict)
    """Of PBXs that are not read at the end."""

    def take(self, event: AccountChanged, body: bytes) -> None:
        """Count *event*."""
        key = f"{event.source}.account.{event.kind}"
        self.events[key] = self.events.get(key, 0) + 1
        self.size_bytes += len(body)

    def sentences(self) -> list[str]:
        """Return the summary for a person."""
        total = sum(self.events.values())
        told = [f"Nothing was published. {total} events would have been, {self.size_bytes / 1000:.1f} KB together."]
        told += [f"  {count:>8}  {key}" for key, count in sorted(self.events.items())]
        told += [f"{name}: kept back by configuration: {', '.join(names)}" for name, names in self.unpublished.items()]
        return told + [f"{name}: NOT READ: {problem}" for name, problem in self.problems.items()]


async def play_shadow(
    settings: Settings, show: Callable[[AccountChanged, bytes], None], stop: asyncio.Event, *, is_once: bool
) -> ShadowSummary:
    """Read the PBXs and show what would be published, until stopped or, with *is_once*, until all is read.

    Raises:
        Fatal: from the bridge.

    """
    summary = ShadowSummary()
    for pbx in settings.pbx:
        publish = settings.resolve_publish(pbx.name)
        if names := [*publish.exclude, *(f"{name} (masked)" for name in publish.mask)]:
            summary.unpublished[pbx.name] = names

    def take(event: AccountChanged, body: bytes) -> None:
        summary.take(event, body)
        show(event, body)

    with build_bridge(settings, shadow=TerminalPublisher(take)) as bridge:
        looking = asyncio.create_task(_until_read(bridge, stop)) if is_once else None
        try:
            await bridge.run(stop)
        finally:
            if looking is not None:
                looking.cancel()
        for name, part in bridge.board.sources.items():
            if part.problem:
                summary.problems[name] = part.problem
    return summary


async def _until_read(bridge: Bridge, stop: asyncio.Event) -> None:
    """Set *stop* once every PBX was read to its end, or cannot be read, and everything is shown."""
    board = bridge.board

    def is_over() -> bool:
        parts = board.sources.values()
        return not board.unsent and all(part.problem or part.doing.startswith("up to date") for part in parts)

    while not is_over():  # noqa: ASYNC110 - the board tells nobody when it changes, and this is a command for a person
        await asyncio.sleep(LOOK_SECONDS)
    stop.set()
