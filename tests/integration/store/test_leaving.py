"""A PBX that gets another name or is retired, with PostgreSQL: the tests of the file, as far as they need none."""

from collections.abc import Iterator

import pytest

from bridge.store.tables.store import TableStore
from tests.support.engines import PostgresEngine
from tests.unit.delivery import test_leaving as of_file
from tests.unit.delivery.test_leaving import *  # noqa: F403 - all of them

del test_all_rows_of_a_retired_pbx_go_once_everything_is_sent  # noqa: F821 - it looks into the file
del test_a_pbx_that_gets_a_retired_name_begins_behind_it  # noqa: F821 - it opens the file with another clock
del test_a_rename_that_is_killed_leaves_the_store_as_the_file_beside_it_expects  # noqa: F821 - what its name says


@pytest.fixture  # type: ignore[no-redef]
def store(engine: PostgresEngine) -> Iterator[TableStore]:
    with engine.store() as opened:
        of_file.tell(opened)
        yield opened
