"""What is said of the fields of a dataclass, which are its options: their defaults, and the words under them."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import MISSING, Field, is_dataclass
from typing import Any


def default_of(thing: Any, option: Field[Any]) -> Any:
    """What a field of a class, or of an instance in a catalogue, is where it is not set; MISSING: it must be set."""
    if not isinstance(thing, type):
        return getattr(thing, option.name)
    return option.default if option.default_factory is MISSING else option.default_factory()


def documentation(kind: type) -> dict[str, str]:
    """What stands under each field of a dataclass, inherited fields included."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not is_dataclass(owner) or owner.__module__ == "builtins":
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError):
            continue
        body = tree.body[0].body  # type: ignore[attr-defined]
        for statement, after in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = " ".join(after.value.value.split())
    return found
