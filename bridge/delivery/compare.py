"""Is a row what the mirror says? Asked where a PBX may have been set back; nothing is written."""

from bridge.events.normalize import Rules, account_key, read_account
from bridge.model import Row, SourceName
from bridge.store.contract import SourceStore


def agrees(store: SourceStore, source: SourceName, row: Row, *, is_news: bool, rules: Rules) -> bool:
    """Tell whether *row* is as it has to be.

    News must not be known at its numbers: those would have been passed, or used for something else. What is no news
    must be known just like that, as far as it is published: what nobody is told makes no difference.

    Raises:
        StoreUnusable: from the store.

    """
    key = account_key(row.account_guid)
    with store.transaction() as transaction:
        transaction.place(source)
        known = transaction.mirrored(source, [key]).get(key)
    is_known = known is not None and known.cursor == row.cursor
    if is_news or known is None or not is_known:
        return is_news and not is_known
    if row.is_deleted or known.is_deleted:
        return row.is_deleted and known.is_deleted
    # Under new rules an account that did not change is told otherwise, and that is no doing of the PBX.
    return rules.is_new or read_account(row, known.account, rules) == known.account
