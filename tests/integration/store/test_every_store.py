"""What every store has to do, done by PostgreSQL: the tests of ``tests/unit/store/tables``."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.engines import PostgresEngine
from tests.unit.store.tables.test_erasure import *  # noqa: F403 - all of them
from tests.unit.store.tables.test_inbound import *  # noqa: F403
from tests.unit.store.tables.test_outbox import *  # noqa: F403
from tests.unit.store.tables.test_outbox import moves, play_all
from tests.unit.store.tables.test_past import *  # noqa: F403
from tests.unit.store.tables.test_recent import *  # noqa: F403
from tests.unit.store.tables.test_store import *  # noqa: F403


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(moves, max_size=30))
def test_each_sink_gets_what_it_does_not_have_in_order_and_both_are_counted_without_a_mistake(
    engine: PostgresEngine, steps: list[tuple[str, int, int]]
) -> None:
    """A quarter of the cases: each of their steps takes several commits, and a database has to be emptied for each."""
    play_all(engine, steps)
