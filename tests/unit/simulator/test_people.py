import json
from itertools import islice

import pytest

from bridge.simulator.modes import Shape
from bridge.simulator.people import MARK, Record, build_info, people, plain


def some(seed: int = 1, count: int = 200, *, with_odd_names: bool = False) -> list[Record]:
    return list(islice(people(seed, loc="hq", domain="example.com", with_odd_names=with_odd_names), count))


def test_the_same_seed_makes_the_same_people() -> None:
    assert some(7) == some(7)


def test_another_seed_makes_others() -> None:
    assert some(7) != some(8)


@pytest.mark.parametrize("name", ["guid", "h323", "e164", "cn"])
@pytest.mark.parametrize("with_odd_names", [False, True])
def test_what_identifies_an_account_is_unique(name: str, *, with_odd_names: bool) -> None:
    made = some(with_odd_names=with_odd_names)
    assert len({getattr(record, name) for record in made}) == len(made)


def test_names_keep_their_letters_and_user_names_lose_them() -> None:
    made = some()
    assert any("ü" in record.cn for record in made)
    assert all(record.h323.isascii() for record in made)


@pytest.mark.parametrize(
    ("name", "told"), [("Müller", "muller"), ("İbrahim", "ibrahim"), ("Łukasz", "lukasz"), ("山", "")]
)
def test_a_plain_name_can_be_typed(name: str, told: str) -> None:
    assert plain(name) == told


@pytest.mark.parametrize("shape", Shape)
def test_every_shape_holds_secrets_under_names_that_say_so(shape: Shape) -> None:
    """So that a test which finds none of them outside has shown something."""
    record = some(count=1)[0]
    told = json.dumps(build_info(record, shape, domain="example.com", pbx="hq"))
    assert record.secret.startswith(MARK)
    assert told.count(MARK) >= 2


@pytest.mark.parametrize("shape", Shape)
def test_no_secret_hides_in_what_may_be_published(shape: Shape) -> None:
    for record in some(with_odd_names=True):
        info = build_info(record, shape, domain="example.com", pbx="hq")
        told = {
            name: info[name] for name in ("h323", "sip", "cn", "dn", "e164", "num", "email", "emails") if name in info
        }
        assert MARK not in json.dumps(told)
