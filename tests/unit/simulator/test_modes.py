import pytest

from bridge.simulator.modes import ALL_WORDS, DEFAULT, Idle, Modes, Order, UnknownMode

OPEN_QUESTIONS = """
    idle-guid idle-bare idle-cursor idle-empty idle-repeat idle-silent idle-hold idle-error
    hold-single hold-all hold-queue
    del-none del-flag del-bare del-mt del-newguid del-then-recreate del-lost
    guid-db guid-node guid-boot guid-session guid-request
    stale-newguid stale-rows stale-ignore stale-error stale-silent stale-close
    ord-lex ord-indep ord-const ord-walk
    dup-chain dup-noop dup-late
    err-prop err-mt err-silent err-close
    info-full info-delta info-missing
    push-row walk-usn walk-table walk-snapshot hist-full hist-newguid hist-gap
    slow burst throttle-close coalesce log
"""


@pytest.mark.parametrize("word", OPEN_QUESTIONS.split())
def test_every_behaviour_the_vendor_leaves_open_is_a_mode(word: str) -> None:
    assert word in ALL_WORDS


def test_no_word_stands_for_two_things() -> None:
    assert len(set(ALL_WORDS)) == len(ALL_WORDS)


def test_words_name_modes() -> None:
    modes = Modes.parse(["idle-silent", "ord-indep"])
    assert (modes.idle, modes.order) == (Idle.SILENT, Order.INDEP)


def test_the_later_of_two_words_counts() -> None:
    assert Modes.parse(["idle-silent", "idle-hold"]).idle is Idle.HOLD


@pytest.mark.parametrize("word", ALL_WORDS)
def test_modes_tell_their_words(word: str) -> None:
    modes = Modes.parse([word])
    assert Modes.parse(modes.words()) == modes
    assert modes.words() == ([] if modes == DEFAULT else [word])


def test_a_word_that_is_no_mode_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownMode, match=r"idle-silnet.*idle-silent"):
        Modes.parse(["idle-silnet"])
