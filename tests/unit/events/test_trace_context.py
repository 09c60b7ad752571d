import re

from bridge.events.trace_context import trace_of


def test_the_trace_of_an_event_is_the_same_for_every_delivery_and_its_own() -> None:
    assert trace_of("a") == trace_of("a")
    assert trace_of("a") != trace_of("b")


def test_it_has_the_form_of_w3c_trace_context() -> None:
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", trace_of("a").traceparent)
