"""What operators want of a PBX, whichever bridge has it: done here, or wished for in the database and waited for."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from bridge.delivery.leaving import Retired
from bridge.errors import BridgeError, LeaseLost
from bridge.logs import get_logger
from bridge.model import AccountGuid, SourceName
from bridge.runtime.bridge import Bridge
from bridge.store.records import Forgotten, Parked
from bridge.store.sharing import Wish

ANSWER_SECONDS: Final = 25.0
"""For the bridge that has a PBX to find a wish and answer it; whoever asked waits for 30."""

LOOK_SECONDS: Final = 0.2

YIELD: Final = "yield"
"""The kind of a wish for a PBX that has dialled another bridge."""

log = get_logger(__name__)


class WishList(Protocol):
    """What is asked of the wishes in a store."""

    def ask(self, source: SourceName, kind: str, arguments: Mapping[str, Any]) -> int | None:
        """Want something of whoever has *source*, and return its number; ``None`` where there is no such source."""

    def answer_to(self, number: int) -> Mapping[str, Any] | None:
        """Return what became of a wish; ``None`` as long as nothing did."""

    def give_up(self, number: int) -> None:
        """Want it no more."""

    def answer(self, number: int, answer: Mapping[str, Any]) -> None:
        """Tell what became of a wish."""


class SteeredStore(Protocol):
    """What is asked of the store beside that."""

    @property
    def wishes(self) -> WishList:
        """What is wanted of holders."""

    def source_of_parked(self, position: int) -> SourceName | None:
        """Return whose event waits at *position* for an operator."""

    def claim(self, names: Sequence[SourceName]) -> Sequence[SourceName]:
        """Take these sources, as far as nobody has them, and return those that are ours now."""


class SharedSteering:
    """The ``Steered`` of ``ops.control_socket`` for a *bridge* that shares its PBXs with others."""

    def __init__(self, bridge: Bridge, store: SteeredStore) -> None:
        self._bridge = bridge
        self._store = store
        self.board = bridge.board
        self.alone = asyncio.Lock()
        """Held by whoever takes up or lets go of sources in several steps."""
        self.yield_to: Callable[[Wish], bool] = lambda _wish: False
        """Lets go of a PBX that has dialled another bridge; False where it has dialled this one since."""

    def __repr__(self) -> str:
        return f"<SharedSteering of {self._bridge}>"

    async def walk(self, name: SourceName, *, accept_deletions: bool) -> bool:
        """Walk a PBX from its start; False where there is none of that name."""
        return bool(await self._ask(name, "walk", accept_deletions=accept_deletions))

    async def pause(self, name: SourceName, reason: str) -> bool:
        """Read a PBX no more; False where there is none of that name."""
        return bool(await self._ask(name, "pause", reason=reason))

    async def resume(self, name: SourceName) -> bool:
        """Read a PBX again; False where there is none of that name, or it was not paused."""
        return bool(await self._ask(name, "resume"))

    async def admit(self, name: SourceName) -> bool:
        """Say yes to a new PBX that waits, or to what is odd about a known one; False where there is none like that."""
        return await self._bridge.admit(name)

    async def forget(self, guid: AccountGuid) -> Forgotten:
        """Take the personal data of an account out of the store, unless events of it are to be sent yet."""
        return await self._bridge.forget(guid)

    async def parked(self) -> Sequence[Parked]:
        """Return the events that the broker refused for good, of all PBXs."""
        return await self._bridge.parked()

    async def retire(self, name: SourceName, *, tells_deletions: bool) -> Retired:
        """Let go of a PBX that no bridge follows; raises ``BridgeError`` with the reason why that cannot be."""
        if name in self._bridge.dialled:
            raise BridgeError(f"{name} is followed. Take it out of the configuration first: account-bridge reload")
        if name in self._bridge.board.sources:
            raise BridgeError(f"{name} is followed, since it dials")
        # Otherwise what was just taken, and has nothing to send, would be given back before it is retired.
        async with self.alone:
            return await self._retire(name, tells_deletions=tells_deletions)

    async def _retire(self, name: SourceName, *, tells_deletions: bool) -> Retired:
        claimed = await self._bridge.offload(self._store.claim, [name])
        if not claimed and self.board.cluster is not None and (holder := self.board.cluster.holders.get(name)):
            raise BridgeError(
                f"{name} is followed by another bridge ({holder}): take it out of its configuration first"
            )
        done = await self._bridge.retire(name, tells_deletions=tells_deletions)
        if claimed:
            self._bridge.sinks.take_up(name)  # it is given back once all of it is sent
        return done

    async def retry(self, position: int) -> bool:
        """Send a parked event once more; False where there is none at *position*."""
        source = await self._bridge.offload(self._store.source_of_parked, position)
        return source is not None and bool(await self._ask(source, "retry", position=position))

    async def discard(self, position: int, reason: str) -> bool:
        """Never send a parked event; False where there is none at *position*."""
        source = await self._bridge.offload(self._store.source_of_parked, position)
        return source is not None and bool(await self._ask(source, "discard", position=position, reason=reason))

    async def grant(self, wish: Wish) -> None:
        """Do what somebody wants of a PBX that is ours, and tell what came of it.

        Where it turns out not to be ours any more, whoever has it finds the same wish.
        """
        answer: dict[str, Any]
        try:
            if wish.kind == YIELD:
                answer = {"done": self.yield_to(wish)}
            else:
                answer = {"done": await self._do(wish.source, wish.kind, wish.arguments)}
        except LeaseLost:
            return
        except BridgeError as problem:
            answer = {"refused": str(problem)}
        except Exception as problem:  # otherwise it would end this bridge, and every other that has the PBX next
            log.exception("wish.failed", source=wish.source, kind=wish.kind)
            answer = {"refused": f"this version of the bridge cannot do that ({type(problem).__name__})"}
        log.info("wish.answered", source=wish.source, kind=wish.kind, **answer)
        await self._bridge.offload(self._store.wishes.answer, wish.number, answer)

    async def _ask(self, name: SourceName, kind: str, **arguments: Any) -> Any:
        if name in self._bridge.board.sources:
            return await self._do(name, kind, arguments)
        number = await self._bridge.offload(self._store.wishes.ask, name, kind, arguments)
        if number is None:
            if name in self._bridge.dialled:
                raise BridgeError(
                    f"no bridge has had {name} yet, so nobody can do that: account-bridge status says why"
                )
            return False
        until = asyncio.get_running_loop().time() + ANSWER_SECONDS
        while asyncio.get_running_loop().time() < until:
            answer = await self._bridge.offload(self._store.wishes.answer_to, number)
            if answer is not None:
                if "refused" in answer:
                    raise BridgeError(answer["refused"])
                return answer["done"]
            await asyncio.sleep(LOOK_SECONDS)
        await self._bridge.offload(self._store.wishes.give_up, number)
        words = "What was not begun by now is not done later, either"
        raise BridgeError(f"no bridge that has {name} answered within {ANSWER_SECONDS:g} s. {words}")

    async def _do(self, name: SourceName, kind: str, arguments: Mapping[str, Any]) -> Any:
        match kind:
            case "walk":
                return self._bridge.resync(name, accept_deletions=bool(arguments["accept_deletions"]))
            case "pause":
                return await self._bridge.pause(name, str(arguments["reason"]))
            case "resume":
                return await self._bridge.resume(name)
            case "retry":
                return await self._bridge.retry(int(arguments["position"]))
            case "discard":
                return await self._bridge.discard(int(arguments["position"]), str(arguments["reason"]))
            case _:
                raise BridgeError(f"this version of the bridge does not know how to {kind} a PBX")
