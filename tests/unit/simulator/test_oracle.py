from bridge.simulator.oracle import Meter, Mutation, Oracle


def test_a_meter_counts_by_the_second_of_the_clock_it_is_told() -> None:
    meter = Meter()
    assert [meter.count(now) for now in (1.0, 1.5, 1.99, 2.0, 2.1, 7.0)] == [1, 2, 3, 1, 2, 1]


def test_an_oracle_keeps_everything_unless_it_is_bounded() -> None:
    for remember, kept in ((None, 10), (3, 3)):
        oracle = Oracle(remember)
        for number in range(10):
            oracle.mutations.append(Mutation("touch", str(number), None))
        assert len(oracle.mutations) == kept
        assert oracle.mutations[-1].account_guid == "9"
