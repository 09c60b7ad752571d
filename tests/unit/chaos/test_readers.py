import json

from bridge.model import ChangeKind
from tests.chaos.readers import Notes
from tests.support.events import LATER_LINEAGE, body, certificate_body, change


def test_every_delivery_is_written_down_and_the_first_of_each_counts() -> None:
    faults = [0]
    notes = Notes(lambda: faults[0])
    created, updated = body(change("anna", 1), sequence=1), body(change("anna", 2), sequence=2)
    notes.take(created, is_redelivered=False, is_marked=False)
    notes.take(updated, is_redelivered=False, is_marked=False)
    faults[0] = 1
    notes.take(created, is_redelivered=False, is_marked=True)
    assert [(told.sequence, told.fault, told.is_marked) for told in notes.deliveries] == [
        (1, 0, False),
        (2, 0, False),
        (1, 1, True),
    ]
    assert notes.distinct == 2
    assert notes.revisions == {"anna": 2}
    assert b"anna 2" in notes.states["anna"], "the repetition brought no old state back"  # type: ignore[operator]


def test_a_deleted_account_is_gone_and_its_revision_stays() -> None:
    notes = Notes(lambda: 0)
    notes.take(body(change("anna", 1), sequence=1), is_redelivered=False, is_marked=False)
    notes.take(body(change("anna", 2, kind=ChangeKind.DELETED), sequence=2), is_redelivered=False, is_marked=False)
    assert (notes.states, notes.revisions) == ({}, {"anna": 2})


def test_what_is_no_account_change_is_not_counted() -> None:
    notes = Notes(lambda: 0)
    notes.take(certificate_body(), is_redelivered=False, is_marked=False)
    notes.take(json.dumps({"type": "something.else"}).encode(), is_redelivered=False, is_marked=False)
    assert (notes.deliveries, notes.distinct) == ([], 0)


def test_who_is_not_told_again_in_a_new_lineage_is_gone_with_its_certificate() -> None:
    notes = Notes(lambda: 0)
    for whole in (
        body(change("anna"), sequence=1),
        body(change("bert"), sequence=2),
        body(change("anna", kind=ChangeKind.INITIAL), lineage=LATER_LINEAGE, sequence=1),
        certificate_body(lineage=LATER_LINEAGE, completes=False),
    ):
        notes.take(whole, is_redelivered=False, is_marked=False)
    assert notes.states.keys() == {"anna", "bert"}
    notes.take(certificate_body(lineage=LATER_LINEAGE), is_redelivered=False, is_marked=False)
    assert notes.states.keys() == {"anna"}
