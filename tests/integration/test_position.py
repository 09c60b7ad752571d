"""What a kept place lets through, and what not: the same in SQLite and PostgreSQL."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.consumer.log.position import LogOffset
from bridge.consumer.log.position_postgres import AsyncPostgresPosition
from bridge.consumer.log.reader import LogEntry
from bridge.errors import PlaceMovedBack
from tests.support.events import event
from tests.support.followers import DEADLINE_SECONDS, POSTGRES, Crm, PostgresCrm, SqliteCrm, postgres_crm

STREAM = "pbx.accounts.log"


@pytest.fixture(params=["sqlite", "postgres"])
def crm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crm]:
    if request.param == "sqlite":
        yield SqliteCrm(tmp_path / "crm.db")
        return
    with postgres_crm() as made:
        yield made


class Replica:
    """One process' view: a connection of its own, and a position on it."""

    def __init__(self, crm: Crm, connection: Any) -> None:
        self.crm = crm
        self.connection = connection
        self.position = crm.position(connection, STREAM)
        self.position.create_tables()
        connection.commit()

    def start(self) -> object:
        started = self.position.start()
        self.connection.commit()
        return started

    def takes(self, offset: int) -> bool:
        with self.crm.transaction(self.connection):
            return self.position.accept(entry(offset))

    def fails_at(self, offset: int) -> None:
        """Ask in a transaction that is rolled back, and say nothing about it."""
        with suppress(ZeroDivisionError), self.crm.transaction(self.connection):
            assert self.position.accept(entry(offset))
            raise ZeroDivisionError


@pytest.fixture
def replicas(crm: Crm) -> Iterator[tuple[Replica, Replica]]:
    with closing(crm.connect()) as one, closing(crm.connect()) as another:
        yield Replica(crm, one), Replica(crm, another)


def entry(offset: int) -> LogEntry:
    return LogEntry(offset, event(revision=offset + 1), b"")


def test_of_two_that_read_at_once_each_entry_is_taken_by_one(replicas: tuple[Replica, Replica]) -> None:
    """Whoever was asleep goes through all that the other one has, and then they may even alternate."""
    asleep, awake = replicas
    assert asleep.start() == awake.start() == "first"
    assert [asleep.takes(0), asleep.takes(1)] == [True, True]
    assert [awake.takes(offset) for offset in range(6)] == [False, False, True, True, True, True]
    assert [asleep.takes(offset) for offset in range(2, 7)] == [False, False, False, False, True]
    assert [awake.takes(6), awake.takes(7)] == [False, True]


def test_an_entry_may_be_tried_again_after_its_transaction_was_rolled_back(replicas: tuple[Replica, Replica]) -> None:
    one, _ = replicas
    one.start()
    for offset in range(3):
        one.fails_at(offset)
        one.fails_at(offset)
        assert one.takes(offset)


def test_an_entry_whose_transaction_was_rolled_back_is_not_passed_over(replicas: tuple[Replica, Replica]) -> None:
    one, another = replicas
    one.start()
    one.fails_at(0)
    with pytest.raises(PlaceMovedBack, match="is gone, but this reader dealt with the entry at 0"):
        one.takes(1)
    assert one.start() == "first"
    assert [one.takes(0), one.takes(1)] == [True, True]
    one.fails_at(2)
    assert not another.takes(1)
    with pytest.raises(PlaceMovedBack, match=r"of reader in pbx\.accounts\.log is 1, but .* at 2.*start\(\)"):
        one.takes(3)
    assert another.takes(2)  # meanwhile
    assert one.takes(3)


def test_a_database_put_back_from_a_backup_under_a_reader_that_runs_is_noticed(
    replicas: tuple[Replica, Replica],
) -> None:
    one, _ = replicas
    one.start()
    assert all(one.takes(offset) for offset in range(5))
    one.connection.execute("UPDATE pbx_log_position SET place = 2")
    one.connection.commit()
    with pytest.raises(PlaceMovedBack):
        one.takes(5)
    assert one.start() == LogOffset(2, entry(4).event.event_id)
    assert one.takes(3)


def test_a_place_may_leave_out_offsets_that_are_no_entries(replicas: tuple[Replica, Replica]) -> None:
    """The broker's own notes take offsets as well."""
    one, another = replicas
    assert [one.takes(3), one.takes(9)] == [True, True]
    assert another.start() == LogOffset(9, entry(9).event.event_id)
    assert another.takes(30)
    assert not one.takes(30)


@pytest.fixture
def postgres() -> Iterator[PostgresCrm]:
    with postgres_crm() as made:
        yield made


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_replica_waits_for_the_transaction_of_another_one_at_the_same_entry(
    postgres: PostgresCrm,
    is_committed: bool,  # noqa: FBT001 - of the table
) -> None:
    """Of what is not committed yet nobody knows whether it counts: the other one may be about to be killed."""
    with postgres.connect() as one, postgres.connect() as another, psycopg.connect(POSTGRES, autocommit=True) as look:
        active, follower = Replica(postgres, one), Replica(postgres, another)
        active.takes(0)
        follower.start()
        taken: list[bool] = []
        waiting = threading.Thread(target=lambda: taken.append(follower.takes(1)), daemon=True)
        assert active.position.accept(entry(1))
        waiting.start()
        blocked = "SELECT pg_blocking_pids(%s)"
        while not look.execute(blocked, [another.info.backend_pid]).fetchone()[0]:  # type: ignore[index]
            waiting.join(0.01)
            assert waiting.is_alive()
        if is_committed:
            one.commit()
        else:
            look.execute("SELECT pg_terminate_backend(%s)", [one.info.backend_pid])
        waiting.join(DEADLINE_SECONDS)
        assert taken == [not is_committed]
        if not is_committed:
            with pytest.raises(psycopg.OperationalError):
                one.commit()
            one.close()


async def test_an_awaited_place_is_not_passed_over_either(postgres: PostgresCrm) -> None:
    async with await psycopg.AsyncConnection.connect(
        POSTGRES, options=f"-c search_path={postgres.schema}"
    ) as connection:
        position = AsyncPostgresPosition(connection)
        await position.create_tables()
        assert await position.start() == "first"
        await connection.commit()
        assert await position.accept(entry(0))
        await connection.rollback()
        with pytest.raises(PlaceMovedBack):
            await position.accept(entry(1))
        assert await position.accept(entry(0))
        await connection.commit()
        assert not await position.accept(entry(0))
