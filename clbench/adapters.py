"""Small weights beside those of a network that stands still: LoRA, bottleneck adapters, scale and shift, prompts,
masks.

A module **grows**: in place it becomes an instance of a subclass of what it was, with new weights beside its own, as
torch's parametrisations do it. So the names of all weights stay (`blocks.0.attn.qkv.weight` has
`blocks.0.attn.qkv.lora_a` beside it), a deep copy is whole, a second kind can grow on the first, and `forward` changes
nothing. Each function below grows modules of a model and returns the names of the new weights. Which of them train is
`freeze`'s business; the values of several tasks' adapters are put in by `clbench.modules.swapped`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from clbench.errors import Mistake

FEED_FORWARD = r"blocks\.\d+\.mlp\.fc[12]"
"""both linear layers of every block's feed-forward part"""
QKV = r"blocks\.\d+\.attn\.qkv"
"""the fused query, key and value of every block"""


def transformer(model: nn.Module) -> Any:
    """The model's body, which must be a vision transformer as timm makes them.

    Raises:
        Mistake: it is none.
    """
    body = getattr(model, "body", model)
    blocks = getattr(body, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not all(_is_block(block) for block in blocks):
        raise Mistake(
            "This needs a vision transformer with its plain blocks (model=vit_t6, model=vit, model=timm:vit_…), "
            f"which {type(body).__name__} is not."
        )
    return body


def _is_block(block: nn.Module) -> bool:
    attention = getattr(block, "attn", None)
    return isinstance(getattr(attention, "qkv", None), nn.Linear) and hasattr(block, "mlp")


def freeze(model: nn.Module, but: Collection[str]) -> None:
    """From here on, of the model's parameters only those train whose name is in `but` or begins with one of it that
    ends in a dot (`head.`).
    """
    stems = tuple(name for name in but if name.endswith("."))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in but or name.startswith(stems))


