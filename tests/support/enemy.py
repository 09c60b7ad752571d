# ruff: noqa: D101, ARG002 - a habit is named as what it does, and does not need all that it is given
"""A PBX as somebody builds it who wants to see an observer and a bridge go wrong.

Nothing of ``bridge`` is used here, and nothing of its simulator: what both get wrong in the same way would not show.
``Enemy`` behaves as one would expect; each class below has one habit that no word of the pretend PBX says.
"""

import base64
import hashlib
import json
from typing import Any, ClassVar

Out = tuple[float, str | int]
"""Seconds to wait, and then a text to send, or the code to close with."""

Told = dict[str, Any]
NAMES = ("Erika Mustermann", "Jürgen Groß", "Ayşe Öztürk", "李小龙", "O'Brien, Pat", "null", "Zoë")


class Account:
    """One entry of the list."""

    def __init__(self, number: int) -> None:
        self.guid = hashlib.sha256(f"account {number}".encode()).hexdigest()[:32]
        self.h323 = f"user{number}"
        self.dn = NAMES[number % len(NAMES)]
        self.groups = ["Support"]
        self.extension = str(400 + number)
        self.usn = number
        self.ausn = 7

    @property
    def info(self) -> Told:
        return {"h323": self.h323, "cn": self.dn, "dn": self.dn, "e164": self.extension, "grps": self.groups}


class Enemy:
    """A well-behaved one, with so many accounts."""

    app, password = "enemy", "en3my-s3cret"
    habits: ClassVar[dict[str, type["Enemy"]]] = {}

    def __init__(self, accounts: int = 12) -> None:
        self.head = 0
        self.accounts: list[Account] = []
        self.lines: list[Line] = []
        self.opened = 0
        self.boots = 1
        for _ in range(accounts):
            self.add()

    def __init_subclass__(cls) -> None:
        Enemy.habits[cls.__name__] = cls

    # What happens in it

    def add(self) -> Account:
        self.head += 1
        account = Account(self.head)
        self.accounts.append(account)
        return account

    def touch(self, account: Account) -> None:
        self.head += 1
        account.usn = self.head
        self.accounts.remove(account)
        self.accounts.append(account)
        self.changed(account)

    def changed(self, account: Account) -> None:
        """Something about *account* is new."""

    def act(self, name: str) -> None:
        """Do what an operator is asked to."""
        someone = self.accounts[3]
        match name:
            case "rename":
                for dn in ("First", "Second"):
                    someone.dn = dn
                    self.touch(someone)
            case "group":
                someone.groups = [*someone.groups, "Sales"]
                self.touch(someone)
            case "create":
                self.changed(self.add())
            case "delete":
                self.delete(self.accounts[-1])
            case "template":
                for account in self.accounts:
                    account.ausn += 1
            case "reboot":
                self.boots += 1
                for line in self.lines:
                    line.out.append((0.0, 1001))

    def delete(self, account: Account) -> None:
        self.accounts.remove(account)

    # How it answers

    def guid(self, line: "Line") -> Any:
        del line
        return "ab" * 16

    def number(self, value: int) -> Any:
        return str(value)

    def places(self) -> list[Account]:
        return self.accounts

    def row(self, account: Account, line: "Line") -> Told:
        del line
        told = {"usn": self.number(account.usn), "ausn": self.number(account.ausn)}
        return {**told, "account-guid": account.guid, "account-h323": account.h323, "info": account.info}

    def end(self, line: "Line", asked: Told) -> Told | None:
        """Return what is answered where nothing further has changed."""
        del asked
        return {"guid": self.guid(line)}

    def behind(self, asked: Told, line: "Line") -> Account | None:
        """Return the account behind the one asked from."""
        del line
        if asked.get("usn") is None:
            return next(iter(self.places()), None)
        keys = [(self.number(each.usn), self.number(each.ausn)) for each in self.places()]
        key = (asked["usn"], asked.get("ausn"))
        if key in keys:
            return next(iter(self.places()[keys.index(key) + 1 :]), None)
        usn = int(str(asked["usn"])) if not isinstance(asked["usn"], list | dict) else 0
        return next((each for each in self.places() if each.usn > usn), None)

    def answer(self, asked: Told, line: "Line") -> Told | None:
        if asked.get("guid") is None:
            return {"guid": self.guid(line)}
        if asked["guid"] != self.guid(line):
            return {"guid": self.guid(line)}
        account = self.behind(asked, line)
        return self.row(account, line) if account is not None else self.end(line, asked)

    def say(self, asked: Told, line: "Line") -> None:
        """Answer a question."""
        told = self.answer(asked, line)
        if told is not None:
            line.say({"mt": "AccountInfoResult", "api": "PbxAccountApi", "src": asked.get("src"), **told})

    def introduce(self, line: "Line") -> None:
        """Do something behind a login."""


