"""SaRA: the weights of smallest magnitude train, towards a change of low rank.

Hu et al. 2024 ("SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation"; arXiv
2409.06633). Known here is the abstract alone: the 10 to 20 % of a pretrained network's weights that are smallest by
magnitude do nothing for what it can, and are free to learn something else; a nuclear norm holds what they learn to a
low rank; and which weights train is adjusted on the way.

What differs here, and why. All else is our reading: one threshold for the whole body, since the abstract's share is of
the network's weights; biases and normalisation count like any other; the norm is of each matrix's whole change in an
experience, and vectors have none; halfway those that have grown past the threshold, and so do something by now, stop.
They tune once; here each experience chooses anew, by the magnitudes that the one before left. They save memory by a
backward pass of their own, which changes no number; here gradients are masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.modules import of_body
from clbench.optimizer import Followed, Optimizer
from clbench.strategies.sparse import Sparse, largest
from clbench.strategies.values import copied
from clbench.strategy import Adjust
from clbench.stream import Experience, Syllabus
from clbench.types import Fraction, NonNegative


@dataclass
class SaRA(Sparse):
    """The base learns with the smallest weights of the body, and the head, under nuclear * the sum over matrices of
    ||W - W'||_*, where W' is W before the experience and a convolution's W is outputs x the rest.

    The threshold is the largest magnitude among those that train at first. After the share `reselect` of the
    experience's steps, those above it stop where they are; the norm is of their change, too. Its gradient, U V^T of
    W - W' = U S V^T over the directions that are not 0, is added in closed form: the loss that is recorded is the
    base's. A singular value decomposition of each matrix a step is what it costs; without `nuclear` there is none.
    """

    share: Fraction = 0.1
    """of the body's weights that train, those of smallest magnitude; the paper names 10 to 20 %"""
    nuclear: NonNegative = 0.001
    """weight of the nuclear norms"""
    reselect: Fraction = 0.5
    """share of an experience's steps after which weights past the threshold stop; 1: never"""

    def start(self, learner: Learner, syllabus: Syllabus) -> None:
        super().start(learner, syllabus)
        if not small(learner.model):
            raise Mistake("sara trains the smallest weights of the body, and of this model's none trains.")
        self.origins: dict[str, Tensor] = {}
        self.threshold = 0.0
        self.waits = False

    def learn(self, learner: Learner, experience: Experience) -> None:
        nearness = small(learner.model)
        masks = largest(nearness, self.share)
        chosen = torch.cat([-near[masks[name]] for name, near in nearness.items()])
        self.threshold = float(chosen.max()) if len(chosen) else 0.0
        with self.masked(learner, masks):
            self.waits = self.reselect < 1
            super().learn(learner, experience)
        self.origins, self.waits = {}, False

    def around_adjust(self, learner: Learner, adjust: Adjust | None) -> Adjust | None:
        def pressed(learner: Learner) -> None:
            self.press(learner)
            if adjust is not None:
                adjust(learner)

        return super().around_adjust(learner, pressed if self.nuclear else adjust)

    @torch.no_grad()
    def press(self, learner: Learner) -> None:
        """Add the gradient of the nuclear norms to the gradients that are there."""
        for name, origin in self.origins.items():
            parameter = learner.model.get_parameter(name)
            if parameter.grad is not None and parameter.ndim > 1:
                with learner.spending("nuclear norm", parameter.shape):
                    slope = polar((parameter - origin).flatten(1))
                parameter.grad.add_(slope.view_as(parameter), alpha=self.nuclear)

    def around_optimizer(self, learner: Learner, optimizer: Optimizer) -> Optimizer:
        stepping = super().around_optimizer(learner, optimizer)
        self.origins = self.origins or dict(self.anchors)
        if learner.optim is None or optimizer.torch is not learner.optim.torch:
            return stepping

        def follow() -> None:
            if self.waits and optimizer.done - optimizer.first >= self.reselect * optimizer.steps:
                self.narrow(learner.model)

        return Followed(stepping, follow)

    @torch.no_grad()
    def narrow(self, model: nn.Module) -> None:
        """Of what trains let stop, where it is, what is past the threshold."""
        self.waits, now = False, copied(model, self.masks)
        self.anchors.update(now)
        self.masks.update({name: mask & (now[name].abs() <= self.threshold) for name, mask in self.masks.items()})


def small(model: nn.Module) -> dict[str, Tensor]:
    """By name, minus the magnitudes of the body's weights that train."""
    return {name: -parameter.detach().abs() for name, parameter in of_body(model).items()}


def polar(change: Tensor) -> Tensor:
    """U V^T for a matrix U S V^T, over those directions whose singular value is not 0 in its precision: where there is
    one, the gradient of its nuclear norm, else that of them which is smallest. What is not finite counts as 0: the loss
    says so.
    """
    u, s, v = torch.linalg.svd(change.nan_to_num(0.0, 0.0, 0.0), full_matrices=False)
    there = s > s.amax() * max(change.shape) * torch.finfo(s.dtype).eps
    return (u * there) @ v
