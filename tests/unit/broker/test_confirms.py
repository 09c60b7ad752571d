import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.broker.confirms import ConfirmLedger
from bridge.errors import BridgeError, BrokerDidNotConfirm, EventUnroutable

UNROUTABLE = EventUnroutable("no queue takes it")
FULL = BrokerDidNotConfirm("a queue is full")


def ledger_of(count: int) -> ConfirmLedger:
    ledger = ConfirmLedger()
    ledger.sent([f"id-{tag}" for tag in range(1, count + 1)])
    return ledger


def told(ledger: ConfirmLedger) -> tuple[list[int], list[tuple[int, BridgeError]]]:
    confirmed, refused = ledger.take()
    return list(confirmed), list(refused)


def test_confirms_are_told_as_they_come_and_once() -> None:
    ledger = ledger_of(4)
    ledger.ack(2, multiple=False)
    ledger.ack(4, multiple=False)
    assert told(ledger) == ([2, 4], [])
    ledger.ack(2, multiple=False)
    assert not ledger.has_news
    ledger.ack(1, multiple=False)
    assert told(ledger) == ([1], [])
    assert (ledger.first, ledger.outstanding) == (3, 1)


def test_one_confirm_may_be_for_all_up_to_it() -> None:
    ledger = ledger_of(5)
    ledger.ack(4, multiple=False)
    ledger.ack(5, multiple=True)
    assert told(ledger) == ([4, 1, 2, 3, 5], [])
    assert ledger.outstanding == 0


def test_a_confirm_of_everything_names_no_tag() -> None:
    """AMQP 0-9-1, basic.ack: zero together with multiple is everything so far."""
    ledger = ledger_of(3)
    ledger.ack(0, multiple=True)
    assert told(ledger) == ([1, 2, 3], [])


def test_a_returned_message_is_refused_although_the_broker_confirms_it_and_others_are_not() -> None:
    ledger = ledger_of(5)
    ledger.returned("id-3", UNROUTABLE)
    assert not ledger.has_news, "its confirm says that the broker is done with it"
    ledger.ack(5, multiple=True)
    assert told(ledger) == ([1, 2, 4, 5], [(3, UNROUTABLE)])


def test_a_message_that_is_sent_twice_may_come_back_twice() -> None:
    ledger = ConfirmLedger()
    ledger.sent(["same", "same"])
    ledger.returned("same", UNROUTABLE)
    ledger.returned("same", UNROUTABLE)
    ledger.ack(2, multiple=True)
    assert told(ledger) == ([], [(1, UNROUTABLE), (2, UNROUTABLE)])


def test_a_refusal_of_several_is_of_those_without_an_outcome() -> None:
    ledger = ledger_of(5)
    ledger.ack(1, multiple=False)
    ledger.ack(3, multiple=False)
    ledger.nack(4, FULL, multiple=True)
    assert told(ledger) == ([1, 3], [(2, FULL), (4, FULL)])


def test_what_was_confirmed_cannot_be_refused_any_more() -> None:
    ledger = ledger_of(2)
    ledger.ack(1, multiple=False)
    ledger.nack(1, FULL, multiple=False)
    ledger.returned("id-1", UNROUTABLE)
    assert told(ledger) == ([1], [])
    ledger.ack(2, multiple=False)
    assert told(ledger) == ([2], [])


@pytest.mark.parametrize("tag", [0, 3])
def test_our_counting_and_the_brokers_must_not_differ(tag: int) -> None:
    """No confirm of this channel could be believed any more."""
    ledger = ledger_of(2)
    with pytest.raises(BrokerDidNotConfirm, match=f"message {tag}"):
        ledger.ack(tag, multiple=False)
    with pytest.raises(BrokerDidNotConfirm, match=f"message {tag}"):
        ledger.nack(tag, FULL, multiple=False)
    with pytest.raises(BrokerDidNotConfirm, match="message 3"):
        ledger.ack(3, multiple=True)
    assert not ledger.has_news


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, list[tuple[str, int, bool]]]:
    count = draw(st.integers(1, 12))
    said = st.tuples(st.sampled_from(["ack", "ack", "nack", "return"]), st.integers(1, count), st.booleans())
    return count, draw(st.lists(said, max_size=20))


@given(conversations(), st.integers(1, 5))
def test_whatever_the_broker_says_each_message_gets_the_outcome_said_first_and_once(
    conversation: tuple[int, list[tuple[str, int, bool]]], taken_every: int
) -> None:
    """Against a model that keeps one word per message."""
    count, said = conversation
    ledger, words, is_back = ledger_of(count), dict[int, str](), set[int]()
    confirmed: list[int] = []
    refused: list[int] = []
    for turn, (word, tag, multiple) in enumerate(said):
        if word == "return":
            ledger.returned(f"id-{tag}", UNROUTABLE)
            if tag not in words:
                is_back.add(tag)
        else:
            if word == "ack":
                ledger.ack(tag, multiple=multiple)
            else:
                ledger.nack(tag, FULL, multiple=multiple)
            for one in range(1, tag + 1) if multiple else [tag]:
                words.setdefault(one, "refused" if word == "nack" or one in is_back else "confirmed")
        if turn % taken_every == 0:
            news = ledger.take()
            confirmed += news.confirmed
            refused += [one for one, _ in news.refused]
    news = ledger.take()
    confirmed += news.confirmed
    refused += [one for one, _ in news.refused]
    assert sorted(confirmed) == sorted(one for one, word in words.items() if word == "confirmed")
    assert sorted(refused) == sorted(one for one, word in words.items() if word == "refused")
    assert ledger.outstanding == count - len(words)
    assert ledger.first == next(one for one in range(1, count + 2) if one not in words)
