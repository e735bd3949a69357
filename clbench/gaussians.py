"""Classes as Gaussians in feature space: what is kept of them instead of samples, and drawn from.

Zhang, Wang, Kang, Chen and Wei 2023 ("SLCA: Slow Learner with Classifier Alignment for Continual Learning on a
Pre-trained Model", ICCV) draw features of old classes from one Gaussian each, to train heads on all classes alike; Sun,
Zhou, Zhao, Gan, Zhan and Ye 2025 ("MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning", AAAI)
also store variances alone, or several centres. How a centre's share of the draws goes is not said there; here it is its
share of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clbench.types import Count, Positive

Storage = Literal["covariance", "variance", "centroids"]


@dataclass
class Component:
    """One Gaussian."""

    samples: int
    """that it is estimated from"""
    mean: Tensor
    """features"""
    spread: Tensor
    """lower Cholesky factor of the covariance (features x features), or standard deviations (features)"""

    def draw(self, count: int, rng: np.random.Generator, scale: float) -> Tensor:
        """count x features, around `scale` times the mean."""
        noise = torch.from_numpy(rng.standard_normal((count, len(self.mean)), dtype=np.float32)).to(self.mean.device)
        return scale * self.mean + (noise * self.spread if self.spread.ndim == 1 else noise @ self.spread.T)


@dataclass
class Gaussians:
    """The Gaussians of each class, one or several; those of a class that comes again stand beside those it had."""

    storage: Storage = "covariance"
    """one Gaussian a class: with its covariance; with variances alone. centroids: one at each centre, with variances"""
    centres: Count = 10
    """centroids: of a class, by k-means; fewer where it has fewer different samples"""
    floor: Positive = 1e-4
    """added to each variance"""
    parts: dict[int, list[Component]] = field(default_factory=dict)
    """by class; empty at first"""

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Estimate the Gaussians of each class among samples: their features (N x features) and labels (N)."""
        labels = labels.to(features.device)
        for label in labels.unique().tolist():
            own = features[labels == label].double()
            clusters = _clusters(own, self.centres) if self.storage == "centroids" else [own]
            self.parts.setdefault(label, []).extend(self._estimate(cluster) for cluster in clusters)

    def _estimate(self, samples: Tensor) -> Component:
        """Unbiased, in double precision; a sample alone has the variance `floor`."""
        mean = samples.mean(0)
        away, freedom = samples - mean, max(len(samples) - 1, 1)
        if self.storage == "covariance":
            covariance = away.T @ away / freedom
            covariance.diagonal().add_(self.floor)
            spread = torch.linalg.cholesky(covariance)
        else:
            spread = (away.square().sum(0) / freedom + self.floor).sqrt()
        return Component(len(samples), mean.float(), spread.float())

    def means(self) -> tuple[Tensor, list[int]]:
        """The mean of each class, classes x features, and which they are, in ascending order."""
        found = sorted(self.parts)
        sizes = [sum(part.samples for part in self.parts[label]) for label in found]
        sums = [sum((p.samples * p.mean for p in self.parts[label]), torch.tensor(0.0)) for label in found]
        return torch.stack([one / size for one, size in zip(sums, sizes, strict=True)]), found

    def draw(
        self,
        count: int,
        classes: Sequence[int],
        rng: np.random.Generator,
        scale: Mapping[int, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`count` samples of each class, class after class: (features, labels), both of len(classes) * count.

        Args:
            scale: by class, what its means are multiplied by; None: 1.

        Raises:
            KeyError: a class has no Gaussian.
        """
        found = []
        for label in classes:
            parts = self.parts[label]
            sizes = np.array([part.samples for part in parts])
            factor = 1.0 if scale is None else scale[label]
            shares = rng.multinomial(count, sizes / sizes.sum())
            found += [part.draw(int(share), rng, factor) for part, share in zip(parts, shares, strict=True)]
        features = torch.cat(found)
        return features, torch.tensor(classes, device=features.device).repeat_interleave(count)


def _clusters(samples: Tensor, most: int) -> list[Tensor]:
    """Samples by their nearest centre of k-means, from a fixed seed; none is empty."""
    from sklearn.cluster import KMeans

    count = min(most, len(samples.unique(dim=0)))
    nearest = KMeans(count, n_init=1, random_state=0).fit_predict(samples.cpu().numpy())
    member = torch.from_numpy(nearest).to(samples.device)
    return [samples[member == centre] for centre in member.unique()]
