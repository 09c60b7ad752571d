from typing import Any

import orjson
import pytest

from bridge.events.wording import MAX_TEXT_CHARACTERS
from bridge.observability.web.changes import MAX_DIFFERENCES, as_json
from bridge.store.records import KeptEvent
from tests.support.boards import NOW
from tests.support.events import LINEAGE
from tests.support.rows import HQ


def kept(account: dict[str, Any], **previous: Any) -> KeptEvent:
    event = {
        "type": "pbx.account.changed",
        "dataschema": "urn:pbx-account-bridge:account-changed:1",
        "id": "x",
        "source": "/pbx/hq",
        "sequence": "00000000000000000001",
        "lineage": LINEAGE,
        "time": "2026-11-23T20:00:00Z",
        "data": {
            "change": "updated",
            "account": {"guid": "g", **account},
            "changed": list(previous),
            "previous": previous,
            "revision": 1,
            "cursor": {},
        },
    }
    return KeptEvent(7, HQ, orjson.dumps(event), NOW, None, "waiting")


def test_a_change_is_told_with_what_it_changed() -> None:
    (told,) = as_json([kept({"display_name": "Erika", "numbers": ["404"]}, numbers=["403"])])
    assert (told["account"], told["what"], told["state"]) == ("Erika", "new extension", "waiting")
    assert told["differences"] == [{"field": "numbers", "before": "403", "after": "404"}]


def test_texts_of_any_length_are_shortened() -> None:
    """64 KiB in a field of the PBX must not become 64 KiB on the page."""
    (told,) = as_json([kept({"display_name": "x" * 65536, "emails": ["y" * 999] * 99}, emails=["z" * 65536])])
    assert len(orjson.dumps(told)) < 4 * MAX_TEXT_CHARACTERS * 4
    (told,) = as_json([kept({}, **{f"field{number}": "a" for number in range(40)})])
    assert (len(told["differences"]), told["more"]) == (MAX_DIFFERENCES, 40 - MAX_DIFFERENCES)


@pytest.mark.parametrize("body", [None, b"{}", b"no json"])
def test_an_event_that_cannot_be_shown_is_told_all_the_same(body: bytes | None) -> None:
    (told,) = as_json([KeptEvent(7, HQ, body, NOW, NOW, "sent")])
    assert (told["what"], told["differences"]) == ("too large to be shown", [])
