"""How easy each concept of a stream is to the model that it begins with, for the orders `performance` and `loss`.

    python -m clbench.streams.scores FILE stream=fomo_images model.text=minilm

writes for each concept, by its name `data set+++class`, the accuracy on its training samples among the labels of its
data set, and the mean of -log p(caption | image) over all captions: {"performance": …, "loss": …}. The words are those
of `clbench run`. The authors' rule was not at hand (Roth et al. 2024, FoMo-in-Flux); this is ours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from clbench.config import plans
from clbench.errors import Mistake
from clbench.streams.fomo import Fomo


def scores(words: Sequence[str]) -> dict[str, dict[str, float]]:
    """The scores of every concept under the model of a run, before it learns.

    Raises:
        Mistake: the words are no run over concepts.
    """
    plan = plans(words)[0][0]
    stream, learner, found = plan.stream, plan.learner, {}
    if not isinstance(stream, Fomo):
        raise Mistake(f"stream={plan.values['stream']} has no concepts; stream=fomo has.")
    stream.open(plan.seed)
    learner.open(plan.model, stream.syllabus(), stream.transform(), stream.criterion, plan.seed, stream.pool())
    with torch.inference_mode():
        for concept, data, among in stream.concepts():
            parts = torch.arange(len(data)).split(learner.eval_batch)
            logits = torch.cat([learner(learner.encode(learner.gather(data, part)[0])) for part in parts]).cpu()
            right = logits[:, among.start : among.stop].argmax(1) == concept.label - among.start
            loss = F.cross_entropy(logits, data.labels)
            found[str(concept)] = {"performance": float(right.double().mean()), "loss": float(loss)}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m clbench.streams.scores", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("words", nargs="+", metavar="path=value")
    given = parser.parse_args()
    try:
        given.file.write_text(json.dumps(scores(given.words), indent=1), "utf-8")
    except Mistake as mistake:
        parser.exit(2, f"{mistake}\n")
