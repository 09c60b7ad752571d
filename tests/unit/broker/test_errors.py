import asyncio
import ssl

import aiormq.exceptions as amqp
import pytest

from bridge.broker.errors import max_message_size_in, name_vhost, translated, translation
from bridge.errors import BridgeError, BrokerRefusedEvent, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch

URL = "amqps://bridge:s3cret@rabbit.example.com/accounts%2Fhq"


@pytest.mark.parametrize(
    ("foreign", "ours", "sentence"),
    [
        (amqp.ChannelAccessRefused("ACCESS_REFUSED"), TopologyMismatch, "may not touch the queue q. Allow it: type it"),
        (amqp.ChannelPreconditionFailed("inequivalent arg 'durable'"), TopologyMismatch, "exists in another form"),
        (amqp.ChannelPreconditionFailed("message size 5 is larger"), BrokerRefusedEvent, "Raise max_message_size"),
        (amqp.ChannelPreconditionFailed("invalid arg 'x-queue-type'"), TopologyMismatch, "Streams need RabbitMQ 3.9"),
        (amqp.ChannelPreconditionFailed("something else"), TopologyMismatch, "refused the queue q: something else"),
        (amqp.ChannelNotFoundEntity("NOT_FOUND"), TopologyMismatch, "the queue q does not exist"),
        (amqp.ProbableAuthenticationError("ACCESS_REFUSED"), BrokerRefusedLogin, "refused user and password"),
        (TimeoutError(), BrokerUnreachable, "rabbit.example.com:5671 (virtual host accounts/hq) did not answer"),
        (ConnectionRefusedError(111, "Connection refused"), BrokerUnreachable, "no connection to the broker at"),
        (asyncio.CancelledError(), BrokerUnreachable, "fell silent"),
    ],
)
def test_each_failure_is_the_error_that_says_what_to_do(
    foreign: BaseException, ours: type[BridgeError], sentence: str
) -> None:
    told = translation(foreign, URL, "the queue q", "type it")
    assert type(told) is ours
    assert sentence in str(told)
    assert "s3cret" not in str(told)


def test_a_certificate_that_does_not_verify_is_told_although_the_library_hides_it() -> None:
    hidden = amqp.AMQPConnectionError("ssl")
    hidden.__cause__ = ssl.SSLCertVerificationError(1, "no")
    hidden.__cause__.verify_message = "self-signed certificate"
    told = translation(hidden, URL)
    assert isinstance(told, BrokerRefusedLogin)
    assert "does not verify: self-signed certificate" in str(told)


async def test_our_being_stopped_is_no_failure_of_the_broker() -> None:
    """The client library cancels those who wait, too, when the broker falls silent; that is one."""

    async def wait(begun: asyncio.Event) -> None:
        with translated(URL):
            begun.set()
            await asyncio.Event().wait()

    begun = asyncio.Event()
    stopped = asyncio.create_task(wait(begun))
    await begun.wait()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    with pytest.raises(BrokerUnreachable, match="fell silent"), translated(URL):
        raise asyncio.CancelledError


@pytest.mark.parametrize(("url", "vhost"), [("amqp://x", "/"), ("amqp://x/", "/"), (URL, "accounts/hq")])
def test_a_url_without_a_virtual_host_means_the_usual_one(url: str, vhost: str) -> None:
    assert name_vhost(url) == vhost


@pytest.mark.parametrize(
    ("problem", "size"),
    [
        (
            amqp.ChannelPreconditionFailed(
                "PRECONDITION_FAILED - message size 20 is larger than configured max size 16"
            ),
            16,
        ),
        (amqp.ChannelPreconditionFailed("PRECONDITION_FAILED - message size 20 larger than max size 16"), 16),
        (amqp.ChannelPreconditionFailed("PRECONDITION_FAILED - message size in other words"), None),
        (amqp.ChannelNotFoundEntity("message size 20 larger than max size 16"), None),
        (None, None),
    ],
)
def test_the_largest_message_is_learned_from_the_refusal_of_a_larger_one(
    problem: BaseException | None, size: int | None
) -> None:
    assert max_message_size_in(problem) == size


async def test_a_cancellation_is_raised_whatever_the_client_library_makes_of_it() -> None:
    """It loses some: swallows them, or raises something else instead."""

    async def waits(instead: BaseException | None) -> None:
        with translated(URL):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if instead is not None:
                    raise instead from None
        await asyncio.sleep(3600)

    for instead in (None, amqp.ChannelClosed(200, "closed"), ConnectionResetError(), asyncio.CancelledError()):
        waiting = asyncio.create_task(waits(instead))
        await asyncio.sleep(0)
        waiting.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait([waiting])
        assert waiting.cancelled(), instead


async def test_what_was_cancelled_before_may_still_be_tidied_up() -> None:
    """Only a cancellation that arrives inside counts: a task that is being cancelled says good-bye to the broker."""
    said = list[str]()

    async def tidies_up() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with translated(URL):
                await asyncio.sleep(0)
            said.append("good-bye")

    tidying = asyncio.create_task(tidies_up())
    await asyncio.sleep(0)
    tidying.cancel()
    await asyncio.wait([tidying])
    assert tidying.cancelled()
    assert said == ["good-bye"]