def trainable(model: nn.Module) -> int:
    """How many numbers train."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def lora(
    model: nn.Module,
    pattern: str,
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    parts: Sequence[int] | None = None,
    slope: float = math.sqrt(5),
    seed: int = 0,
) -> list[str]:
    """Low-rank adaptation (Hu et al. 2022, LoRA, ICLR): a linear layer answers W x + b + (alpha / rank) B A drop(x).

    B begins at zero, so that nothing changes at first; A as He et al. 2015 draw for a leaky slope.

    Args:
        pattern: of the paths of linear layers within the body, a regular expression that must match all of a path.
        alpha: null: `rank`, a factor of 1.
        parts: which thirds of a fused query, key and value adapt, each with an A and a B of its own; 0 and 2: query and
            value. None: the layer as a whole.
        slope: of the draw of A.
        seed: of the draw.

    Raises:
        Mistake: no linear layer matches.
    """
    rng = torch.Generator().manual_seed(seed)
    factor = (rank if alpha is None else alpha) / rank
    return _grow(model, pattern, nn.Linear, LowRank, rank, factor, dropout, tuple(parts or ()), slope, rng)


def bottleneck(model: nn.Module, rank: int, *, factor: float = 0.1, dropout: float = 0.1, seed: int = 0) -> list[str]:
    """Parallel adapters of AdaptFormer (Chen et al. 2022, NeurIPS) in every block, beside the feed-forward part.

    x + MLP(LN(x)) + factor * Up(drop(ReLU(Down(x)))): the adapter sees x before its normalisation. Up begins at zero.
    """
    rng = torch.Generator().manual_seed(seed)
    transformer(model)
    return _grow(model, r"blocks\.\d+", nn.Module, Adapted, rank, factor, dropout, rng)


def scale_shift(model: nn.Module, pattern: str | None = None, *, deviation: float = 0.02, seed: int = 0) -> list[str]:
    """Scale and shift (Lian et al. 2022, SSF, NeurIPS): what a module gives is multiplied and moved by channel.

    Args:
        pattern: of the paths of linear layers, convolutions and normalisations; None: those of a transformer that the
            paper names, after the patches' projection, in each block after both normalisations, qkv, proj, fc1 and
            fc2, and after the last normalisation.
        deviation: of the normal draws around 1 and 0.
    """
    rng = torch.Generator().manual_seed(seed)
    if pattern is None:
        transformer(model)
        pattern = r"patch_embed\.proj|norm|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])"
    return _grow(model, pattern, nn.Module, Scaled, deviation, rng)


def masks(model: nn.Module, pattern: str, *, start: float = 0.01, threshold: float = 0.005) -> list[str]:
    """Binary masks of the weights of linear layers, each by a real number that trains: 1 where that is above the
    threshold, else 0, with the gradient passed straight through (Mallya et al. 2018, Piggyback, ECCV).

    Args:
        start: of all these numbers; above the threshold nothing is masked at first.
    """
    return _grow(model, pattern, nn.Linear, Gated, start, threshold)


def prompts(model: nn.Module, length: int, *, deep: bool = True) -> list[str]:
    """Visual prompts (Jia et al. 2022, VPT, ECCV): `length` tokens at the end of the sequence, zeros at first.

    deep: new ones for each block, taken away after it; else one set, from the first block to the last.
    """
    body = transformer(model)
    return _grow(model, r"blocks\.\d+" if deep else "blocks", nn.Module, Prompted, length, body.embed_dim)


def prefixes(model: nn.Module, blocks: Collection[int]) -> None:
    """Let the attention of these blocks (from 0) take prefixes, which `prefixed` gives them. There are no weights."""
    transformer(model)
    _grow(model, rf"blocks\.({'|'.join(map(str, sorted(blocks)))})\.attn", nn.Module, Prefixed)


@contextmanager
def prefixed(model: nn.Module, pairs: Mapping[int, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Within it, the attention of a block sees further keys and values, each B x length x width (Li and Liang 2021,
    Prefix-Tuning, ACL).

    They take no part in the projection of what is attended to, and have no positions.
    """
    chosen = [transformer(model).blocks[number].attn for number in pairs]
    try:
        for attention, pair in zip(chosen, pairs.values(), strict=True):
            attention.prefix = pair
        yield
    finally:
        for attention in chosen:
            attention.prefix = None


def tokens(model: nn.Module) -> None:
    """Let the network take further tokens, which `inserted` gives it. There are no weights."""
    transformer(model)
    _grow(model, "", nn.Module, Inserted)


@contextmanager
def inserted(model: nn.Module, more: Tensor) -> Iterator[None]:
    """Within it, the network sees these tokens, B x length x width, before the patches, and its features are the mean
    of what it makes of them (Wang et al. 2022, L2P, CVPR).

    Each has the position of the class token, where there is one, as in the method's PyTorch code.
    """
    body = transformer(model)
    try:
        body.tokens = more
        yield
    finally:
        body.tokens = None


def merge(model: nn.Module) -> None:
    """Add what LoRA has learned to the weights that stand still: W <- W + (alpha / rank) B A. A and B stay; `reset`
    makes them anew.
    """
    with torch.no_grad():
        for module in _grown(model, LowRank):
            module.weight += module.difference()


def reset(model: nn.Module, seed: int = 0) -> None:
    """LoRA as at its beginning: A drawn afresh, B zero."""
    rng = torch.Generator().manual_seed(seed)
    for module in _grown(model, LowRank):
        module.draw(rng)


