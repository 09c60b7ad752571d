"""What every store has to do, done by PostgreSQL: the tests of ``tests/unit/store/tables``."""

from tests.unit.store.tables.test_erasure import *  # noqa: F403 - all of them
from tests.unit.store.tables.test_inbound import *  # noqa: F403
from tests.unit.store.tables.test_outbox import *  # noqa: F403
from tests.unit.store.tables.test_past import *  # noqa: F403
from tests.unit.store.tables.test_recent import *  # noqa: F403
from tests.unit.store.tables.test_store import *  # noqa: F403
