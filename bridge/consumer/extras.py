"""A package that only an extra installs, and that is not there: which one, and what installs it."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def from_extra(extra: str) -> Iterator[None]:
    """Import inside; what is missing is said with the command that installs it.

    Raises:
        ModuleNotFoundError: a package of *extra* is not installed.

    """
    try:
        yield
    except ModuleNotFoundError as problem:
        words = f"{problem.msg}: this needs the extra {extra!r}, pip install 'pbx-account-bridge[{extra}]'"
        raise ModuleNotFoundError(words, name=problem.name) from problem
