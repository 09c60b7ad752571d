"""Several bridges with the real decisions, in any order of small steps: nothing is lost, doubled or out of order.

And each comparison that is left out breaks that: otherwise this would show nothing.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.support.shared_world import LEASE, SOURCES, WINDOW, ModelBridge, Rules, Session, World

BRIDGES = 3
WORK = ("ask", "commit", "read", "send")
"""What happens to one source, in the order in which it does when nobody is in the way."""
OWN = ("send_renewal", "have_it_renewed", "hear_of_renewal", "miss_renewal", "watch_deadline", "poll", "give")

which = st.integers(0, BRIDGES - 1)
names = st.sampled_from(SOURCES)


class Machine(RuleBasedStateMachine):
    """Faults and work in turns of several steps: single ones publish nothing, and prove nothing."""

    compared = Rules()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.compared)
        self.bridges = [ModelBridge(self.world) for _ in range(BRIDGES)]
        self.old_sessions: list[Session] = []
        for bridge in self.bridges:
            bridge.poll()

    def awake(self, number: int) -> ModelBridge | None:
        bridge = self.bridges[number]
        return None if bridge.is_frozen else bridge

    @rule(name=names, count=st.integers(1, 3))
    def change(self, name: Any, count: int) -> None:
        self.world.sources[name].changes += count

    @rule(number=which, name=names, first=st.integers(0, 3), count=st.integers(1, 6))
    def work(self, number: int, name: Any, first: int, count: int) -> None:
        """Some of what a bridge does with a source, which may be all it comes to."""
        for step in (WORK * 3)[first : first + count]:
            if bridge := self.awake(number):
                getattr(bridge, step)(name)

    @rule(number=which, name=names, rounds=st.integers(1, 3), is_marked=st.booleans())
    def flow(self, number: int, name: Any, rounds: int, is_marked: bool) -> None:  # noqa: FBT001 - drawn
        """Everything a bridge does with a source in peace, as far as it is awake and may."""
        for _ in range(rounds):
            for step in WORK:
                if bridge := self.awake(number):
                    getattr(bridge, step)(name)
            if bridge := self.awake(number):
                for _ in range(WINDOW):
                    self.world.deliver(bridge.session)
                if is_marked:
                    bridge.take_confirms()

    @rule(number=which, steps=st.lists(st.sampled_from(OWN), min_size=1, max_size=5))
    def own(self, number: int, steps: list[str]) -> None:
        for step in steps:
            if bridge := self.awake(number):
                getattr(bridge, step)()

    @rule(numbers=st.sets(which, min_size=1), seconds=st.floats(0.5, 2 * LEASE))
    def time_passes(self, numbers: set[int], seconds: float) -> None:
        """Time, during which these bridges renew their leases as they should; the others do not come to it."""
        end = self.world.now + seconds
        while self.world.now < end:
            for number in sorted(numbers):
                if bridge := self.awake(number):
                    bridge.send_renewal()
                    bridge.have_it_renewed()
                    bridge.hear_of_renewal()
                    bridge.watch_deadline()
                    bridge.poll()
            self.world.now += min(2.0, end - self.world.now + 0.001)

    @rule(number=which, silent=st.floats(0.5, LEASE), under_way=st.floats(0.5, LEASE))
    def renewal_comes_late(self, number: int, silent: float, under_way: float) -> None:
        """A renewal is sent late, and reaches the database later still."""
        others = {other for other in range(BRIDGES) if other != number}
        if bridge := self.awake(number):
            self.time_passes(others, silent)
            bridge.send_renewal()
            self.time_passes(others, under_way)
            bridge.have_it_renewed()
            bridge.hear_of_renewal()

    @rule(number=which, until=st.floats(0.5, LEASE), behind=st.floats(0.5, LEASE))
    def renewal_is_slow(self, number: int, until: float, behind: float) -> None:
        """The answer to a renewal is late, and the others wait for nobody."""
        others = {other for other in range(BRIDGES) if other != number}
        if bridge := self.awake(number):
            bridge.send_renewal()
            bridge.have_it_renewed()
            self.time_passes(others, until)
            bridge.hear_of_renewal()
            self.time_passes(others, behind)

    @rule(
        number=which,
        name=names,
        done=st.integers(0, 4),
        left=st.integers(1, 4),
        seconds=st.floats(1, 2 * LEASE),
        is_letting_go=st.booleans(),
    )
    def overtaken(  # noqa: PLR0913, PLR0917 - drawn
        self,
        number: int,
        name: Any,
        done: int,
        left: int,
        seconds: float,
        is_letting_go: bool,  # noqa: FBT001 - drawn
    ) -> None:
        """A bridge stands still in the midst of its work, and goes on with it while others may have done it."""
        if not self.awake(number):
            return
        self.change(name, 1)
        self.work(number, name, 0, done)
        self.freeze(number)
        others = {other for other in range(BRIDGES) if other != number}
        self.time_passes(others, seconds)
        for other in others:
            self.flow(other, name, 1, is_marked=False)
        self.awake_again(number)
        if is_letting_go:
            self.let_go(number, name)
        self.work(number, name, done % len(WORK), left)

    @rule(number=which)
    def freeze(self, number: int) -> None:
        self.bridges[number].is_frozen = True

    @rule(number=which)
    def awake_again(self, number: int) -> None:
        self.bridges[number].is_frozen = False

    @rule(number=which)
    def kill(self, number: int) -> None:
        """A crash: another process begins at once; what was on the wire may still come."""
        self.old_sessions.append(self.bridges[number].session)
        self.world.ends += 1
        self.bridges[number] = ModelBridge(self.world)

    @rule(number=which)
    def cut_from_broker(self, number: int) -> None:
        if bridge := self.awake(number):
            self.old_sessions.append(bridge.session)
            bridge.end_session()

    @rule(number=which, name=names)
    def let_go(self, number: int, name: Any) -> None:
        """A clean stop lets a source go as soon as nothing of it is on its way."""
        bridge = self.awake(number)
        if bridge and name in bridge.lanes and bridge.lanes[name].is_quiet:
            bridge.give_back(name)

    @rule(number=which, name=names, seconds=st.floats(LEASE, 2 * LEASE))
    def outlived(self, number: int, name: Any, seconds: float) -> None:
        """What a bridge wrote before it was killed comes when another one has gone on with its sources."""
        if not self.awake(number):
            return
        self.change(name, 2)
        self.work(number, name, 0, len(WORK))
        session = self.bridges[number].session
        self.kill(number)
        others = {other for other in range(BRIDGES) if other != number}
        self.time_passes(others, seconds)
        for other in others:
            self.flow(other, name, 2, is_marked=False)
        for _ in range(WINDOW):
            self.world.deliver(session)

    @rule(number=which, count=st.integers(1, WINDOW))
    def broker_reads(self, number: int, count: int) -> None:
        for _ in range(count):
            self.world.deliver(self.bridges[number].session)

    @rule(count=st.integers(1, WINDOW), data=st.data())
    def late_messages(self, count: int, data: st.DataObject) -> None:
        """What was on the wire of a connection that nobody has any more comes, or the broker notices its end."""
        if not self.old_sessions:
            return
        session = data.draw(st.sampled_from(self.old_sessions))
        for _ in range(count):
            self.world.deliver(session)
        if not session.wire:
            self.ends(session)

    @rule(data=st.data())
    def broker_notices(self, data: st.DataObject) -> None:
        if self.old_sessions:
            self.ends(data.draw(st.sampled_from(self.old_sessions)))

    def ends(self, session: Session) -> None:
        session.wire.clear()
        session.is_open = False
        self.old_sessions.remove(session)

    @invariant()
    def what_is_stored_is_what_the_pbx_told(self) -> None:
        for source in self.world.sources.values():
            assert source.outbox == list(range(1, source.cursor + 1))

    @invariant()
    def nothing_counts_as_confirmed_that_nobody_saw(self) -> None:
        for source in self.world.sources.values():
            assert source.confirmed <= source.seen

    @invariant()
    def repetitions_are_bounded(self) -> None:
        for source in self.world.sources.values():
            assert source.repeats <= WINDOW * self.world.ends

    @invariant()
    def who_is_sure_of_its_lease_has_what_it_believes_to_have(self) -> None:
        for bridge in self.bridges:
            if bridge.tenure.is_good(self.world.now):
                for name, lane in bridge.lanes.items():
                    source = self.world.sources[name]
                    assert (source.holder, source.epoch) == (bridge.life, lane.epoch)

    def teardown(self) -> None:
        """Once nobody disturbs any more, everything is told and confirmed."""
        for bridge in self.bridges:
            bridge.is_frozen = False
        for _ in range(40):
            if all(source.holder and source.confirmed == source.changes for source in self.world.sources.values()):
                break
            for bridge in self.bridges:
                bridge.send_renewal()
                bridge.have_it_renewed()
                bridge.hear_of_renewal()
                bridge.watch_deadline()
                bridge.poll()
                for name in SOURCES:
                    for _ in range(4):
                        for step in WORK:
                            getattr(bridge, step)(name)
                        for _ in range(WINDOW):
                            self.world.deliver(bridge.session)
                        bridge.take_confirms()
            self.world.now += 2.0
        for source in self.world.sources.values():
            assert source.holder is not None
            assert source.confirmed == source.seen == source.changes


def run(rules: Rules, examples: int, *, shrinks: bool = True) -> None:
    machine = type("One", (Machine,), {"compared": rules})
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if shrinks else [])]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_nothing_is_lost_doubled_or_out_of_order() -> None:
    run(Rules(), 200)


def test_either_of_cursor_and_epoch_is_enough_for_what_is_stored() -> None:
    run(Rules(compares_cursor=False), 100)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(compares_holder=False, compares_cursor=False),
        Rules(marks_blindly=True),
        Rules(counts_from_answer=True),
        Rules(is_over_for_good=False),
        Rules(waits_for_fence=False),
        Rules(doubts_former=False),
        Rules(gives_back_own=False),
    ],
    ids=[
        "neither epoch nor cursor is compared",
        "what is sent counts as confirmed",
        "a lease counts from its answer",
        "a renewal comes after the burial",
        "nobody waits for the connection of a dead bridge",
        "what a dead bridge may have sent is not in doubt",
        "who is not the holder lets go",
    ],
)
def test_what_is_left_out_is_missed(rules: Rules) -> None:
    with pytest.raises((AssertionError, ExceptionGroup)):
        run(rules, 300, shrinks=False)
