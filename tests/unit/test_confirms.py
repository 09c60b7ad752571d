from hypothesis import given
from hypothesis import strategies as st

from bridge.confirms import Ledger
from bridge.errors import BrokerDidNotConfirm

UNROUTABLE = BrokerDidNotConfirm("no queue takes it")


def ledger_of(count: int) -> Ledger:
    ledger = Ledger()
    ledger.sent([f"id-{tag}" for tag in range(1, count + 1)])
    return ledger


def test_progress_is_the_unbroken_prefix() -> None:
    ledger = ledger_of(4)
    assert not ledger.ack(2, multiple=False)
    assert not ledger.ack(4, multiple=False)
    assert ledger.confirmed == 0
    assert ledger.ack(1, multiple=False)
    assert (ledger.confirmed, ledger.outstanding) == (2, 2)
    assert ledger.ack(3, multiple=False)
    assert (ledger.confirmed, ledger.outstanding) == (4, 0)


def test_one_confirm_may_be_for_all_up_to_it() -> None:
    ledger = ledger_of(5)
    ledger.ack(5, multiple=False)
    assert ledger.ack(4, multiple=True)
    assert ledger.confirmed == 5


def test_a_returned_message_is_not_done_although_the_broker_confirms_it() -> None:
    ledger = ledger_of(5)
    ledger.returned("id-3", UNROUTABLE)
    ledger.ack(5, multiple=True)
    assert (ledger.confirmed, ledger.is_over, ledger.refusal) == (2, True, UNROUTABLE)


def test_a_refused_message_leaves_time_for_the_confirms_of_those_before_it() -> None:
    ledger = ledger_of(5)
    ledger.nack(3, multiple=False)
    assert not ledger.is_over


def test_a_refusal_of_several_is_of_the_first_that_was_not_confirmed() -> None:
    ledger = ledger_of(5)
    ledger.ack(1, multiple=False)
    ledger.ack(2, multiple=False)
    ledger.nack(4, multiple=True)
    assert ledger.confirmed == 2
    assert ledger.is_over


def test_the_first_refused_message_is_the_one_told_of() -> None:
    ledger = ledger_of(5)
    ledger.nack(4, multiple=False)
    ledger.returned("id-2", UNROUTABLE)
    ledger.nack(3, multiple=False)
    assert ledger.refusal is UNROUTABLE


def test_what_was_confirmed_cannot_be_refused_any_more() -> None:
    ledger = ledger_of(2)
    ledger.ack(1, multiple=False)
    ledger.nack(1, multiple=False)
    ledger.returned("id-1", UNROUTABLE)
    assert ledger.refusal is None


def test_a_confirm_of_what_was_never_sent_counts_for_nothing() -> None:
    """Our counting and the broker's differ: no confirm of this channel can be believed any more."""
    ledger = ledger_of(2)
    assert not ledger.ack(3, multiple=True)
    assert ledger.confirmed == 0
    assert ledger.is_over


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, list[tuple[str, int, bool]]]:
    count = draw(st.integers(1, 12))
    said = st.tuples(st.sampled_from(["ack", "ack", "ack", "nack", "return"]), st.integers(1, count), st.booleans())
    return count, draw(st.lists(said, max_size=20))


@given(conversations())
def test_whatever_the_broker_says_only_an_accepted_prefix_counts(told: tuple[int, list[tuple[str, int, bool]]]) -> None:
    """Against a model that keeps one word per message: the first one said about it."""
    count, said = told
    ledger, words = ledger_of(count), dict.fromkeys(range(1, count + 1), "")
    for word, tag, multiple in said:
        if word == "return":
            ledger.returned(f"id-{tag}", UNROUTABLE)
        elif word == "ack":
            ledger.ack(tag, multiple=multiple)
        elif words[tag] == "":  # the broker does not refuse what it confirmed
            ledger.nack(tag, multiple=multiple)
        else:
            continue
        # A return is only believed while it can be: before the prefix passed it. Its own confirm comes later.
        about = range(1, tag + 1) if multiple and word != "return" else [tag]
        for one in about:
            if words[one] == "" or (word == "return" and one > ledger.confirmed):
                words[one] = word
    accepted = 0
    while words.get(accepted + 1) == "ack":
        accepted += 1
    assert ledger.confirmed == accepted
    assert ledger.outstanding == count - accepted
    assert ledger.is_over == (words.get(accepted + 1) in ("nack", "return"))
