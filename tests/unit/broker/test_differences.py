import pytest

from bridge.broker.differences import Difference, difference_in, sentence_of

WHERE = "PRECONDITION_FAILED - inequivalent arg '{}' for queue 'a's queue' in vhost '/': {}"


@pytest.mark.parametrize(
    ("argument", "words", "wanted", "found"),
    [
        ("x-delivery-limit", "received '50' but current is '100'", 50, 100),
        ("x-delivery-limit", "received none but current is the value '100' of type 'byte'", None, 100),
        ("x-single-active-consumer", "received the value 'true' of type 'bool' but current is none", True, None),
        ("x-queue-type", "received 'classic' but current is 'quorum'", "classic", "quorum"),
        ("durable", "received 'false' but current is 'true'", False, True),
        ("x-max-age", "received '60D' but current is '30D'", "60D", "30D"),
    ],
)
def test_what_differs_is_read_from_the_words_of_the_broker(
    argument: str, words: str, wanted: object, found: object
) -> None:
    """As RabbitMQ 3.10 said them here."""
    assert difference_in(WHERE.format(argument, words)) == Difference(argument, wanted, found)


@pytest.mark.parametrize(
    "text", ["", "PRECONDITION_FAILED - queue limit in vhost '/' (1) is reached", "inequivalent arg"]
)
def test_other_words_are_no_difference(text: str) -> None:
    assert difference_in(text) is None


@pytest.mark.parametrize(
    ("argument", "wanted", "found", "holds"),
    [
        ("x-delivery-limit", 50, 100, True),
        ("x-delivery-limit", 100, 50, False),
        ("x-delivery-limit", 50, None, True),
        ("x-delivery-limit", None, 50, False),
        ("x-max-age", "7D", "30D", True),
        ("x-max-age", "12h", "1D", True),
        ("x-max-age", "60D", "30D", False),
        ("x-max-age", "1Y", "30D", False),
        ("x-dead-letter-exchange", "dead", None, True),
        ("x-dead-letter-exchange", "dead", "other", False),
        ("x-queue-type", "quorum", "classic", False),
    ],
)
def test_a_policy_is_given_only_where_it_makes_a_difference(
    argument: str, wanted: object, found: object, holds: object
) -> None:
    """It adds what the queue does not say, and of two limits the smaller one counts."""
    assert Difference(argument, wanted, found).is_for_policy is holds


def test_one_line_makes_of_a_queue_what_is_wanted_and_the_rest_is_said() -> None:
    found = [
        Difference("x-delivery-limit", 50, None),
        Difference("x-dead-letter-exchange", "pbx.accounts.dead", None),
        Difference("x-queue-type", "quorum", "classic"),
    ]
    told = sentence_of("the queue pbx.crm", "pbx.crm", found, "accounts")
    assert told.startswith(
        "The queue pbx.crm exists in another form and is used as it is: it has no delivery-limit (50 "
    )
    assert (
        "rabbitmqctl set_policy -p accounts --apply-to queues 'account-bridge pbx.crm' '^pbx\\.crm$' "
        '\'{"delivery-limit":50,"dead-letter-exchange":"pbx.accounts.dead"}\''
    ) in told
    assert told.endswith('say so in the configuration: queue_type = "classic"')
