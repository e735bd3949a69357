"""Models of code: what comes next, given the tokens so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clbench.errors import Mistake
from clbench.models import by, with_head
from clbench.types import Count

if TYPE_CHECKING:
    from torch import nn


@dataclass
class HashedContext:
    """Hashed n-grams of the last tokens, embedded, summed and normalised; a linear head. Learns in seconds.

    Features are each token, each token with its distance (the last `near` ones), and each pair of neighbours, hashed
    into one table of vectors (the hashing trick, Weinberger et al. 2009, "Feature hashing for large scale multitask
    learning", ICML; n-grams as of fastText, Joulin et al. 2017). Ours in this form.
    """

    width: Count = 96
    """numbers of a feature"""
    table: Count = 2**14
    """rows of the table"""
    near: Count = 8
    """last tokens whose distance counts"""

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for sequences of token numbers (T)."""
        if len(shape) != 1:
            raise Mistake(f"model=hashed_context takes sequences of tokens; the stream's samples are {by(shape)}.")
        from clbench.token_hashing import HashedGrams

        return with_head(HashedGrams(self.width, self.table, self.near), self.width, classes)
