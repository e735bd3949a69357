"""Orders of concepts: all that tells one stream over the same concepts from another.

The names are those of FoMo-in-Flux (Roth et al. 2024, NeurIPS, Datasets and Benchmarks). How they put concepts in order
by scores, frequency, similarity and time was not at hand: the rules below are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clbench.captions import EMBEDDINGS
from clbench.errors import Mistake, unknown

Order = Literal["random", "dataset", "time", "similarity", "frequency", "performance", "loss"] | str


@dataclass(frozen=True)
class Concept:
    """A class of a data set."""

    dataset: str
    name: str
    label: int
    """among all concepts of the stream"""
    year: int = 0
    """of the data set's publication"""

    def __str__(self) -> str:
        return f"{self.dataset}+++{self.name}"


def chunks(count: int, tasks: int) -> list[int]:
    """Where so many tasks begin and end among `count` concepts: the first `count` mod `tasks` have one more.

    Raises:
        Mistake: there are fewer concepts than tasks.
    """
    if count < tasks:
        raise Mistake(f"stream.tasks={tasks}: there are {count} concepts, and a task needs one.")
    whole, rest = divmod(count, tasks)
    return [task * whole + min(task, rest) for task in range(tasks + 1)]


def listed(concepts: Sequence[Concept], file: Path) -> list[Concept]:
    """The concepts that a JSON list of `data set+++class` names, in its order.

    Raises:
        Mistake: it can't be read, names one twice, or one that is not there.
    """
    try:
        names = json.loads(file.expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Mistake(
            f"stream.order={file} is none of random, dataset, time, similarity, frequency, performance and loss, and "
            f"no JSON file that can be read ({error})."
        ) from None
    known = {str(concept): concept for concept in concepts}
    for name in names:
        if name not in known:
            raise unknown("concept to adapt to", str(name), known)
    if len(set(names)) < len(names):
        raise Mistake(f"{file} names a concept twice.")
    return [known[name] for name in names]


def scored(concepts: Sequence[Concept], kind: str, file: str) -> list[Concept]:
    """The easy ones first: those of the highest accuracy (performance) or of the lowest loss.

    Raises:
        Mistake: the file can't be read, or does not score all of them.
    """
    if not file:
        raise Mistake(
            f"stream.order={kind} needs a model's scores: stream.scores=FILE (python -m clbench.streams.scores)."
        )
    try:
        scores = json.loads(Path(file).expanduser().read_text("utf-8"))
        values = [scores[str(concept)][kind] for concept in concepts]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise Mistake(f"stream.scores={file} does not score every concept by {kind} ({error!r}).") from None
    signed = -np.array(values) if kind == "performance" else np.array(values)
    return [concepts[place] for place in np.argsort(signed, kind="stable")]


def frequent(concepts: Sequence[Concept], captions: Mapping[str, int]) -> list[Concept]:
    """The rare ones first: by how many of the pool's captions, each with its number of samples, name them."""

    def count(concept: Concept) -> int:
        words = re.compile(rf"\b{re.escape(concept.name.replace('_', ' '))}\b", re.IGNORECASE)
        return sum(number for caption, number in captions.items() if words.search(caption))

    return sorted(concepts, key=count)


def similar(concepts: Sequence[Concept], embedding: str, start: int) -> list[Concept]:
    """Neighbours have names of near meaning: a short path through all of them, from the one at `start`: each time to
    the nearest that is left, then parts turned round as long as that shortens it (2-opt, Croes 1958).
    """
    names = EMBEDDINGS[embedding]([concept.name.replace("_", " ") for concept in concepts])
    far = (1 - names @ names.T).numpy().astype(np.float64)
    path, left = [start], set(range(len(concepts))) - {start}
    while left:
        path.append(min(left, key=lambda place: (far[path[-1], place], place)))
        left.remove(path[-1])
    return [concepts[place] for place in shortened(path, far)]


def shortened(path: list[int], far: np.ndarray) -> list[int]:
    """An open path from its first place, no part of which turned round makes it shorter; `far`: N x N distances."""
    path, better = path[:], True
    while better:
        better = False
        for i in range(1, len(path) - 1):
            for j in range(i + 1, len(path)):
                after = path[j + 1] if j + 1 < len(path) else None
                now = far[path[i - 1], path[i]] + (0 if after is None else far[path[j], after])
                then = far[path[i - 1], path[j]] + (0 if after is None else far[path[i], after])
                if then < now - 1e-9:
                    path[i : j + 1] = path[i : j + 1][::-1]
                    better = True
    return path
