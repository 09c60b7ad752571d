"""How a run ends that cannot go on."""


class ChaosError(Exception):
    """A sentence that says why."""


class StandstillError(ChaosError):
    """A part of ours ended, or let nothing through although everything was well again: that is a broken promise."""


class CannotRunError(ChaosError):
    """The fault lies with what the run needs, not with the bridge."""
