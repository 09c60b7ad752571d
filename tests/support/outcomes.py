"""What a session with a broker told of the rows that were sent."""

import asyncio

from bridge.delivery.sink import Session
from bridge.errors import BridgeError

SECONDS = 30


async def all_outcomes(session: Session, count: int) -> tuple[list[int], list[tuple[int, BridgeError]]]:
    """Return what comes until *count* rows have their outcome."""
    confirmed: list[int] = []
    refused: list[tuple[int, BridgeError]] = []
    async with asyncio.timeout(SECONDS):
        while len(confirmed) + len(refused) < count:
            news = await session.outcomes()
            confirmed += news.confirmed
            refused += news.refused
    return confirmed, refused


async def all_confirmed(session: Session, count: int) -> None:
    """Wait until *count* rows more are confirmed."""
    _, refused = await all_outcomes(session, count)
    assert not refused, refused