class Line:
    """One connection."""

    def __init__(self, pbx: Enemy) -> None:
        self.pbx = pbx
        pbx.opened += 1
        pbx.lines.append(self)
        self.number = pbx.opened
        self.out: list[Out] = []
        self.questions = 0
        self.is_in = False
        self.memory: dict[str, Any] = {}

    def say(self, told: Told, seconds: float = 0.0) -> None:
        self.out.append((seconds, json.dumps(told, ensure_ascii=False)))

    def hear(self, text: str) -> None:
        said = json.loads(text)
        match said.get("mt"):
            case "AppChallenge":
                self.say({"mt": "AppChallengeResult", "challenge": "1122334455667788"})
            case "AppLogin":
                fields = [said.get(name) or "" for name in ("app", "domain", "sip", "guid", "dn")]
                proof = ":".join([*fields, "1122334455667788", self.pbx.password])
                self.is_in = said.get("digest") == hashlib.sha256(proof.encode()).hexdigest()
                self.say({"mt": "AppLoginResult", "ok": True} if self.is_in else {"mt": "AppLoginResult"})
                if self.is_in:
                    self.pbx.introduce(self)
            case "AccountInfo":
                assert self.is_in
                self.questions += 1
                self.pbx.say(said, self)

    def gone(self) -> None:
        if self in self.pbx.lines:
            self.pbx.lines.remove(self)


# Ends


class EndIsAnEmptyObject(Enemy):
    def say(self, asked: Told, line: Line) -> None:
        if asked.get("guid") is not None and self.behind(asked, line) is None:
            line.say({})
        else:
            super().say(asked, line)


class EndIsNoJson(Enemy):
    def say(self, asked: Told, line: Line) -> None:
        if asked.get("guid") is not None and self.behind(asked, line) is None:
            line.out.append((0.0, "OK"))
        else:
            super().say(asked, line)


class EndIsAnotherType(Enemy):
    def say(self, asked: Told, line: Line) -> None:
        if asked.get("guid") is not None and self.behind(asked, line) is None:
            line.say({"mt": "AccountInfoDone", "src": asked.get("src")})
        else:
            super().say(asked, line)


class EndIsAnError(Enemy):
    def end(self, line: Line, asked: Told) -> Told | None:
        return {"error": 404, "errorText": "no more data"}


class EndBeginsAnew(Enemy):
    def end(self, line: Line, asked: Told) -> Told | None:
        return self.row(self.places()[0], line)


class EndIsNobody(Enemy):
    def end(self, line: Line, asked: Told) -> Told | None:
        return {"usn": asked["usn"], "ausn": asked.get("ausn"), "account-guid": "0" * 32, "account-h323": None}


class EndIsANewNumber(Enemy):
    """Each time another one, so that one who follows it never stands still."""

    def end(self, line: Line, asked: Told) -> Told | None:
        self.head += 1
        return {"guid": self.guid(line), "usn": str(self.head), "ausn": "7"}


class EndIsSilentOnceThenTold(Enemy):
    def end(self, line: Line, asked: Told) -> Told | None:
        line.memory["ends"] = line.memory.get("ends", 0) + 1
        return None if line.memory["ends"] % 2 else {"guid": self.guid(line)}


class EndHasASrcOfItsOwn(Enemy):
    def say(self, asked: Told, line: Line) -> None:
        if asked.get("guid") is not None and self.behind(asked, line) is None:
            line.say({"mt": "AccountInfoResult", "api": "PbxAccountApi", "src": "end", "guid": self.guid(line)})
        else:
            super().say(asked, line)


# Numbers


class NumbersMixed(Enemy):
    def number(self, value: int) -> Any:
        return value if value % 2 else str(value)


class NumbersRestart(Enemy):
    """In the midst of the list they begin at 1 again; the PBX knows by itself who has heard what."""

    def row(self, account: Account, line: Line) -> Told:
        line.memory["at"] = self.places().index(account)
        usn = self.places().index(account) % 5 + 1
        return super().row(account, line) | {"usn": str(usn)}

    def behind(self, asked: Told, line: Line) -> Account | None:
        if asked.get("usn") is None:
            return self.places()[0]
        return next(iter(self.places()[line.memory.get("at", 0) + 1 :]), None)


