"""How a pretend PBX behaves where the vendor's page says nothing: one field per open question.

Every value is a word of its own, so that a list of words is enough to say how a PBX behaves:
``Modes.parse(["idle-silent", "ord-indep"])``. The first value of each list is the default:
what the vendor's page suggests where it suggests anything, and otherwise what lets most be seen.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class UnknownMode(ValueError):  # noqa: N818 - reads as what it says
    """A word that is no mode; the message lists all that are."""


class Idle(StrEnum):
    """The answer to a question when nothing further has changed."""

    GUID = "idle-guid"
    BARE = "idle-bare"
    CURSOR = "idle-cursor"
    EMPTY = "idle-empty"
    NULL = "idle-null"
    REPEAT = "idle-repeat"
    SILENT = "idle-silent"
    HOLD = "idle-hold"
    ERROR = "idle-error"


class Hold(StrEnum):
    """What becomes of several held questions (``idle-hold``)."""

    SINGLE = "hold-single"
    ALL = "hold-all"
    QUEUE = "hold-queue"


class Deletion(StrEnum):
    """How a deleted account is told."""

    FLAG = "del-flag"
    NONE = "del-none"
    BARE = "del-bare"
    MT = "del-mt"
    NEWGUID = "del-newguid"
    THEN_RECREATE = "del-then-recreate"
    LOST = "del-lost"


class Guid(StrEnum):
    """What the guid stands for, and so how long it lives."""

    DB = "guid-db"
    NODE = "guid-node"
    BOOT = "guid-boot"
    SESSION = "guid-session"
    REQUEST = "guid-request"


class Stale(StrEnum):
    """The answer to a question with a guid that is not (or no longer) ours."""

    NEWGUID = "stale-newguid"
    ROWS = "stale-rows"
    IGNORE = "stale-ignore"
    ERROR = "stale-error"
    SILENT = "stale-silent"
    CLOSE = "stale-close"


class RowGuid(StrEnum):
    """Whether a row repeats the guid; the vendor's table of properties has none."""

    ABSENT = "rowguid-absent"
    PRESENT = "rowguid-present"


class Order(StrEnum):
    """How usn and ausn advance."""

    LEX = "ord-lex"
    INDEP = "ord-indep"
    CONST = "ord-const"
    ABSENT = "ord-absent"
    WALK = "ord-walk"


class CursorType(StrEnum):
    """The JSON type and the values of usn and ausn."""

    STRING = "cursor-string"
    NUMBER = "cursor-number"
    HEX = "cursor-hex"
    ZEROS = "cursor-zeros"
    BIG = "cursor-big"
    """A number beyond 2^53."""
    HUGE = "cursor-huge"
    """A number beyond 2^64."""


class Dup(StrEnum):
    """What is told more than once."""

    NONE = "dup-none"
    CHAIN = "dup-chain"
    NOOP = "dup-noop"
    LATE = "dup-late"


class Error(StrEnum):
    """What an error looks like; other than ``err-none``, every fifth question gets one."""

    NONE = "err-none"
    PROP = "err-prop"
    MT = "err-mt"
    SILENT = "err-silent"
    CLOSE = "err-close"


class Info(StrEnum):
    """How much of ``info`` a row carries."""

    FULL = "info-full"
    DELTA = "info-delta"
    MISSING = "info-missing"


class Shape(StrEnum):
    """Which of the plausible shapes ``info`` has."""

    TABLE = "shape-t"
    LOGIN = "shape-l"
    USER = "shape-u"
    OBJECT = "shape-o"


class Scope(StrEnum):
    """Which objects are listed as accounts."""

    USERS = "scope-users"
    ALL = "scope-all"
    OWN = "scope-own"
    RIGHTS = "scope-rights"
    """Users with a right on the app; here, those who are active in some group."""
    LOC = "scope-loc"


class Push(StrEnum):
    """Whether rows come without a question."""

    NONE = "push-none"
    ROW = "push-row"


class Walk(StrEnum):
    """In which order the list is read from its start, and what changes meanwhile do to it."""

    USN = "walk-usn"
    TABLE = "walk-table"
    SNAPSHOT = "walk-snapshot"


class HistoryMode(StrEnum):
    """What happens to a cursor older than the history; other than ``hist-keep``, it is 200 changes long."""

    KEEP = "hist-keep"
    FULL = "hist-full"
    NEWGUID = "hist-newguid"
    GAP = "hist-gap"


class Speed(StrEnum):
    """How fast answers come."""

    FAST = "fast"
    SLOW = "slow"
    BURST = "burst"
    THROTTLE_CLOSE = "throttle-close"


class Coalescing(StrEnum):
    """Whether two changes between two questions come as one row."""

    COALESCE = "coalesce"
    LOG = "log"


class Src(StrEnum):
    """Whether an answer repeats the question's ``src``."""

    ECHOED = "src-echoed"
    DROPPED = "src-dropped"


class Api(StrEnum):
    """What an answer says as ``api``."""

    ECHOED = "api-echoed"
    DROPPED = "api-dropped"
    IMPERSONATION = "api-impersonation"


class LoginMode(StrEnum):
    """Whether a login may leave fields out."""

    LENIENT = "login-lenient"
    STRICT = "login-strict"


