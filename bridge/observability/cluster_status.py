"""How the bridges are doing that share their PBXs, as one of them sees it in the database."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

WITHOUT_BRIDGE_SECONDS: Final = 60.0
"""A PBX that no bridge has for so long is told: a take-over needs no more than its lease and a few seconds."""

MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A bridge that lives."""

    name: str
    """Its host and process."""
    life: str
    held: int
    """How many PBXs it has."""
    age_seconds: float
    is_ready: bool
    """False while it takes no PBXs yet."""


@dataclass(slots=True)
class ClusterStatus:
    """What one bridge knows of all."""

    life: str = ""
    """Of this one; another one after it was taken to be dead."""
    is_leased: bool = False
    """False while other bridges may have what is ours."""
    is_waiting: bool = False
    """True before the store was compared with the log at a start: until then this bridge takes no PBX."""
    peers: Sequence[PeerStatus] = ()
    """Who lives, this one included."""
    holders: Mapping[str, str] = field(default_factory=dict)
    """By PBX: the name of the bridge that has it; empty where none has."""
    configured: int = 0
    """PBXs that this one is configured for."""
    without_bridge: Mapping[str, float] = field(default_factory=dict)
    """PBXs of these that no bridge has, and for how many seconds."""
    taken_over: int = 0
    """PBXs taken from bridges that did not let go of them, since the start of this one."""
    buried: int = 0
    """Bridges that this one took to be dead, since its start."""

    def sentence(self) -> str:
        """Return what a person wants to know first."""
        if self.is_waiting:
            return f"This bridge takes none of its {self.configured} PBXs yet."
        own = sum(peer.held for peer in self.peers if peer.life == self.life)
        shares = ", ".join(f"{peer.name}: {peer.held}" for peer in self.peers)
        return f"This bridge has {own} of {self.configured} PBXs. {len(self.peers)} bridges share them ({shares})."

    def troubles(self) -> Iterator[str]:
        """Yield sentences about what is not as it should be."""
        if self.is_waiting:
            yield (
                "This bridge waits for the broker, whose log has to be compared with the store before it takes any PBX"
            )
        elif not self.is_leased:
            yield (
                "Other bridges may have the PBXs of this one: it could not say in time that it lives. It goes on as "
                "soon as the database answers"
            )
        late = [name for name, seconds in self.without_bridge.items() if seconds > WITHOUT_BRIDGE_SECONDS]
        if late:
            more = f" and {len(late) - MOST_NAMED} more" if len(late) > MOST_NAMED else ""
            yield (
                f"No bridge has {', '.join(late[:MOST_NAMED])}{more}: their changes wait at the PBX. Is a bridge "
                "running whose configuration names them?"
            )
