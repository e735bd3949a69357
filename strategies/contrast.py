"""Supervised contrast: features of one label nearer to one another than to others.

Khosla et al. 2020 ("Supervised Contrastive Learning", NeurIPS), the form with the sum outside of the logarithm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def supcon(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The loss of features (N x F, of any length) with labels (N).

    Mean over those that share their label with another of -mean over these p of log(exp(z p / T) / sum over all
    others a of exp(z a / T)), all vectors of length 1; 0 where no two share one.
    """
    z = F.normalize(features)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    alike = (labels[:, None] == labels) & ~itself
    log_share = logits - logits.logsumexp(1, keepdim=True)
    count = alike.sum(1)
    mean = log_share.masked_fill(~alike, 0).sum(1) / count.clamp_min(1)
    return -mean.sum() / (count > 0).sum().clamp_min(1)
