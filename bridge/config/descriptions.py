"""What every setting is for: the text under it in the class of its table.

It is read when it is asked for. Pydantic would read it whenever the tables are loaded (``use_attribute_docstrings``):
260 of the 3022 million instructions that ``run`` needs to be loaded.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.config.base import Table


@cache
def describe(table: type[BaseModel]) -> Mapping[str, str]:
    """Return what each setting of *table* is for, inherited ones too; nothing where there is no source to read."""
    found: dict[str, str] = {}
    for each in reversed(table.__mro__):
        if issubclass(each, Table):
            found |= _texts(each)
    return found


def tables_of(field: FieldInfo) -> list[type[BaseModel]]:
    """Return the tables that stand behind *field*, be it one, a list of them, or one that may be missing."""
    candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]


def tables_below(table: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield *table* and all that stand in it."""
    yield table
    for field in table.model_fields.values():
        for inner in tables_of(field):
            yield from tables_below(inner)


def _texts(table: type[Table]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    try:
        source = inspect.getsource(table)
    except (OSError, TypeError):  # only what was compiled is installed: nobody is told, and all else works
        return found
    for setting, text in pairwise(cast("ast.ClassDef", ast.parse(source).body[0]).body):
        match setting, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = inspect.cleandoc(words)
            case _:
                pass  # a method, or something private
    return found
