"""Models of code: which call comes next, or which token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clbench.errors import Mistake
from clbench.models import by, with_head
from clbench.pretrained import WEIGHTS, Pretrained
from clbench.types import Count, Natural, Positive, Share

if TYPE_CHECKING:
    from torch import nn

    from clbench.stream import Stream


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
        sequence(shape, "hashed_context")
        from clbench.token_hashing import HashedGrams

        return with_head(HashedGrams(self.width, self.table, self.near), self.width, classes)


class OfTokens(Pretrained):
    """What language models have in common: they predict the next token at each place, of a stream's `form=code`."""

    @property
    def own_input(self) -> bool:
        return False

    def check(self, stream: Stream) -> None:
        """Whether the model can learn from an opened stream.

        Raises:
            Mistake: the stream is not of tokens.
        """
        if not stream.syllabus().places:
            raise Mistake("A language model predicts tokens: it needs stream.form=code of a stream of code.")


@dataclass
class GPT(OfTokens):
    """A small GPT-2 (Radford et al. 2019) of transformers, pretrained once on code that calls no domain of the stream.

    With the defaults 3 million weights. What it learns from is the stream's own: leave `packages`, `test_share` and the
    vocabulary as the stream has them. Weights are kept in a cache by all that decides them.
    """

    layers: Count = 3
    """blocks"""
    heads: Count = 4
    """of each block's attention"""
    width: Count = 192
    """numbers for each token; a multiple of `heads`"""
    steps: Natural = 5000
    """of pretraining; 0: random weights"""
    batch: Count = 16
    """blocks in a step of pretraining"""
    lr: Positive = 0.001
    """highest rate of pretraining, reached after a twentieth of the steps, then half a cosine"""
    context: Count = 128
    """tokens of a block of pretraining; the stream's at the most"""
    packages: Literal["installed", "pinned", "releases"] | list[str] = "installed"
    """whose code it is pretrained on: the stream's"""
    test_share: Share = 0.1
    """of the files, that it is not shown: the stream's"""
    vocabulary: Count = 4096
    """tokens: the stream's"""

    @property
    def offers(self) -> frozenset[str]:
        return WEIGHTS if self.steps else frozenset()

    @cached_property
    def _source(self) -> Path:
        from clbench.code_tokens import pool

        return pool(self.packages, self.test_share, self.vocabulary)

    def checksums(self) -> dict[str, str]:
        """What decides the weights, which need not be there: a run is checked before any are learned."""
        from clbench.code_pretraining import content

        return {"gpt": content(self._options(), self._source)} if self.steps else {}

    @property
    def file(self) -> Path | None:
        """Where the weights lie; they are learned where they are not there yet."""
        if not self.steps:
            return None
        from clbench.code_pretraining import pretrained

        return pretrained(self._options(), self._source)

    def _options(self) -> dict[str, Any]:
        names = ("layers", "heads", "width", "steps", "batch", "lr", "context", "vocabulary")
        return {name: getattr(self, name) for name in names}

    def check(self, stream: Stream) -> None:
        """Raises: Mistake: the stream is not of tokens, or of other tokens than the weights."""
        super().check(stream)
        from clbench.datasets import sha256

        theirs, ours = stream.protocol()["tokenizer content"], sha256(self._source / "tokenizer.json")[:12]
        if self.steps and theirs != ours:
            raise Mistake(
                "The model is pretrained on other tokens than the stream's: give model.packages, model.test_share and "
                "model.vocabulary the stream's values."
            )

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for blocks of tokens (T).

        Raises:
            Mistake: they are longer than those of pretraining, or transformers is not installed.
        """
        length = sequence(shape, "gpt")
        if self.steps and length != self.context:
            raise Mistake(f"model.context={self.context} must be the stream's, {length}, where there is pretraining.")
        if self.steps and classes != self.vocabulary:
            raise Mistake(f"model.vocabulary={self.vocabulary} must be the stream's, {classes}.")
        from clbench.backbones import tensors
        from clbench.code_pretraining import gpt

        model = gpt(self.layers, self.heads, self.width, length, classes)
        if self.file is not None:
            model.load_state_dict(tensors(self.file))
        return model


@dataclass
class HuggingFace(OfTokens):
    """A causal language model of Hugging Face, by its name or folder; `model=huggingface:NAME` is short for it.

    The stream's tokens must be its own: `stream.tokenizer=NAME`. Such a model has seen public code, the packages of the
    stream most likely too: no API is new to it, and its scores are no measure of what it learned here.
    """

    name: str
    """as in `AutoModelForCausalLM.from_pretrained`"""

    @property
    def offers(self) -> frozenset[str]:
        return WEIGHTS

    def check(self, stream: Stream) -> None:
        """Raises: Mistake: the stream is not of this model's tokens."""
        super().check(stream)
        from clbench.code_tokens import published

        if stream.protocol()["tokenizer content"] != published(self.name).content[:12]:
            raise Mistake(f"The stream's tokens are not those of '{self.name}': set stream.tokenizer={self.name}.")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The model for blocks of its own tokens (T).

        Raises:
            Mistake: transformers is not installed, or there is no such model.
        """
        sequence(shape, "huggingface")
        from clbench.code_pretraining import published

        return published(self.name, classes)


def sequence(shape: Sequence[int], model: str) -> int:
    """The length of an input of tokens."""
    if len(shape) != 1:
        raise Mistake(f"model={model} takes sequences of tokens; the stream's samples are {by(tuple(shape))}.")
    return shape[0]
