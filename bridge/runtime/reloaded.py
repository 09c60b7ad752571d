"""What came of reading the configuration again, for whoever asked for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of it."""

    added: Sequence[str] = ()
    """PBXs that are followed from now on."""
    removed: Sequence[str] = ()
    """PBXs that are followed no more."""
    changed: Sequence[str] = ()
    """PBXs that are connected anew, as they are configured now."""
    unusable: Sequence[str] = ()
    """Sentences about files in ``fleet.pbx_dir`` with a mistake: their PBXs go on as they were, new ones are none."""
    needs_restart: Sequence[str] = ()
    """Keys that say something else than when the bridge was started, and count at the next start only."""

    def sentences(self) -> Iterator[str]:
        """Yield what a person wants to know."""
        for what, names in (("added", self.added), ("removed", self.removed), ("changed", self.changed)):
            if names:
                yield f"{what}: {', '.join(names)}"
        yield from (f"not taken over: {words}" for words in self.unusable)
        if not (self.added or self.removed or self.changed):
            yield "no PBX was added, removed or changed"
        if self.needs_restart:
            yield f"changed, and needs a restart of the bridge: {', '.join(self.needs_restart)}"
