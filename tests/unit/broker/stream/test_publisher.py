import pytest
from rstream import schema

from bridge.broker.stream.publisher import name_producer, publish_frames
from bridge.broker.topology import Topology


def messages(*sizes: int) -> list[schema.Message]:
    return [schema.Message(number, None, b"x" * size) for number, size in enumerate(sizes, 1)]


def test_a_batch_goes_out_in_one_frame_where_it_fits() -> None:
    assert len(publish_frames(0, messages(*[100] * 50), 1 << 20)) == 1


def test_no_frame_is_larger_than_the_broker_takes() -> None:
    frames = publish_frames(0, messages(*[900] * 50), 4096)
    assert len(frames) > 10
    assert max(map(len, frames)) <= 4096


def test_nothing_is_nothing() -> None:
    assert publish_frames(0, [], 4096) == []


def test_another_lineage_is_another_producer() -> None:
    assert name_producer("aaaaaaaa") != name_producer("bbbbbbbb")


@pytest.mark.parametrize(
    ("partitions", "streams"),
    [(0, ["pbx.accounts.log"]), (1, ["pbx.accounts.log"]), (2, ["pbx.accounts.log-0", "pbx.accounts.log-1"])],
)
def test_the_streams_of_a_log(partitions: int, streams: list[str]) -> None:
    assert list(Topology(log_partitions=partitions).log_streams) == streams


def test_a_small_log_is_kept_in_small_pieces() -> None:
    assert Topology(log_max_bytes=1_000_000).log_arguments["x-stream-max-segment-size-bytes"] == 100_000
    assert "x-stream-max-segment-size-bytes" not in Topology().log_arguments
