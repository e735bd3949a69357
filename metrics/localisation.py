"""Whether a detector looks where the forgery is, though nobody told it where that was.

The map is the gradient of log p(fake) - log p(real) by the pixels (Simonyan, Vedaldi and Zisserman 2014, Deep Inside
Convolutional Networks, ICLR workshop), its size summed over channels and averaged over 5 x 5 neighbours; the pointing
game is that of Zhang et al. 2018 (Top-Down Neural Attention by Excitation Backprop, IJCV). Ours in this form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.metric import Look, Probe, Row
from clbench.metrics.calibration import taught
from clbench.metrics.exams import papers
from clbench.stream import Exam
from clbench.types import Count


@dataclass
class Localisation(Probe):
    """`localisation/auc`: of the forged samples of each exam taught so far, the mean AUC with which the gradient's size
    tells forged pixels from others; `localisation/place`: the same against the mask of the next sample, what it is
    worth to know where forgeries mostly are. `localisation/pointing`: the share of them whose largest value is forged;
    `localisation/share`: the share of pixels that are. Samples that are forged as a whole have no region.
    """

    samples: Count = 128
    """forged ones of each exam, evenly spread over it"""

    def __call__(self, look: Look) -> Iterable[Row]:
        exams = [exam for exam in taught(look) if "mask" in exam.about]
        if look.step and not exams:
            yield self._none(look, "", "no exam that is taught says where its samples are forged")
        for exam in exams:
            some = regional(exam, self.samples)
            if not len(some):
                yield self._none(look, exam.name, "no sample of this exam is forged in a region")
                continue
            asked = Exam(exam.name, exam.data.subset(some), exam.classes)
            learner = look.learner
            found = [saliency(look, learner.encode(raw)) for raw in papers(learner, [asked], learner.eval_batch)]
            inside = (exam.about["mask"][some] > 127).flatten(1)
            size = torch.cat([part for part in found if part is not None]) if None not in found else None
            if size is None:
                yield self._none(look, exam.name, f"{type(look.strategy).__name__} answers without a gradient")
                continue
            flat = size.flatten(1)
            values = {
                "auc": float(pixel_auc(flat, inside).mean()),
                "place": float(pixel_auc(flat, inside.roll(1, 0)).mean()),
                "pointing": float(inside.gather(1, flat.argmax(1, keepdim=True)).double().mean()),
                "share": float(inside.double().mean()),
            }
            for name, value in values.items():
                yield Row(look.step, look.at, f"localisation/{name}", exam.name, value, len(some))

    def _none(self, look: Look, subject: str, note: str) -> Row:
        return Row(look.step, look.at, "localisation/auc", subject, None, 0, note)


def regional(exam: Exam, count: int) -> Tensor:
    """Up to so many samples of an exam that are forged in a part of the image, evenly spread."""
    share = (exam.about["mask"] > 127).double().mean((1, 2))
    members = ((exam.data.labels == 1) & (share > 0) & (share < 1)).nonzero()[:, 0]
    few = min(len(members), count)
    return members[torch.arange(few) * len(members) // max(few, 1)]


def saliency(look: Look, x: Tensor) -> Tensor | None:
    """How much each pixel of network input moves the answer, B x H x W, on the CPU; None: nothing shows."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        answer = look.strategy.predict(look.learner, x)
        if not answer.requires_grad:
            return None
        (gradient,) = torch.autograd.grad((answer[:, 1] - answer[:, 0]).sum(), x)
    return F.avg_pool2d(gradient.abs().sum(1, keepdim=True), 5, 1, 2)[:, 0].cpu()


def pixel_auc(size: Tensor, inside: Tensor) -> Tensor:
    """For each row, the chance that a value inside is above one outside, half where they are equal (Mann and Whitney's
    U); N."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(size.numpy(), axis=1))
    n = inside.sum(1).double()
    return ((ranks * inside).sum(1) - n * (n + 1) / 2) / (n * (size.shape[1] - n))
