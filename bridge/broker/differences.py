"""A queue or exchange that exists in another form than the one that is wanted: what differs, and what can be done.

AMQP changes nothing that exists, and tells of one difference at a time. So such a queue is used as it is. A policy may
make of it what is wanted: it adds what the queue itself does not say, and of two limits the smaller one counts.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_REFUSAL: Final = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?:queue|exchange) .*: "
    r"received (?:none|(?:the value )?'(?P<wanted>.*?)'(?: of type '\w+')?) "
    r"but current is (?:none|(?:the value )?'(?P<found>.*?)'(?: of type '\w+')?)$"
)
"""Read in RabbitMQ (``rabbit_misc:assert_args_equivalence1``, ``rabbit_amqqueue:assert_equivalence``)."""

STREAM: Final = "stream"
SINGLE_ACTIVE_CONSUMER: Final = "x-single-active-consumer"

_LIMITS: Final = frozenset({"x-delivery-limit", "x-max-length-bytes", "x-max-age"})
_ADDED: Final = frozenset({"x-dead-letter-exchange", "x-dead-letter-routing-key"})

_SETTINGS: Final[Mapping[str, str]] = {
    "x-delivery-limit": "delivery_limit",
    "x-queue-type": "queue_type",
    SINGLE_ACTIVE_CONSUMER: "ordered",
    "x-max-age": "rabbitmq.log_max_age",
    "x-max-length-bytes": "rabbitmq.log_max_bytes",
}
"""Which setting of the bridge says it."""

_SECONDS: Final = {"Y": 31_536_000, "M": 2_592_000, "D": 86_400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which something differs from what is wanted; ``None`` where it is not said."""

    argument: str
    wanted: Any
    found: Any

    @property
    def is_for_policy(self) -> bool:
        """Tell whether a policy makes of it what is wanted."""
        if self.wanted is None:
            return False
        if self.argument in _ADDED:
            return self.found is None
        return self.argument in _LIMITS and (self.found is None or _amount(self.wanted) < _amount(self.found))

    @property
    def words(self) -> str:
        """What differs, in words."""
        what = _plain(self.argument)
        if self.found is None:
            return f"it has no {what} ({_shown(self.wanted)} is wanted)"
        if self.wanted is None:
            return f"it has {what} {_shown(self.found)}"
        return f"{what} is {_shown(self.found)}, not {_shown(self.wanted)}"


def difference_in(refusal: str) -> Difference | None:
    """Return what the broker says that differs; ``None`` where its words are none that are known."""
    told = _REFUSAL.search(refusal)
    if told is None:
        return None
    return Difference(told["argument"], _value(told["wanted"]), _value(told["found"]))


def sentence_of(what: str, name: str, found: Sequence[Difference], vhost: str) -> str:
    """Return what differs of *what*, a queue called *name*, and the exact remedy; never that it be deleted."""
    told = f"{what} exists in another form and is used as it is: {', '.join(each.words for each in found)}"
    remedies = []
    if policy := {_plain(each.argument): each.wanted for each in found if each.is_for_policy}:
        line = ["rabbitmqctl", "set_policy", "-p", vhost, "--apply-to", "queues", f"account-bridge {name}"]
        line += [f"^{re.escape(name)}$", json.dumps(policy, separators=(",", ":"))]
        remedies.append(
            f"This makes it so, unless another policy counts more for it: {shlex.join(line)}. (Nobody tells the bridge "
            "of policies, so that this stays a warning.)"
        )
    if settings := [words for each in found if (words := _setting(each))]:
        remedies.append(f"If it is meant to be as it is, say so in the configuration: {', '.join(settings)}")
    if not remedies:
        remedies.append("Only a queue of another name can be as it is wanted")
    return f"{told[:1].upper()}{told[1:]}. {' '.join(remedies)}".rstrip(".")


def _setting(each: Difference) -> str:
    """Return the line of the configuration that says what is there; nothing where none can."""
    name, found = _SETTINGS.get(each.argument, ""), each.found
    if each.argument == SINGLE_ACTIVE_CONSUMER:
        found = found is True
    elif each.argument == "x-queue-type":
        if STREAM in {each.wanted, found}:
            return "rabbitmq.log_stream = false" if each.wanted == STREAM else ""
        found = found or "classic"
    return f"{name} = {json.dumps(found)}" if name and found is not None else ""


def _plain(argument: str) -> str:
    return argument.removeprefix("x-")


def _shown(value: Any) -> str:
    return json.dumps(value).strip('"')


def _value(text: str | None) -> Any:
    if text is None:
        return None
    if text in {"true", "false"}:
        return text == "true"
    return int(text) if text.isdecimal() else text


def _amount(value: Any) -> float:
    """Return a limit as a number: an age in seconds."""
    if isinstance(value, str):
        seconds = _SECONDS.get(value[-1:])
        return int(value[:-1]) * seconds if seconds and value[:-1].isdecimal() else float("inf")
    return float(value)