class NumbersAreTrue(Enemy):
    def row(self, account: Account, line: Line) -> Told:
        return super().row(account, line) | {"ausn": True}

    def behind(self, asked: Told, line: Line) -> Account | None:
        return super().behind(asked if asked.get("usn") is None else asked | {"ausn": "7"}, line)


class NumbersAreLists(Enemy):
    def number(self, value: int) -> Any:
        return [value]


class NumbersAreTimes(Enemy):
    def number(self, value: int) -> Any:
        return f"2026-11-{value:02}T10:00:00Z"

    def behind(self, asked: Told, line: Line) -> Account | None:
        usn = int(str(asked["usn"])[8:10]) if asked.get("usn") else 0
        return next((each for each in self.places() if each.usn > usn), None)


class NumbersAreNegative(Enemy):
    def number(self, value: int) -> Any:
        return -value

    def behind(self, asked: Told, line: Line) -> Account | None:
        usn = asked.get("usn") or 0
        return next((each for each in self.places() if each.usn > -int(usn)), None)


class NumbersFromOtherWriting(Enemy):
    """Digits of another script; who compares by value is misled."""

    def number(self, value: int) -> Any:
        return "".join(chr(0x0660 + int(digit)) for digit in str(value))


class AusnOnSomeOnly(Enemy):
    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        if account.usn % 3 == 0:
            del told["ausn"]
        return told

    def behind(self, asked: Told, line: Line) -> Account | None:
        usn = int(asked.get("usn") or 0)
        return next((each for each in self.places() if each.usn > usn), None)


# Lists


class ListNotSorted(Enemy):
    def places(self) -> list[Account]:
        return sorted(self.accounts, key=lambda each: each.guid)


class AccountTwice(Enemy):
    """One account comes twice in a walk, under two numbers and with two contents."""

    def __init__(self, accounts: int = 12) -> None:
        super().__init__(accounts)
        self.accounts[9].guid = self.accounts[2].guid


class AccountInCapitals(Enemy):
    """The guid of an account is written in another way each time."""

    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        return told | {"account-guid": account.guid.upper()} if line.questions % 2 else told


# Guids


class GuidOfTwoNodes(Enemy):
    """A balancer with two boxes behind it: connections go to one and the other in turn."""

    def guid(self, line: Line) -> Any:
        return ("ab" if line.number % 2 else "cd") * 16

    def answer(self, asked: Told, line: Line) -> Told | None:
        return super().answer(asked, line)


class GuidNever(Enemy):
    def guid(self, line: Line) -> Any:
        return None


class GuidIsAnObject(Enemy):
    def guid(self, line: Line) -> Any:
        return {"id": "ab" * 16}


class GuidWithTheFirstAccount(Enemy):
    def answer(self, asked: Told, line: Line) -> Told | None:
        told = super().answer(asked, line)
        if asked.get("guid") is None and told is not None:
            return self.row(self.places()[0], line) | told
        return told


class GuidInCapitalsAtTheEnd(Enemy):
    def end(self, line: Line, asked: Told) -> Told | None:
        return {"guid": str(self.guid(line)).upper()}


# Manners


class AnswersTwice(Enemy):
    def say(self, asked: Told, line: Line) -> None:
        super().say(asked, line)
        super().say(asked, line)


class AnswersLate(Enemy):
    """Every fourth answer comes when nobody waits for it any more."""

    def say(self, asked: Told, line: Line) -> None:
        before = len(line.out)
        super().say(asked, line)
        if line.questions % 4 == 0:
            line.out[before:] = [(33.0, what) for _, what in line.out[before:]]


class AnswersOutOfOrder(Enemy):
    """Without src, and with every third answer held back until the next question."""

    def say(self, asked: Told, line: Line) -> None:
        told = self.answer(asked, line)
        kept = line.memory.pop("kept", None)
        message = {"mt": "AccountInfoResult", **(told or {})}
        if line.questions % 3 == 0 and kept is None and asked.get("usn") is not None:
            line.memory["kept"] = message
            return
        line.say(message)
        if kept is not None:
            line.say(kept)


class TalksInBetween(Enemy):
    """Other messages before and behind each answer, with the same src."""

    def say(self, asked: Told, line: Line) -> None:
        line.say({"mt": "Progress", "src": asked.get("src"), "who": "Erika"})
        super().say(asked, line)
        line.say({"mt": "AccountCount", "src": asked.get("src"), "count": 4711})
        line.out.append((0.0, "\x00\x01 not a word of JSON"))


class PushesWhatIsKnown(Enemy):
    """Without a question, it tells somebody again, as he was."""

    def say(self, asked: Told, line: Line) -> None:
        super().say(asked, line)
        if line.questions % 2:
            line.say({"mt": "AccountInfoResult", "api": "PbxAccountApi", **self.row(self.accounts[0], line)}, 0.05)


