"""Names and what they stand for: streams, strategies, metrics and models, ours and those of plug-ins.

The wings of clbench are the first plug-in: they are found through entry points, exactly as anyone else's are. A
catalogue maps a name to `module:attribute` (a dataclass, or an instance with values of its own) or to the thing itself.
Reading names imports no torch; the thing is imported when it is chosen.
"""

from __future__ import annotations

import sys
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import get_annotations
from typing import Any

from clbench.errors import Mistake, unknown

KINDS = {"stream": "streams", "strategy": "strategies", "metric": "metrics", "model": "models"}


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


@cache
def names(kind: str) -> dict[str, object]:
    """The catalogue of a kind: name to reference."""
    found: dict[str, tuple[str, object]] = {}
    for entry in sorted(entry_points(group=f"clbench.{KINDS[kind]}"), key=lambda e: (e.name != "builtin", e.name)):
        try:
            brought = entry.load().items()
        except Exception as error:
            raise Mistake(f"The plug-in {_distribution(entry)} ({entry.value}) can't be read: {error}.") from None
        for name, reference in brought:
            if name in found:
                raise Mistake(
                    f"Two plug-ins bring a {kind} named '{name}': {found[name][0]} and {_distribution(entry)}. "
                    "Uninstall one, or ask its author for another name."
                )
            found[name] = (_distribution(entry), reference)
    return {name: reference for name, (_, reference) in found.items()}


def resolve(kind: str, name: str) -> Any:
    """The class or instance that `name` stands for.

    Raises:
        Mistake: no plug-in brings that name, what it stands for can't be imported, or a class has fields that
            no `@dataclass` makes options.
    """
    catalogue = names(kind)
    if name not in catalogue:
        raise unknown(kind, name, catalogue)
    reference = catalogue[name]
    found = _imported(kind, name, reference) if isinstance(reference, str) else reference
    if isinstance(found, type) and is_dataclass(found) and "__dataclass_fields__" not in vars(found):
        where = f"The {kind} '{name}' ({found.__module__}:{found.__qualname__})"
        if "__init__" in vars(found):
            raise Mistake(f"{where} has an __init__ of its own; options are the fields of a @dataclass.")
        for option in (name for name, of in get_annotations(found).items() if "ClassVar" not in str(of)):
            raise Mistake(f"{where} lacks @dataclass, without which {option} is no option.")
    return found


def _imported(kind: str, name: str, reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise Mistake(f"The {kind} '{name}' can't be imported from {reference}: {error}.") from error


def home(kind: str, name: str) -> Any:
    """The module in which an entry is written down: its recipes and presets stand there."""
    reference = names(kind)[name]
    if isinstance(reference, str):
        return import_module(reference.partition(":")[0])
    owner = reference if isinstance(reference, type) else type(reference)
    return sys.modules[owner.__module__]
