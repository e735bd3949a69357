"""What a user can put right: one clear line, and the exit status that goes with it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class Mistake(Exception):
    """Bad input. Its text is the one line that the user reads; the command exits with status 2."""


class Busy(Exception):
    """Another process holds what is asked for; the command exits with status 3."""


MANY = 100
"""more names than anyone reads in an error"""


def unknown(kind: str, name: str, known: Iterable[str]) -> Mistake:
    """There is no `kind` named `name`: says so, with the nearest valid name and the choice."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    there = f"There are: {', '.join(names)}." if len(names) <= MANY else f"`clbench list` names all {len(names)}."
    if not names:
        there = "There are none; is the project installed (pip install -e .)?"
    return Mistake(f"There is no {kind} named '{name}'.{guess} {there}")
