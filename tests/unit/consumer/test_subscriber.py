"""What the subscriber makes of a handler that fails, without a broker."""

import sqlite3
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.consumer.subscriber import Subscriber


def away() -> Exception:
    problem = sqlite3.OperationalError("database is locked")
    problem.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return problem


@pytest.mark.parametrize("waits", [0, 4, 10])
@pytest.mark.parametrize(("failures", "became"), [(4, "ack"), (5, "reject")])
async def test_a_database_that_is_away_is_no_attempt_however_long(waits: int, failures: int, became: str) -> None:
    left: list[Exception] = [*(away() for _ in range(waits)), *(ValueError() for _ in range(failures))]
    done: list[str] = []

    async def handle() -> None:
        if left:
            raise left.pop(0)

    async def at_once(_seconds: float) -> None: ...

    async def ack() -> None:
        done.append("ack")

    async def reject() -> None:
        done.append("reject")

    subscriber = Subscriber("amqp://nowhere", queue="q", attempts=5)
    subscriber._link = cast("Any", SimpleNamespace(is_over=False, pause=at_once))  # noqa: SLF001 - no broker is needed
    event = SimpleNamespace(event_id="x", source="hq")
    await subscriber._handle(cast("Any", SimpleNamespace(event=event, ack=ack, reject=reject)), handle)  # noqa: SLF001
    assert done == [became]
