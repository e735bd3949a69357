"""One step of each method for pretrained transformers at the papers' size, with random weights in their place.

    python benchmarks/full_size.py [--batch 4] [--device cpu] [--threads 2] ["aper strategy.tune=ssf" ...]

A ViT-B/16 at 224 pixels learns one lesson of two classes of noise, in one step, and answers a batch; who acts on
requests is then asked to forget one of them. A row is a strategy with its options, as a command has them. Printed for
each: how many weights train in its last step, the head aside, and of a weight that trains in part these entries alone;
steps; seconds of learning, with what precedes and follows the steps; the largest memory so far, of the process or of
the GPU. What is shown is that the methods run at that size, so that only the weights are missing; the numbers mean
nothing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from clbench.config import plans
from clbench.data import Data, Source
from clbench.learner import Learner
from clbench.modules import of_body
from clbench.pretrained import Timm, timm
from clbench.strategy import Strategy, needs
from clbench.stream import Experience, Stream, Syllabus
from clbench.transform import ImageTransform

ROWS = (
    "simplecil", "slda", "ncm", "finetune", "linear_probe", "aper", "aper strategy.tune=ssf",
    "aper strategy.tune=vpt_shallow", "aper strategy.tune=vpt_deep", "aper strategy.tune=vpt_deep strategy.tokens=30",
    "aper strategy.tune=full", "ranpac", "slca", "ease", "mos", "l2p", "dual_prompt", "coda_prompt", "coact",
    "gs_lora strategy.epochs=1", "gs_lora_pp strategy.epochs=1", "remain", "retrain", "scrub",
    "lora", "lora strategy.rank=16", "lora strategy.where=ffn", "adapter", "adapter strategy.rank=16", "ssf", "vpt",
    "vpt strategy.form=shallow", "bitfit", "norm_only", "mask_tuning", "hft", "spt", "s2ft", "cofitune", "corda",
    "lt_sft", "frugal", "galore",
)  # fmt: skip
BODY = "vit_base_patch16_224"


class Counting(Learner):
    """Notes how many weights train when a loop of steps begins."""

    strategy: Strategy
    counted = 0

    def fit(self, *given: Any, **named: Any) -> None:
        self.counted = trains(self.model, self.strategy)
        super().fit(*given, **named)


def trains(model: nn.Module, strategy: Strategy) -> int:
    """How many weights train, the head aside: of one with a mask its entries, of one that is held in part the rest."""
    masks, held = getattr(strategy, "masks", {}), getattr(strategy, "held", {})
    found = 0
    for name, weight in of_body(model).items():
        still = len(held[name][0]) * weight[0].numel() if name in held else 0
        found += int(masks[name].sum()) if name in masks else weight.numel() - still
    return found


def one(row: str, weights: Path, batch: int, device: str, threads: int) -> str:
    """The line of one strategy."""
    strategy = plans([f"strategy={row.split()[0]}", *row.split()[1:]])[0][0].strategy
    syllabus = Syllabus(10, 100, (3, 224, 224), (batch,) * 10, shared=False)
    learner = Counting(batch=batch, eval_batch=batch, lr=0.001, epochs=1, threads=threads, device=device)
    learner.strategy = strategy
    learner.open(Timm(BODY, weights=str(weights), normalise="none"), syllabus, ImageTransform(), Stream.criterion, 0)
    images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)
    data = Data(Source(images, torch.arange(batch) % 2), torch.arange(batch), lesson=0)
    strategy.start(learner, syllabus)
    begun = time.perf_counter()
    for index in range(2 if "requests" in needs(strategy) else 1):
        learner.begin(experience := Experience(index, data, frozenset({0, 1}), frozenset({1} if index else ())))
        strategy.learn(learner, experience)
        learner.end()
    took = time.perf_counter() - begun
    with torch.no_grad():
        strategy.predict(learner, learner.encode(images.to(learner.where)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if learner.where.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    return f"{row:46s} {learner.counted:12,d} {learner.step:6d} {took:10.1f} {memory:10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=ROWS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.safetensors")
        save_file(timm().create_model(BODY, num_classes=0).state_dict(), weights)
        print(f"{'strategy':46s} {'train':>12s} {'steps':>6s} {'seconds':>10s} {'peak, GB':>10s}")
        for row in given.rows:
            print(one(row, weights, given.batch, given.device, given.threads), flush=True)


if __name__ == "__main__":
    main()
