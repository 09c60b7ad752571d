"""What is told of the bridges that share their PBXs."""

from bridge.observability.cluster_status import WITHOUT_BRIDGE_SECONDS, ClusterStatus, PeerStatus
from bridge.observability.component_status import Level
from bridge.observability.report import problems, sentences
from tests.support.boards import NOW, board

PEERS = [PeerStatus("one", "a", 2, 90.0, is_ready=True), PeerStatus("two", "b", 1, 80.0, is_ready=True)]


def shared(**named: object) -> ClusterStatus:
    return ClusterStatus("a", is_leased=True, peers=PEERS, configured=3, **named)  # type: ignore[arg-type]  # a test


def test_who_has_how_many_is_told_first() -> None:
    told = board(NOW, "hq")
    told.cluster = shared()
    words = "This bridge has 2 of 3 PBXs. 2 bridges share them (one: 2, two: 1)."
    assert words in sentences(told, NOW)
    assert not list(told.cluster.troubles())


def test_a_pbx_without_a_bridge_is_told_once_no_take_over_explains_it() -> None:
    told = board(NOW, "hq")
    told.cluster = shared(without_bridge={"depot": WITHOUT_BRIDGE_SECONDS})
    assert not [problem for problem in problems(told, NOW) if problem.cause == "not_shared_out"]
    told.cluster = shared(without_bridge={"depot": WITHOUT_BRIDGE_SECONDS + 1})
    (found,) = [problem for problem in problems(told, NOW) if problem.cause == "not_shared_out"]
    assert "No bridge has depot" in found.words
    assert told.level(NOW) is Level.ERROR


def test_a_bridge_that_waits_for_the_broker_at_its_start_blames_no_database() -> None:
    told = board(NOW)
    told.cluster = ClusterStatus(configured=3, is_waiting=True)
    assert "This bridge takes none of its 3 PBXs yet." in sentences(told, NOW)
    (found,) = [problem for problem in problems(told, NOW) if problem.cause == "not_shared_out"]
    assert "waits for the broker" in found.words
    assert "database" not in found.words
    assert not told.is_ready(NOW)


def test_a_bridge_whose_lease_may_be_over_is_not_ready() -> None:
    told = board(NOW)
    told.cluster = shared()
    ready = told.is_ready(NOW)
    told.cluster.is_leased = False
    assert not told.is_ready(NOW)
    assert ready or not told.broker.is_usable