class PushesNotifications(Enemy):
    """Changes are announced by a message of its own, without what changed."""

    def changed(self, account: Account) -> None:
        for line in self.lines:
            line.say({"mt": "AccountChanged", "account-guid": account.guid})


class HangsUpAfterEach(Enemy):
    def say(self, asked: Told, line: Line) -> None:
        super().say(asked, line)
        if line.questions % 3 == 0:
            line.out.append((0.0, 1000))


class TellsHugeAndDeep(Enemy):
    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        deep: Any = "Erika"
        for _ in range(300):
            deep = {"näme": [deep]}
        return told | {"info": account.info | {"memo": "Erika " * 2_000, "deep": deep, "Erika Mustermann": True}}


class TellsNullEverywhere(Enemy):
    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        return told | {"account-h323": None, "info": dict.fromkeys(account.info), "guid": None, "error": None}


class TellsEveryOtherInfo(Enemy):
    """With info and without, in turn."""

    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        if account.usn % 2:
            del told["info"]
        return told


# Changes


class DeletionIsAMessageOfItsOwn(Enemy):
    def delete(self, account: Account) -> None:
        super().delete(account)
        for line in self.lines:
            line.say({"mt": "AccountRemoved", "account-guid": account.guid})


class DeletionLeavesAHusk(Enemy):
    """The account stays in the list with another name, and without anything else in it."""

    def delete(self, account: Account) -> None:
        account.h323, account.dn, account.groups = "", "", []
        self.touch(account)

    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        return told if account.h323 else told | {"account-h323": "", "info": {"state": "gone"}}


class DeletionRenumbersAll(Enemy):
    def delete(self, account: Account) -> None:
        super().delete(account)
        for each in list(self.accounts):
            self.touch(each)


class TemplateTouchesNumbersAtRandom(Enemy):
    def act(self, name: str) -> None:
        if name == "template":
            for account in list(self.accounts):
                if account.usn % 2:
                    self.touch(account)
                else:
                    account.ausn += 3
        else:
            super().act(name)


class RebootForgetsNumbers(Enemy):
    """The guid stays and the numbers begin anew."""

    def act(self, name: str) -> None:
        super().act(name)
        if name == "reboot":
            for number, account in enumerate(self.accounts, 1):
                account.usn = number
            self.head = len(self.accounts)


PERSONS = ("Erika Mustermann", "4711205", "erika@acme.example", "acme.example", "0A1B2C3D4E5F60718293A4B5C6D7E8F9")
SECRETS = ("hunter2-s3cret",)


class PlantsPersons(Enemy):
    """It names persons, numbers and secrets wherever something can stand."""

    def introduce(self, line: Line) -> None:
        line.say({"mt": "PbxInfo", "domain": PERSONS[3], "pbx": PERSONS[0], "pbxDns": PERSONS[3], "apis": [*PERSONS]})

    def row(self, account: Account, line: Line) -> Told:
        told = super().row(account, line)
        planted: Told = {
            "dn": PERSONS[0],
            PERSONS[0]: {PERSONS[2]: int(PERSONS[1])},
            "text": f"call {PERSONS[1]} or {PERSONS[2]}",
            "coded": base64.b64encode(PERSONS[0].encode()).decode(),
            "url": f"https://{PERSONS[2]}:{SECRETS[0]}@{PERSONS[3]}/{PERSONS[1]}",
            "number": float(PERSONS[1]),
            "json": json.dumps({PERSONS[0]: [PERSONS[1]]}),
            "pwd": SECRETS[0],
            "memo": SECRETS[0],
            "list": [*PERSONS, *SECRETS],
        }
        return told | {"info": account.info | planted, "error": None, "note": PERSONS[0]}

    def end(self, line: Line, asked: Told) -> Told | None:
        return {"errorText": f"{PERSONS[0]} ({PERSONS[1]}, {PERSONS[2]}) has no more"}

    def say(self, asked: Told, line: Line) -> None:
        escaped = "".join(f"\\u{ord(character):04x}" for character in PERSONS[0])
        line.say({"mt": PERSONS[0], "src": f"acct-{PERSONS[1]}", "usn": PERSONS[1]})
        line.out += [(0.0, f'{{"mt":"Memo","to":"{escaped}","usn":{PERSONS[1]}}}'), (0.0, f'{{"mt":"{PERSONS[0]}')]
        line.out += [(0.0, PERSONS[0]), (0.0, f"[{PERSONS[1]}]")]
        super().say(asked, line)
