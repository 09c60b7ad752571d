"""What the broker refuses in the stream protocol, by response code, as errors of ours with what to do about them."""

from typing import Final

from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch


def refusal(code: int, where: str, stream: str) -> BridgeError:
    """Return the error of ours for a response *code* of the broker at *where*, about *stream*."""
    ours, words = _REFUSALS.get(code, (BrokerUnreachable, "refused with code {code}"))
    return ours(f"the broker at {where} " + words.format(code=code, stream=stream))


_WRONG: Final = (
    BrokerRefusedLogin,
    (
        "refused user and password. Set the right ones in rabbitmq.stream_url, or at the broker: rabbitmqctl "
        "change_password USER PASSWORD"
    ),
)
_REFUSALS: Final[dict[int, tuple[type[BridgeError], str]]] = {
    2: (TopologyMismatch, "has no stream {stream}. Create it, or set rabbitmq.declare = true"),
    6: (
        BrokerUnreachable,
        (
            "cannot use the stream {stream} at the moment. Where that does not pass, restart the broker once in good "
            "order: a stream that was made just before a crash can stay dead until then (seen with RabbitMQ 3.10)"
        ),
    ),
    8: _WRONG,
    9: _WRONG,
    11: (BrokerRefusedLogin, "lets this user in from its own machine only (loopback_users)"),
    12: (BrokerRefusedLogin, "does not let this user into the virtual host, or there is none of that name"),
    16: (
        TopologyMismatch,
        (
            "does not let this user write or read the stream {stream}. Allow it: rabbitmqctl set_permissions -p VHOST "
            "USER PATTERN PATTERN PATTERN, with patterns that match its name"
        ),
    ),
    17: (
        TopologyMismatch,
        (
            "refused the stream {stream}: it is no stream, its arguments are wrong, or the broker was upgraded and its "
            "feature flags were not (rabbitmqctl enable_feature_flag all)"
        ),
    ),
    18: (BrokerUnreachable, "lost this producer of the stream {stream}"),
    19: (TopologyMismatch, "has no such offset in the stream {stream}"),
}
