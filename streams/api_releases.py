"""True evolution: releases of libraries in the order of time, and what of their APIs is new, lives on, or is gone.

Ours, in the spirit of Weyssow et al. 2023 (FSE; see api_evolution), whose stream goes from one domain to another and
whose title speaks of evolving APIs: here the libraries stay, and change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from clbench.code import Code
from clbench.errors import Mistake
from clbench.streams.calls import RECIPES as OF_CALLS
from clbench.streams.calls import Calls, importer
from clbench.streams.samples import Paper
from clbench.types import Count, Share


@dataclass
class Releases(Calls):
    """Each experience teaches what is new in one release of some libraries: the calls within functions that no earlier
    release has in this form (compared as syntax trees: a change of layout is none).

    The k-th package of a name is its k-th release. Three kinds of exam, over functions in test files: `new k`, calls
    of APIs that release k is the first to use; `lives`, calls within functions of the first release of APIs that all
    releases use; `gone k`, calls of APIs that were used before and from release k on no more, by names that nothing in
    release k is called by. `gone k` counts until then (`Exam.until`): a model of today's libraries should forget it.
    """

    packages: Literal["installed", "pinned", "releases"] | list[str] = "releases"
    """whose code: `releases`, four releases of four libraries, wheels that pip brings by their hashes; or a list, with
    the releases of each library in order"""
    test_share: Share = 0.25
    """of the files, that are for exams"""
    first: Count | None = 16000
    """calls that the first release teaches at the most, where `samples` is of those after it; null: all"""
    rare: Count = 2
    """of `form=call`: how often a name must be called in training to be a label"""
    of_one: Count | None = 10
    """calls of one API in an exam at the most, the first ones; null: all"""

    SCENARIO: ClassVar[str] = "API evolution, releases"

    def _plan(self, code: Code) -> tuple[list[np.ndarray], list[Paper]]:
        names = [origin["name"] for origin in code.origins]
        release = np.array([names[:place].count(name) for place, name in enumerate(names)])
        if len({names.count(name) for name in names}) > 1 or release.max() == 0:
            raise Mistake(
                "stream=api_releases needs two or more releases of each library, as many of each; there are "
                + ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(names))
                + "."
            )
        function, api = code.sites[:, 0], code.sites[:, 1]
        when, count = release[code.origin][function], release.max() + 1
        ours = np.isin(code.called()[api], np.unique(importer(code)))
        used = np.zeros((count, len(code.apis)), bool)
        used[when[ours], api[ours]] = True
        called = np.unique(code.names(), return_inverse=True)[1]
        borne = np.zeros((count, called.max() + 1), bool)
        borne[when[ours], called[api[ours]]] = True
        taught, asked = (ours & kept[function] for kept in (code.train, code.test))
        debut, throughout = used.argmax(0), np.logical_and.reduce(used)
        lessons = [np.flatnonzero(taught & (when == k)) for k in range(count)]
        papers = [Paper("lives", np.flatnonzero(asked & (when == 0) & throughout[api]), 0)]
        for k in range(1, count):
            fresh = asked & (when == k) & (debut == k)[api]
            papers.append(Paper(f"new {k}", np.flatnonzero(fresh), k))
        for k in range(1, count):
            over = used[k - 1] & ~used[k:].any(0) & ~borne[k][called]
            papers.append(Paper(f"gone {k}", np.flatnonzero(asked & (when < k) & over[api]), k - 1, k))
        return lessons, [paper._replace(sites=self._spread(api, paper.sites)) for paper in papers]

    def _spread(self, api: np.ndarray, sites: np.ndarray) -> np.ndarray:
        """Of the calls of an exam, so many of each API at the most."""
        order = np.argsort(api[sites], kind="stable")
        called = api[sites][order]
        rank = np.arange(len(order)) - np.searchsorted(called, called)
        return np.sort(sites[order[rank < (self.of_one or len(sites))]])

    def _counts(self, lessons: int) -> list[int | None]:
        return [self.first, *[self.samples] * (lessons - 1)]

    def protocol(self) -> dict[str, Any]:
        few = {"calls of the first release": self.first, "calls of one API in an exam": self.of_one}
        return {**super().protocol(), **few}


RELEASE_STREAM = Releases()
"""calls within four releases of four libraries, one after another"""
RECIPES = {"api_releases": OF_CALLS}
