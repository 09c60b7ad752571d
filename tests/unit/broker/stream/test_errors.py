import pytest

from bridge.broker.stream.errors import refusal
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch


@pytest.mark.parametrize(
    ("code", "ours", "sentence"),
    [
        (2, TopologyMismatch, "has no stream log. Create it"),
        (6, BrokerUnreachable, "cannot use the stream log at the moment"),
        (8, BrokerRefusedLogin, "refused user and password"),
        (12, BrokerRefusedLogin, "into the virtual host"),
        (16, TopologyMismatch, "write or read the stream log. Allow it"),
        (99, BrokerUnreachable, "refused with code 99"),
    ],
)
def test_each_refusal_says_what_to_do(code: int, ours: type[BridgeError], sentence: str) -> None:
    problem = refusal(code, "rabbit:5552 (streams)", "log")
    assert isinstance(problem, ours)
    assert str(problem).startswith("the broker at rabbit:5552 (streams) ")
    assert sentence in str(problem)
