import subprocess
import sys
from typing import get_type_hints

import pytest

from bridge import consumer
from bridge.events.normalize import FIELDS, OPTIONAL_FIELDS

WITHOUT = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"psycopg", "rstream", "mmh3"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False)


def test_the_front_page_needs_no_extra() -> None:
    done = run_without_extras("from bridge.consumer import *; from bridge.consumer import Subscriber")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import bridge.consumer.inbox.postgres", "postgres"),
        ("import bridge.consumer.log.position_postgres", "postgres"),
        ("from bridge.consumer import LogReader; LogReader('rabbitmq-stream://localhost/')", "stream"),
    ],
)
def test_a_missing_extra_is_named_with_what_installs_it(code: str, extra: str) -> None:
    done = run_without_extras(code)
    assert done.returncode == 1
    assert f"pip install 'pbx-account-bridge[{extra}]'" in done.stderr.splitlines()[-1]


def test_an_account_is_typed_with_all_of_its_fields_and_no_other() -> None:
    """So that a type checker finds a wrong name."""
    assert get_type_hints(consumer.AccountChanged)["account"] is consumer.Account
    assert get_type_hints(consumer.AccountChanged)["previous"] is consumer.Previous
    assert consumer.Account.__required_keys__ == set(FIELDS)
    assert consumer.Account.__optional_keys__ == set(OPTIONAL_FIELDS)
    assert consumer.Previous.__optional_keys__ == {*FIELDS, *OPTIONAL_FIELDS} - {"guid"}


def test_everything_the_front_page_names_is_there() -> None:
    assert all(hasattr(consumer, name) for name in consumer.__all__)


def test_what_is_for_postgresql_is_there_too_and_loaded_only_when_it_is_asked_for() -> None:
    before = "import sys; from bridge import consumer; assert 'psycopg' not in sys.modules; "
    code = f"{before}consumer.{{}}; sys.modules['psycopg']"
    for name in ("PostgresInbox", "AsyncPostgresInbox", "PostgresPosition", "AsyncPostgresPosition"):
        subprocess.run([sys.executable, "-c", code.format(name)], check=True)


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'MysqlInbox'"):
        _ = consumer.MysqlInbox
