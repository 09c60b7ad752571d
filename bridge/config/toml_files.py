"""A TOML file, read with a sentence for whatever can be wrong with it as a whole."""

import tomllib
from pathlib import Path
from typing import Any

from bridge.errors import BadConfig


def read_toml(file: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of *file*, and the tables in it.

    Raises:
        BadConfig: it cannot be read, or is not TOML.

    """
    try:
        text = file.read_text("utf-8-sig")
        return text, tomllib.loads(text)
    except OSError as problem:
        raise BadConfig(f"the configuration {file} cannot be read: {problem.strerror}") from problem
    except UnicodeDecodeError as problem:
        raise BadConfig(f"the configuration {file} is not UTF-8 text") from problem
    except tomllib.TOMLDecodeError as problem:
        raise BadConfig(f"the configuration {file} is not TOML: {problem}") from problem
    except (ValueError, RecursionError) as problem:  # a number of thousands of digits, a list in a list in a list …
        raise BadConfig(f"the configuration {file} cannot be read: it is no TOML that anybody would write") from problem