def _grown(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


@cache
def _subclass(kind: type[nn.Module], of: type[nn.Module]) -> Any:
    return type(f"{kind.__name__}{of.__name__}", (kind, of), {"__doc__": kind.__doc__})


def _grow(model: nn.Module, pattern: str, of: type[nn.Module], kind: type[nn.Module], *options: Any) -> list[str]:
    """Make each module of the body whose path matches, and which is an `of`, a `kind` as well: the new names."""
    body = getattr(model, "body", model)
    before = {name for name, _ in model.named_parameters()}
    found = [module for path, module in body.named_modules() if re.fullmatch(pattern, path) and isinstance(module, of)]
    if not found:
        raise Mistake(f"No module of {type(body).__name__} matches '{pattern}'. Its modules: {_some(body)}.")
    for module in found:
        module.__class__ = _subclass(cast(Any, kind), cast(Any, type(module)))
        cast(Any, module).grow(*options)
    return [name for name, _ in model.named_parameters() if name not in before]


def _some(body: nn.Module) -> str:
    paths = [path for path, _ in body.named_modules() if path]
    return ", ".join(paths[:6]) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")


def _uniform(like: Tensor, shape: Sequence[int], bound: float, rng: torch.Generator) -> Tensor:
    """Uniform numbers within the bound, drawn on the CPU, so that they are the same everywhere."""
    return torch.empty(shape).uniform_(-bound, bound, generator=rng).to(like.device)


def _normal(like: Tensor, shape: Sequence[int], mean: float, deviation: float, rng: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(mean, deviation, generator=rng).to(like.device)


class LowRank(nn.Module):
    """What LoRA adds to a linear layer. `lora_a`: parts x rank x inputs; `lora_b`: parts x outputs of one x rank."""

    weight: Tensor

    def grow(
        self, rank: int, factor: float, dropout: float, parts: tuple[int, ...], slope: float, rng: torch.Generator
    ) -> None:
        outputs, inputs = self.weight.shape
        self.lora_factor, self.lora_dropout, self.lora_parts, self.lora_slope = factor, dropout, parts, slope
        rows = outputs // 3 if parts else outputs
        self.lora_a = nn.Parameter(self.weight.new_empty(len(parts) or 1, rank, inputs))
        self.lora_b = nn.Parameter(self.weight.new_empty(len(parts) or 1, rows, rank))
        self.draw(rng)

    @torch.no_grad()
    def draw(self, rng: torch.Generator) -> None:
        bound = math.sqrt(6 / ((1 + self.lora_slope**2) * self.lora_a.shape[-1]))
        self.lora_a.copy_(_uniform(self.lora_a, self.lora_a.shape, bound, rng))
        self.lora_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.lora_dropout, self.training) if self.lora_dropout else x
        low = [F.linear(F.linear(dropped, a), b) for a, b in zip(self.lora_a, self.lora_b, strict=True)]
        return super().forward(x) + self.lora_factor * self._spread(low, -1)

    def difference(self) -> Tensor:
        """(alpha / rank) B A, outputs x inputs."""
        return self.lora_factor * self._spread([b @ a for a, b in zip(self.lora_a, self.lora_b, strict=True)], 0)

    def _spread(self, parts: list[Tensor], dim: int) -> Tensor:
        """Each part at its third, zeros elsewhere."""
        if not self.lora_parts:
            return parts[0]
        at = dict(zip(self.lora_parts, parts, strict=True))
        blank = torch.zeros_like(parts[0])
        return torch.cat([at.get(third, blank) for third in range(3)], dim)


class Adapted(nn.Module):
    """A transformer's block with a bottleneck adapter beside its feed-forward part."""

    norm1: nn.Module
    attn: nn.Module
    ls1: nn.Module
    drop_path1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    ls2: nn.Module
    drop_path2: nn.Module

    def grow(self, rank: int, factor: float, dropout: float, rng: torch.Generator) -> None:
        like: Any = self.attn.qkv.weight  # type: ignore[union-attr]
        self.adapter = Bottleneck(like, rank, factor, dropout, rng).train(self.training)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), **options)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))) + self.adapter(x)


