"""Both sinks of the outbox against their models, over any steps."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.engines import Engine
from tests.unit.store.tables.test_outbox import moves, play_all


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(moves, max_size=30))
def test_each_sink_gets_what_it_does_not_have_in_order_and_both_are_counted_without_a_mistake(
    engine: Engine, steps: list[tuple[str, int, int]]
) -> None:
    play_all(engine, steps)
