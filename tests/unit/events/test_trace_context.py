import re

from bridge.events.trace_context import derive_trace


def test_the_trace_of_an_event_is_the_same_for_every_delivery_and_its_own() -> None:
    assert derive_trace("a") == derive_trace("a")
    assert derive_trace("a") != derive_trace("b")


def test_it_has_the_form_of_w3c_trace_context() -> None:
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", derive_trace("a").traceparent)
