"""One step of each method for pretrained transformers at the papers' size, with random weights in their place.

    python benchmarks/full_size.py [--batch 4] [--device cpu] [name ...]

A ViT-B/16 at 224 pixels learns one lesson of two classes of noise, in one step, and answers a batch; `gs_lora` is then
asked to forget one of them. Printed for each strategy: how many weights train, the head aside; steps; seconds of
learning, with what precedes and follows the steps; the largest memory so far, of the process or of the GPU. What is
shown is that the methods run at that size, so that only the weights are missing; the numbers mean nothing.
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

from clbench.catalogue import resolve
from clbench.data import Data, Source
from clbench.learner import Learner
from clbench.pretrained import Timm, timm
from clbench.stream import Experience, Stream, Syllabus
from clbench.transform import ImageTransform

NAMES = (
    "simplecil", "finetune", "linear_probe", "lora", "aper", "ranpac", "slca", "ease", "l2p", "dual_prompt",
    "coda_prompt", "mos", "coact", "gs_lora",
)  # fmt: skip
BODY = "vit_base_patch16_224"


def one(name: str, weights: Path, batch: int, device: str) -> str:
    """The line of one strategy."""
    entry: Any = resolve("strategy", name)
    strategy = entry(epochs=1) if name == "gs_lora" else entry()
    syllabus = Syllabus(10, 100, (3, 224, 224), (batch,) * 10, shared=False)
    learner = Learner(batch=batch, eval_batch=batch, lr=0.001, threads=2, device=device)
    model = Timm(BODY, weights=str(weights), normalise="none")
    learner.open(model, syllabus, ImageTransform(), Stream.criterion, seed=0)
    images = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)
    data = Data(Source(images, torch.arange(batch) % 2), torch.arange(batch), lesson=0)
    strategy.start(learner, syllabus)
    body = (p for name, p in learner.model.named_parameters() if not name.startswith("head."))
    weighs = sum(p.numel() for p in body if p.requires_grad)
    begun = time.perf_counter()
    for index in range(2 if "requests" in strategy.needs else 1):
        learner.begin(experience := Experience(index, data, frozenset({0, 1}), frozenset({1} if index else ())))
        strategy.learn(learner, experience)
        learner.end()
    took = time.perf_counter() - begun
    with torch.no_grad():
        strategy.predict(learner, learner.encode(images.to(learner.where)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if learner.where.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    return f"{name:14s} {weighs:12,d} {learner.step:6d} {took:10.1f} {memory:10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "random.safetensors")
        save_file(timm().create_model(BODY, num_classes=0).state_dict(), weights)
        print(f"{'strategy':14s} {'train':>12s} {'steps':>6s} {'seconds':>10s} {'peak, GB':>10s}")
        for name in given.names:
            print(one(name, weights, given.batch, given.device), flush=True)


if __name__ == "__main__":
    main()