class Challenge(StrEnum):
    """What a challenge looks like."""

    HEX = "challenge-hex"
    DIGITS = "challenge-digits"
    NUMBER = "challenge-number"


class Refusal(StrEnum):
    """How a login is refused."""

    BARE = "refusal-bare"
    FALSE = "refusal-false"
    TEXT = "refusal-text"
    CLOSE = "refusal-close"
    LATE = "refusal-late"


class PbxInfoMode(StrEnum):
    """Whether and when the PBX introduces itself."""

    NONE = "pbxinfo-none"
    AFTER = "pbxinfo-after"
    EARLY = "pbxinfo-early"
    LATE = "pbxinfo-late"
    REPEATED = "pbxinfo-repeated"
    BARE = "pbxinfo-bare"
    """Without version and build, as older firmware."""
    UNLISTED = "pbxinfo-unlisted"
    """PbxAccountApi is not among the apis."""


class AppInfoMode(StrEnum):
    """Whether the PBX asks what the app offers, and when."""

    NONE = "appinfo-none"
    BEFORE = "appinfo-before"
    AFTER = "appinfo-after"


class KeepAliveMode(StrEnum):
    """What the PBX does about keep-alives."""

    IGNORED = "keepalive-ignored"
    ANSWERED = "keepalive-answered"
    SENT = "keepalive-sent"
    REQUIRED = "keepalive-required"
    """A connection on which nothing comes for 60 s is cut, as reverse proxies do."""


class Optional(StrEnum):
    """How a property without a value is written."""

    ABSENT = "optional-absent"
    NULL = "optional-null"
    EMPTY = "optional-empty"


class Json(StrEnum):
    """How the JSON of an answer is written."""

    PLAIN = "json-plain"
    SHUFFLED = "json-shuffled"
    ESCAPED = "json-escaped"
    EXTRA = "json-extra"


class Frames(StrEnum):
    """Whether a message is one frame."""

    WHOLE = "frames-whole"
    FRAGMENTED = "frames-fragmented"


class Second(StrEnum):
    """What a second connection of the same app does."""

    ALLOWED = "second-allowed"
    REFUSED = "second-refused"
    REPLACES = "second-replaces"


@dataclass(frozen=True, slots=True)
class Modes:
    """How a PBX behaves. Change it with ``dataclasses.replace``."""

    idle: Idle = Idle.GUID
    hold: Hold = Hold.SINGLE
    deletion: Deletion = Deletion.FLAG
    guid: Guid = Guid.DB
    stale: Stale = Stale.NEWGUID
    row_guid: RowGuid = RowGuid.ABSENT
    order: Order = Order.LEX
    cursor: CursorType = CursorType.STRING
    dup: Dup = Dup.NONE
    error: Error = Error.NONE
    info: Info = Info.FULL
    shape: Shape = Shape.TABLE
    scope: Scope = Scope.USERS
    push: Push = Push.NONE
    walk: Walk = Walk.USN
    history: HistoryMode = HistoryMode.KEEP
    speed: Speed = Speed.FAST
    coalescing: Coalescing = Coalescing.COALESCE
    src: Src = Src.ECHOED
    api: Api = Api.ECHOED
    login: LoginMode = LoginMode.LENIENT
    challenge: Challenge = Challenge.HEX
    refusal: Refusal = Refusal.BARE
    pbx_info: PbxInfoMode = PbxInfoMode.NONE
    app_info: AppInfoMode = AppInfoMode.NONE
    keepalive: KeepAliveMode = KeepAliveMode.IGNORED
    optional: Optional = Optional.ABSENT
    json: Json = Json.PLAIN
    frames: Frames = Frames.WHOLE
    second: Second = Second.ALLOWED

    @classmethod
    def offered(cls) -> Mapping[str, Sequence[str]]:
        """Return the words that there are, the default first, by what they are about."""
        kinds = [type(getattr(cls(), one.name)) for one in fields(cls)]
        return {inspect.getdoc(kind) or kind.__name__: [str(word) for word in kind] for kind in kinds}

    @classmethod
    def parse(cls, words: Iterable[str]) -> "Modes":
        """Return the modes that *words* name; of two words for one field the later counts.

        Raises:
            UnknownMode: a word names none.

        """
        return DEFAULT.with_words(words)

    def with_words(self, words: Iterable[str]) -> "Modes":
        """Return these modes, changed as *words* say.

        Raises:
            UnknownMode: a word names none.

        """
        told: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for word in words:
            if word not in _BY_WORD:
                raise UnknownMode(f"there is no mode {word!r}; modes are: {', '.join(_BY_WORD)}")
            name, value = _BY_WORD[word]
            told[name] = value
        return Modes(**told)

    def words(self) -> list[str]:
        """Return the words for whatever differs from the default."""
        return [
            str(value) for field in fields(self) if (value := getattr(self, field.name)) != getattr(DEFAULT, field.name)
        ]


DEFAULT = Modes()

_BY_WORD: dict[str, tuple[str, StrEnum]] = {
    str(value): (field.name, value) for field in fields(Modes) for value in type(getattr(DEFAULT, field.name))
}

ALL_WORDS = tuple(_BY_WORD)
"""Every mode there is."""
