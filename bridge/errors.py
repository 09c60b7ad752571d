"""Everything that can go wrong, in one tree that answers whose fault it is and whether waiting helps.

    BridgeError
    ├── Transient            waiting helps: tried again soon
    │   ├── PbxUnreachable       no connection, or it broke, or no answer in time
    │   ├── PbxBrokeProtocol     the PBX said something that has no place in the conversation
    │   ├── PbxRefusedRequest    the PBX answered a question with an error
    │   ├── PbxReadingFailed     reading it failed in a way that nobody thought of: the log has the traceback
    │   ├── BrokerUnreachable    no connection, or it broke, or no answer in time
    │   │   └── FenceHeld            another connection publishes for the same source
    │   ├── BrokerDidNotConfirm  nack, or a confirm that never came
    │   │   └── EventUnroutable      no queue takes it: it came back
    │   ├── EventForbidden       the broker's user may not publish with this routing key
    │   ├── BrokerRefusedEvent   it will never take this one: parked, and the others go on
    │   ├── StoreUnreachable     no connection to the database, or it broke, or no answer in time
    │   ├── LeaseLost            another bridge has this source now, or may have it
    │   └── OutboxFull           too much waits to be sent: the PBXs are not read until there is room
    ├── Misconfigured        waiting helps only once somebody changed something: tried again slowly, loudly
    │   ├── PbxRefusedLogin      wrong app name or password
    │   ├── PbxNotTrusted        its certificate does not verify
    │   ├── BrokerRefusedLogin   wrong user, password or virtual host
    │   ├── TopologyMismatch     exchange or queue missing, of another kind, or not permitted
    │   ├── LogUnreadable        the log cannot be read to its end, so nobody can tell what it has
    │   ├── StoreRefusedLogin    wrong user, password or database of the store
    │   └── FileUnusable         a file with a password or a certificate is missing, empty or of no use
    ├── NobodyAnswers        no bridge runs on this store, so that a command has nobody to talk to
    ├── RecordingUnusable    a file is no recording of a PBX that could be played
    ├── BadEvent             a message that is not one of our events: put it aside, it will not become one
    └── Fatal                waiting does not help: the bridge stops with this sentence
        ├── BadConfig            the configuration cannot be used
        ├── StoreUnusable        it cannot be opened, written or understood
        ├── StoreInUse           another bridge holds it
        ├── StoreOutdated        the log has more than it ever gave: opened next, it begins a new lineage
        ├── CursorMoved          another bridge moved the cursor under our feet
        ├── LogReplaced          the log is another one than was read, so that a place in it means nothing
        └── PlaceMovedBack       the place kept by a reader is behind what it dealt with: entries would be left out

Every message is a sentence for a person, says what to do where that is known, and holds no secret.
"""


class BridgeError(Exception):
    """The root: whatever this package raises on purpose."""


class Transient(BridgeError):  # noqa: N818 - the name says what to do about it, which is the point of the tree
    """Waiting helps. The one place that retries (``runtime.retry``) tries again soon."""


class PbxUnreachable(Transient):
    """No connection to the PBX, or it broke, or the PBX did not answer in time."""


class PbxBrokeProtocol(Transient):
    """The PBX said something that has no place in the conversation at this point."""


class PbxRefusedRequest(Transient):
    """The PBX answered a question about accounts with an error."""


class PbxReadingFailed(Transient):
    """Reading a PBX failed in a way that nobody thought of; it concerns this PBX only, and is tried again."""


class BrokerUnreachable(Transient):
    """No connection to the broker, or it broke, or the broker did not answer in time."""


class FenceHeld(BrokerUnreachable):
    """Another connection publishes for a source, which waits; all others may go on."""

    patience_seconds = 60.0
    """Between two attempts to get past it, at most."""


class BrokerDidNotConfirm(Transient):
    """The broker refused a message, returned it, or never confirmed it."""


class EventUnroutable(BrokerDidNotConfirm):
    """No queue takes an event, so the broker returned it: held back, and what comes behind it from the same PBX."""


class EventForbidden(Transient):
    """The broker's user may not publish with the routing key of one of the events on their way; the others he may."""


class BrokerRefusedEvent(Transient):
    """The broker will not take one of the events on their way, however often it is sent; the others it will."""


class StoreUnreachable(Transient):
    """No connection to the store's database, or it broke, or it did not answer in time."""


class LeaseLost(Transient):
    """Another bridge has the source now, or all that were ours: nothing was written, and nothing more is."""


class OutboxFull(Transient):
    """So much waits to be sent that no more is read."""


class Misconfigured(BridgeError):  # noqa: N818 - see Transient
    """Waiting helps only after somebody changed something; tried again slowly and shown loudly."""


class PbxRefusedLogin(Misconfigured):
    """The PBX did not accept the app name and password."""


class PbxNotTrusted(Misconfigured):
    """The certificate of the PBX does not verify, or is for another host name."""


class BrokerRefusedLogin(Misconfigured):
    """The broker did not accept user, password or virtual host."""


class TopologyMismatch(Misconfigured):
    """An exchange or queue is missing, of another kind than configured, or not permitted."""


class LogUnreadable(Misconfigured):
    """The log cannot be read to its end: it is missing, not permitted, or too slow."""


class StoreRefusedLogin(Misconfigured):
    """The store's database did not accept user, password or database."""


class FileUnusable(Misconfigured):
    """A file with a password or a certificate is missing, empty, or cannot be used; the sentence names the file."""


class NobodyAnswers(BridgeError):  # noqa: N818 - see Transient
    """No bridge runs on this store."""


class RecordingUnusable(BridgeError):  # noqa: N818 - reads as what it says
    """A file is no recording, or of a version that is not known; the message says why, and the caller which file."""


class BadEvent(BridgeError):  # noqa: N818 - see Transient
    """A message that is not one of our events, or not one this version can read."""


class Fatal(BridgeError):  # noqa: N818 - see Transient
    """Waiting does not help: the bridge stops and this sentence is the last thing it says."""


class BadConfig(Fatal):
    """The configuration cannot be used; the message lists everything that is wrong with it."""


class StoreUnusable(Fatal):
    """The store cannot be opened, written or understood."""


class StoreInUse(Fatal):
    """Another bridge holds the store."""


class StoreOutdated(Fatal):
    """The log has numbers that this store never gave: another state of it was at work. The next start sees to that."""


class CursorMoved(Fatal):
    """The durable cursor is not where this bridge left it: another one works on the same store."""


class LogReplaced(Fatal):
    """The log is not the one in which the reader stands: it was deleted and made anew."""


class PlaceMovedBack(Fatal):
    """The place in a reader's database is behind what the reader dealt with: going on would leave out entries."""
