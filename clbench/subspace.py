"""The subspaces that layers take their inputs from, and changes of weights that are orthogonal to them.

A linear or convolutional layer maps an input x, one column of its representation matrix R, to W x. Whatever moves W
orthogonally to a subspace leaves the answers to inputs within it as they are (Saha, Garg and Roy 2021, Gradient
Projection Memory for Continual Learning, ICLR; Bakman et al. 2024, Federated Orthogonal Training, ICLR).

R is not held. Summed up over samples is R R^T, inputs x inputs, whose eigenvectors and eigenvalues are the left
singular vectors and squared singular values of R; or a sketch R G with Gaussian G, smaller and not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.data import Data
from clbench.learner import Learner

ROUNDING = 1e-12
"""share of a layer's energy that is none"""
AT_ONCE = 16
"""samples whose patches are laid out at a time"""


@dataclass
class SubspaceProjector:
    """For each layer an orthonormal basis of the inputs that it had; it grows, and what it spans is taken out of
    changes.

    Eigenvalues and singular values are not counted as operations, the products around them are.
    """

    layers: Sequence[str]
    """paths of linear and two-dimensional convolutional layers"""
    columns: int | None = None
    """of a sketch, at most; None: no sketch"""
    bases: dict[str, Tensor] = field(default_factory=dict)
    """by layer, inputs x rank, float32; a layer without a direction has none"""

    @torch.no_grad()
    def extend(self, learner: Learner, data: Data, thresholds: Sequence[float]) -> None:
        """Give each basis the fewest directions with which it holds a share of the inputs' energy, ||R||_F^2.

        Args:
            data: what the network, in evaluation mode, has its inputs from; un-augmented.
            thresholds: the shares, one a layer.
        """
        summaries = self._summaries(learner, data)
        with learner.spending("bases", self._ranks):
            for layer, threshold in zip(self.layers, thresholds, strict=True):
                if layer not in summaries:
                    continue
                basis = self.bases.get(layer)
                new = directions(summaries[layer], basis, threshold, sketched=self.columns is not None).float()
                if new.shape[1]:
                    self.bases[layer] = (new if basis is None else torch.cat([basis, new], 1)).contiguous()

    @torch.no_grad()
    def project(self, learner: Learner, changes: Mapping[str, Tensor]) -> None:
        """Take out of each layer's change, in place and of its weight's shape, what acts on its subspace."""
        with learner.spending("projection", self._ranks):
            for layer, change in changes.items():
                basis = self.bases[layer]
                change -= (change.flatten(1) @ basis @ basis.T).view_as(change)

    @property
    def _ranks(self) -> list[int]:
        return [basis.shape[1] for basis in self.bases.values()]

    def _summaries(self, learner: Learner, data: Data) -> dict[str, Tensor]:
        """R R^T of each layer, or R G; of a layer that is not used, none."""
        found: dict[str, Tensor] = {}
        rng, data = learner.rng("sketch"), learner.near(data)

        def see(layer: str, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            for part in given[0].split(AT_ONCE):
                x = inputs(module, part.double())
                right = x
                if self.columns is not None:
                    drawn = rng.standard_normal((len(x), min(self.columns, x.shape[1])))
                    right = torch.from_numpy(drawn).to(x.device)
                found[layer] = found.get(layer, 0) + x.T @ right

        with hooked(learner.model, {layer: partial(see, layer) for layer in self.layers}):
            for positions in torch.arange(len(data), device=data.index.device).split(learner.eval_batch):
                x = learner.encode(learner.gather(data, positions)[0])
                with learner.spending("inputs", x.shape):
                    learner(x)
        return found


def directions(summary: Tensor, basis: Tensor | None, threshold: float, sketched: bool = False) -> Tensor:
    """The fewest orthonormal directions, inputs x some, with which a basis holds a share of the energy.

    What the basis explains already counts; the leading left singular vectors of what is left follow (Saha et al. 2021,
    equations 8 and 9).

    Args:
        summary: R R^T, inputs x inputs; or a sketch R G, inputs x columns.
        basis: inputs x rank.
        threshold: the share, from 0 (none) to 1.
    """
    rest = summary
    if basis is not None:
        known = basis.to(summary.dtype)
        rest = rest - known @ (known.T @ rest)
        rest = rest if sketched else rest - rest @ known @ known.T
    if sketched:
        energy = summary.square().sum()
        vectors, singular, _ = torch.linalg.svd(rest, full_matrices=False)
        values = singular.square()
    else:
        energy = summary.trace()
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(rest))
        values = values.clamp(min=0)
    explained = 1 - values.sum() / energy
    shares = explained + values.cumsum(0) / energy
    threshold -= ROUNDING
    wanted = (shares < threshold).sum() + 1 if explained < threshold else 0
    return vectors[:, : min(int(wanted), int((values > ROUNDING * energy).sum()))]


def projectable(model: nn.Module) -> list[str]:
    """The paths of the layers whose inputs `inputs` can lay out, in the model's order."""
    return [path for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def inputs(module: nn.Module, x: Tensor) -> Tensor:
    """What a layer multiplies its weight by, one in a row: features, or the patches that a convolution sees.

    Args:
        x: what the layer is given.

    Returns:
        rows x (numbers in one row of the weight).
    """
    if not isinstance(module, nn.Conv2d):
        return x.flatten(0, -2)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, module._reversed_padding_repeated_twice, mode)
    patches = F.unfold(padded, module.kernel_size, module.dilation, stride=module.stride)
    return patches.unflatten(1, (module.groups, -1)).transpose(2, 3).flatten(0, 2)


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Callable[..., Tensor | None]]) -> Iterator[None]:
    """Within it, each hook is called after each forward pass of the module at its path: (module, given, out). What it
    gives takes the place of `out`, unless it is None."""
    handles = [model.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
