"""Code whose libraries change: which call comes next, where each experience brings APIs that were not taught before.

After Weyssow, Zhou, Kim, Lo and Sahraoui 2023 ("On the Usage of Continual Learning for Out-of-Distribution
Generalization in Pre-trained Language Models of Code", FSE): a model of code meets one domain of APIs after another,
and is asked for calls of each. What differs here, and why: Python packages, read as they are installed or from pinned
wheels, in place of Java methods from GitHub, so that the stream can be made anywhere without a network; splits by
file, and near copies dropped, where theirs splits rows at random; and a second stream, of true releases
(api_releases). The whole protocol is in docs/streams.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from clbench.code import Code
from clbench.code_tokens import DOMAINS, domains_of
from clbench.errors import Mistake, unknown
from clbench.streams.calls import RECIPES as OF_CALLS
from clbench.streams.calls import Calls, importer
from clbench.streams.samples import Paper


@dataclass
class Domains(Calls):
    """Each experience teaches the calls of one domain of APIs, found in code of other packages than their own.

    Of functions that call more than one domain none is taken, so that no lesson shows another's APIs.
    """

    domains: tuple[str, ...] = ("language", "system", "numeric", "tensors", "services")
    """which, in order"""
    own: bool = False
    """true: also the calls that a package makes to itself, whose names are many and rare"""

    SCENARIO: ClassVar[str] = "API evolution, domains"

    def _plan(self, code: Code) -> tuple[list[np.ndarray], list[Paper]]:
        for name in self.domains:
            if name not in DOMAINS:
                raise unknown("domain of APIs", name, DOMAINS)
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise Mistake("stream.domains must list one or more domains, each once.")
        function, domain = code.sites[:, 0], domains_of(code)
        single = np.zeros((len(code.train), len(DOMAINS)), bool)
        single[function[domain >= 0], domain[domain >= 0]] = True
        alone = (single.sum(1) == 1)[function]
        foreign = alone if self.own else alone & (code.called()[code.sites[:, 1]] != importer(code)[function])
        lessons, papers = [], []
        for number, name in enumerate(self.domains):
            here = foreign & (domain == list(DOMAINS).index(name))
            lessons.append(np.flatnonzero(here & code.train[function]))
            papers.append(Paper(name, np.flatnonzero(here & code.test[function]), number))
            if not len(lessons[-1]) or not len(papers[-1].sites):
                raise Mistake(f"The code has no calls of the domain '{name}' in both training and test files.")
        return lessons, papers

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "domains": ", ".join(self.domains), "calls of a package to itself": self.own}


DOMAIN_STREAM = Domains()
"""calls of five domains of Python APIs, one after another"""
RECIPES = {"api_evolution": OF_CALLS}
