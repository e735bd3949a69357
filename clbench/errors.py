"""What a user can put right: one clear line, and the exit status that goes with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class Mistake(Exception):
    """Bad input. Its text is the one line that the user reads; the command exits with status 2."""


class Busy(Exception):
    """Another process holds what is asked for; the command exits with status 3."""


MANY = 100
"""more names than anyone reads in an error"""


def unknown(kind: str, name: str, known: Iterable[str], elsewhere: Sequence[str] = ()) -> Mistake:
    """There is no `kind` named `name`: says so, with the nearest valid names and the choice.

    Args:
        elsewhere: names that it has in other places, which are then meant rather than a similar one here.
    """
    names = sorted(known)
    guess = " or ".join(f"'{one}'" for one in elsewhere or near(name, names))
    meant = f" Did you mean {guess}?" if guess else ""
    there = f"There are: {', '.join(names)}." if len(names) <= MANY else f"`clbench list` names all {len(names)}."
    if not names:
        there = "There are none; is the project installed (pip install -e .)?"
    return Mistake(f"There is no {kind} named '{name}'.{meant} {there}")


def near(name: str, names: Sequence[str]) -> list[str]:
    """Those of some names that a misspelt one may stand for: without its group (`forgetting`), as papers have it
    (`DER++`), or with a slip.
    """
    word = name.casefold().replace("+", "p").replace("-", "_")
    folded = {one.casefold(): one for one in names}
    ends = [one for text, one in folded.items() if text.rpartition("/")[2] == word]
    return ends or [folded[text] for text in get_close_matches(word, folded, n=1)]
