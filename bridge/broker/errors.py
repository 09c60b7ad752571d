"""What the client library raises, as errors of ours that say what somebody can do about it."""

import asyncio
import re
import shlex
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aiormq.exceptions as amqp
from pamqp import commands
from pamqp.exceptions import AMQPInternalError, PAMQPException

from bridge.errors import (
    BridgeError,
    BrokerRefusedEvent,
    BrokerRefusedLogin,
    BrokerUnreachable,
    EventForbidden,
    TopologyMismatch,
)
from bridge.security.secret import scrub
from bridge.security.tls import name_distrust


@contextmanager
def translated(url: str | None, what: str = "", command: str = "") -> Iterator[None]:
    """Turn whatever the client library raises into an error of ours, see ``translation``.

    A cancellation that arrives inside is raised in any case. The client library loses some (read in aiormq 7.2): a task
    that waits for the close of a channel ends with ``ChannelClosed`` in place of our cancellation (``TaskWrapper``),
    and ``Base.close`` suppresses that; a channel that is cancelled while it is opened gives ``CHANNEL_ERROR``; and
    ``asyncio.wait_for``, in Python 3.11, returns a result that comes together with a cancellation. Measured: 5 to 30 of
    200 cancelled sessions went on as if nothing had been said.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0

    def is_cancelled() -> bool:
        return task is not None and task.cancelling() > before

    try:
        yield
    except asyncio.CancelledError as problem:
        # The client library cancels whoever waits when heartbeats stay out; that is not our being stopped.
        if is_cancelled():
            raise
        raise BrokerUnreachable(_SILENT) from problem
    except (OSError, amqp.AMQPError, PAMQPException, RuntimeError) as problem:
        if is_cancelled():
            raise asyncio.CancelledError from problem
        raise translation(problem, url, what, command) from problem
    if is_cancelled():
        raise asyncio.CancelledError


def consumer_ended(queue: str) -> str:
    """Return what it means that the broker cancelled the consumer of *queue*."""
    return f"the broker ended the consumer of the queue {queue}: it was deleted, or its node went away"


def connection_broke(closing: "asyncio.Future[Any]") -> str:
    """Return what it means that a channel is closed, as the client library tells by *closing*."""
    # Heartbeats that stay out end in a cancelled future; that is nobody's wish to stop.
    problem = None if closing.cancelled() else closing.exception()
    return f"the connection to the broker broke: {str(problem or '') or type(problem).__name__}"[:300]


def translation(problem: BaseException, url: str | None = None, what: str = "", command: str = "") -> BridgeError:
    """Return the error of ours that says what *problem* says, about *what* at *url*; it holds no password.

    *command* is what an administrator types where *what* is not permitted.
    """
    if isinstance(problem, asyncio.CancelledError):
        return BrokerUnreachable(_SILENT)
    if isinstance(problem.__cause__, ssl.SSLCertVerificationError):  # the client library keeps only its words
        problem = problem.__cause__
    where = f"the broker at {_place(url)}" if url else "the broker"
    text = _text(problem)
    if limit := _limit_in(text):
        kind = TopologyMismatch if isinstance(problem, amqp.ChannelClosed) else BrokerUnreachable
        return kind(f"{where}, {what}: {limit}" if what else f"{where}: {limit}")
    for foreign, part, ours, sentence in _TRANSLATIONS:
        if isinstance(problem, foreign) and part in text:
            words = {"where": where, "what": what, "text": text, "command": command or _SOME_COMMAND}
            return ours(sentence.format(**words, login=_login_command(url)))
    return BrokerUnreachable(f"no connection to {where}: {text}")


_SILENT: Final = "the broker fell silent: nothing came for three heartbeats"
_SOME_COMMAND: Final = (
    "rabbitmqctl set_permissions -p VHOST USER PATTERN PATTERN PATTERN, with patterns that match its name"
)
_NO_STREAMS: Final = (
    "this broker cannot make {what}: {text}. Streams need RabbitMQ 3.9 or newer with all feature flags on "
    "(rabbitmqctl enable_feature_flag all); without one set rabbitmq.log_stream = false"
)
_NO_HOST: Final = (
    "{where} does not let this user into the virtual host, or there is none of that name. Is it right, at the "
    "end of rabbitmq.url?"
)
_WRONG_LOGIN: Final = (
    "{where} refused user and password. Set the right ones in rabbitmq.url, or at the broker: rabbitmqctl "
    "change_password USER PASSWORD"
)

_TRANSLATIONS: Final[Sequence[tuple[type[BaseException], str, type[BridgeError], str]]] = (
    # What the library raises and a part of the broker's words; what that is to us. The first that fits counts.
    (
        amqp.ChannelAccessRefused,
        "access to topic",
        EventForbidden,
        (
            "the broker's user may not publish an event: {text}. Allow it (rabbitmqctl set_topic_permissions), or take "
            "the rule away: rabbitmqctl clear_topic_permissions"
        ),
    ),
    (
        amqp.ChannelAccessRefused,
        "",
        TopologyMismatch,
        "the broker's user may not touch {what}. Allow it: {command}",
    ),
    (
        amqp.ChannelPreconditionFailed,
        "inequivalent arg",
        TopologyMismatch,
        (
            "{what} exists in another form: {text}. Name another one, or set rabbitmq.declare = false if it is meant "
            "to be so"
        ),
    ),
    (
        amqp.ChannelPreconditionFailed,
        "message size",
        BrokerRefusedEvent,
        ("the broker does not take an event as large as this one: {text}. Raise max_message_size in its rabbitmq.conf"),
    ),
    (amqp.ChannelPreconditionFailed, "'x-queue-type'", TopologyMismatch, _NO_STREAMS),
    (amqp.ConnectionInternalError, "feature flag is disabled", TopologyMismatch, _NO_STREAMS),
    (
        amqp.ChannelNotFoundEntity,
        "",
        TopologyMismatch,
        "{what} does not exist. Is its name right? What is configured is made where rabbitmq.declare = true",
    ),
    (amqp.ChannelClosed, "", TopologyMismatch, "the broker refused {what}: {text}"),
    (ssl.SSLCertVerificationError, "", BrokerRefusedLogin, "the certificate of {where} does not verify: {text}"),
    (amqp.AuthenticationError, "", BrokerRefusedLogin, _WRONG_LOGIN),
    (amqp.ProbableAuthenticationError, "", BrokerRefusedLogin, _WRONG_LOGIN),
    (
        amqp.ConnectionNotAllowed,
        "",
        BrokerRefusedLogin,
        "{where} does not let this user into the virtual host: {text}",
    ),
    # What the client library makes of the broker's closing it while the host is opened; the second until aiormq 6.9.
    (
        amqp.AMQPError,
        "access to vhost",
        BrokerRefusedLogin,
        "{where} does not let this user into the virtual host: {text}. Allow it, with your exchange's name: {login}",
    ),
    (amqp.AMQPError, "not found", BrokerRefusedLogin, _NO_HOST),
    (amqp.InvalidFrameError, "Connection.OpenOk", BrokerRefusedLogin, _NO_HOST),
    (AMQPInternalError, "", BrokerRefusedLogin, _NO_HOST),
    (TimeoutError, "", BrokerUnreachable, "{where} did not answer in time"),
)


def _login_command(url: str | None) -> str:
    """Return the line that lets the user of *url* into its virtual host."""
    user = unquote(urlsplit(url).username or "guest") if url else "USER"
    pattern = r"^pbx\.accounts"
    vhost = name_vhost(url) if url else "VHOST"
    return shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, user, pattern, pattern, pattern])


def _limit_in(text: str) -> str:
    """Return what the broker says about a limit that is reached, with the remedy; nothing where it says none.

    Read in RabbitMQ (``rabbit_reader``, ``rabbit_channel``, ``rabbit_amqqueue``).
    """
    told = next((told for pattern, _ in _LIMITS if (told := re.search(pattern, text))), None)
    if told is None:
        return ""
    remedy = next(remedy for pattern, remedy in _LIMITS if pattern == told.re.pattern)
    return f"{text}. {remedy.format(**{name: shlex.quote(value) for name, value in told.groupdict().items()})}"


_CLEAR_HOST: Final = (
    "Raise it with rabbitmqctl set_vhost_limits, or take it away: rabbitmqctl clear_vhost_limits -p {name}"
)
_LIMITS: Final[Sequence[tuple[str, str]]] = (
    (
        r"user '(?P<name>.+)': user connection limit \(\d+\) is reached",
        "Close other connections, or take the limit away: rabbitmqctl clear_user_limits {name} max-connections",
    ),
    (
        r"channels opened for user '(?P<name>.+)' has reached",
        "Close other channels, or take the limit away: rabbitmqctl clear_user_limits {name} max-channels",
    ),
    (r"access to vhost '(?P<name>.+)' refused .*: connection limit \(\d+\) is reached", _CLEAR_HOST),
    (r"queue limit in vhost '(?P<name>.+)' \(\d+\) is reached", _CLEAR_HOST),
    (r"limit (?:in \w+ )?\(\d+\) is reached|maximum allowed \w* ?limit", "Raise it in the broker's rabbitmq.conf"),
)
"""What is said where a limit is reached, the remedy with the name it takes."""


def max_message_size_in(problem: BaseException | None) -> int | None:
    """Return the largest body in bytes that the broker takes, where *problem* is its refusal of one and names it.

    Read in RabbitMQ (``rabbit_channel:check_msg_size``): "message size N is larger than configured max size M", and
    until 3.8 "message size N larger than max size M".
    """
    if not isinstance(problem, amqp.ChannelPreconditionFailed):
        return None
    found = re.search(r"message size \d+ (?:is )?larger than (?:configured )?max size (\d+)", _text(problem))
    return int(found[1]) if found else None


def name_vhost(url: str) -> str:
    """Return the virtual host that *url* names."""
    return unquote(urlsplit(url).path.removeprefix("/")) or "/"


def _place(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    return f"{parts.hostname}:{port} (virtual host {name_vhost(url)})"


def _text(problem: BaseException) -> str:
    """Return the broker's words, which the client library keeps as the last argument of what it raises."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return name_distrust(problem, "rabbitmq.")
    told = _words_of_close(problem) or (str(problem.args[-1]) if problem.args else "")
    return scrub(told.split("\n", 1)[0][:300]) or type(problem).__name__


def _words_of_close(problem: BaseException) -> str:
    """Return why the broker closed a connection while it was opened.

    The client library (aiormq up to 7.2) raises that it expected another frame, and drops the words of this one, which
    say whether there is no such virtual host, no permission, or a limit that is reached. The frame is still where the
    error was raised. May go when the library keeps them.
    """
    if not isinstance(problem, (amqp.InvalidFrameError, AMQPInternalError)):
        return ""
    for frame, _ in walk_tb(problem.__traceback__):
        told = frame.f_locals.get("frame")
        if isinstance(told, commands.Connection.Close):
            return str(told.reply_text)
    return ""
