"""What an operator may say about how a bridge works."""

from dataclasses import dataclass, field
from datetime import timedelta

from bridge.delivery.limits import Limits
from bridge.delivery.reconcile import DeletionLimit
from bridge.events.normalize import Rules
from bridge.model import WINDOW_ROWS
from bridge.pbx.walk.schedule import Habits
from bridge.runtime.row_budget import MOST


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator may say about how a bridge works."""

    rules: Rules
    """How rows are judged."""
    window: int = WINDOW_ROWS
    """Events on their way to the broker at once."""
    keep: timedelta = timedelta(days=7)
    """How long what was published is kept, for a replay."""
    deletion_limit: DeletionLimit = field(default_factory=DeletionLimit)
    habits: Habits = field(default_factory=Habits)
    limits: Limits = field(default_factory=Limits)
    max_rows_ahead: int = MOST
    """Rows of all PBXs that may be read and not yet durable."""