class Bottleneck(nn.Module):
    """factor * Up(drop(ReLU(Down(x))))."""

    def __init__(self, like: Tensor, rank: int, factor: float, dropout: float, rng: torch.Generator) -> None:
        super().__init__()
        width = like.shape[1]
        self.factor, self.dropout = factor, dropout
        self.down = nn.Linear(width, rank, device=like.device)
        self.up = nn.Linear(rank, width, device=like.device)
        with torch.no_grad():
            self.down.weight.copy_(_uniform(like, self.down.weight.shape, 1 / math.sqrt(width), rng))
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.up(F.dropout(self.down(x).relu(), self.dropout, self.training))


class Scaled(nn.Module):
    """A module whose channels are multiplied and moved."""

    weight: Tensor

    def grow(self, deviation: float, rng: torch.Generator) -> None:
        channels = len(self.weight)
        self.scale = nn.Parameter(_normal(self.weight, (channels,), 1.0, deviation, rng))
        self.shift = nn.Parameter(_normal(self.weight, (channels,), 0.0, deviation, rng))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        shape = (-1, *[1] * (y.ndim - 2)) if isinstance(self, _ConvNd | _BatchNorm | nn.GroupNorm) else (-1,)
        return y * self.scale.view(shape) + self.shift.view(shape)


class Gated(nn.Module):
    """A linear layer of whose weights some count as 0."""

    weight: Tensor
    bias: Tensor | None

    def grow(self, start: float, threshold: float) -> None:
        self.mask_threshold = threshold
        self.mask = nn.Parameter(torch.full_like(self.weight, start))

    def forward(self, x: Tensor) -> Tensor:
        binary = (self.mask > self.mask_threshold).to(self.mask.dtype)
        return F.linear(x, self.weight * (binary + self.mask - self.mask.detach()), self.bias)


class Prompted(nn.Module):
    """A block, or all of them in a row, that sees further tokens."""

    forward: Callable[..., Any]

    def grow(self, length: int, width: int) -> None:
        like = next(self.parameters())
        self.prompt = nn.Parameter(torch.zeros(length, width, device=like.device))

    def forward(self, x: Tensor, **options: Any) -> Tensor:  # type: ignore[no-redef]
        more = self.prompt.expand(len(x), -1, -1)
        return super().forward(torch.cat([x, more], 1), **options)[:, : x.shape[1]]


class Prefixed(nn.Module):
    """Attention that sees the further keys and values of `prefix`, where there are any."""

    qkv: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    attn_drop: nn.Dropout
    proj: nn.Module
    proj_drop: nn.Module
    num_heads: int

    def grow(self) -> None:
        self.prefix: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        if self.prefix is None:
            return super().forward(x, **options)
        q, k, v = (self._heads(part) for part in self.qkv(x).chunk(3, -1))
        more = [self._heads(part.expand(len(x), -1, -1)) for part in self.prefix]
        k, v = torch.cat([more[0], k], 2), torch.cat([more[1], v], 2)
        dropout = self.attn_drop.p if self.training else 0.0
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, dropout_p=dropout)
        return self.proj_drop(self.proj(y.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        """B x length x width to B x heads x length x width of one."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Inserted(nn.Module):
    """A transformer that sees `tokens` between its own and the patches, where there are any, and answers by them."""

    cls_token: Tensor | None
    pos_embed: Tensor | None
    no_embed_class: bool
    num_prefix_tokens: int

    def grow(self) -> None:
        self.tokens: Tensor | None = None

    def _pos_embed(self, x: Tensor) -> Tensor:
        x = cast(Any, super())._pos_embed(x)
        if self.tokens is None:
            return x
        own, more = self.num_prefix_tokens, self.tokens
        if self.cls_token is not None and self.pos_embed is not None and not self.no_embed_class:
            more = more + self.pos_embed[:, :1]
        return torch.cat([x[:, :own], more, x[:, own:]], 1)

    def pool(self, x: Tensor, *options: Any) -> Tensor:
        if self.tokens is None:
            return cast(Any, super()).pool(x, *options)
        own = self.num_prefix_tokens
        return x[:, own : own + self.tokens.shape[1]].mean(1)
