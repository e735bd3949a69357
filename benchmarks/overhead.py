"""What clbench adds to a training step, to an evaluation and to a start, against a bare PyTorch loop.

    python benchmarks/overhead.py [--pairs 10] [--nets mlp,cnn,resnet18] [--device cpu] [--json FILE]

Ours is a whole run: rows, probes, FLOP counts, checkpoints, the thread that shows progress. The bare loop is what one
would write for speed: tensors in memory, the same network, optimiser, batches and replay scheme, nothing recorded. The
two take turns, pair by pair, in one process; what is printed is the median of the ratios with a 95 % interval by
bootstrap.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clbench.catalogue import resolve
from clbench.datasets import Dataset
from clbench.learner import Learner
from clbench.recorder import Recorder
from clbench.run import Run
from clbench.seeds import derive
from clbench.streams.incremental import ClassIncremental
from clbench.sweep import watched


@dataclass
class Noise(ClassIncremental):
    """Random images: one experience of one class set, as large as wanted."""

    count: int = 3200
    side: int = 28
    channels: int = 1
    labels: int = 10

    def _open_dataset(self) -> Dataset:
        rng = np.random.default_rng(0)
        splits = {
            split: {
                "x": rng.integers(0, 256, (n, self.side, self.side, self.channels), dtype=np.uint8),
                "y": np.arange(n) % self.labels,
            }
            for split, n in (("train", self.count), ("test", self.count))
        }
        shape = (self.side, self.side, self.channels)
        return Dataset("noise", [str(i) for i in range(self.labels)], {}, splits, shape, "", "", "0" * 64)


@dataclass
class Case:
    """A network with the images that it takes, and how many steps are timed."""

    net: str
    side: int
    channels: int
    steps: int
    batch: int = 32
    eval_batch: int = 128
    size: int = 500
    """samples in memory"""


CASES = {
    "mlp": Case("mlp", 28, 1, 1000),
    "cnn": Case("cnn", 28, 1, 400),
    "convbn": Case("convbn", 32, 3, 150),
    "resnet18": Case("resnet18", 32, 3, 8, eval_batch=64),
}


def ours(case: Case, strategy: str, steps: int, device: str) -> tuple[float, float]:
    """Seconds of a step, and of an evaluated image, in a run of ours."""
    stream = Noise(experiences=1, normalise="unit", count=steps * case.batch, side=case.side, channels=case.channels)
    learner = Learner(batch=case.batch, lr=0.01, threads=2, eval_batch=case.eval_batch, device=device)
    probes = [resolve("metric", name)() for name in ("exams", "cost", "timing", "loss")]
    with tempfile.TemporaryDirectory() as folder, Recorder(Path(folder)) as recorder:
        run = Run(stream, resolve("strategy", strategy)(), resolve("model", case.net)(), learner, 0, probes, recorder)
        with watched(0, run.progress, lambda event: None):
            run()
        seconds = learner.seconds / learner.step
        exams = [r for r in (Path(folder) / "timings.csv").read_text().splitlines() if "exam_seconds" in r]
        first, second = (float(r.split(",")[4]) for r in exams)
    return seconds, (second - first) / (steps * case.batch)


def bare(case: Case, strategy: str, steps: int, device: str) -> tuple[float, float]:
    """The same of a plain loop."""
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    n = steps * case.batch
    x = torch.from_numpy(rng.integers(0, 256, (n, case.channels, case.side, case.side), dtype=np.uint8))
    y = torch.arange(n) % 10
    torch.manual_seed(derive(0, "init"))
    model = resolve("model", case.net)().build((case.channels, case.side, case.side), 10).to(device)
    x, y = x.to(device), y.to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    kept_x, kept_y, seen = x.new_empty((case.size, *x.shape[1:])), y.new_empty(case.size), 0
    model.train()
    wait_for(device)
    started = time.perf_counter()
    for index in torch.randperm(n, device=device).split(case.batch):
        new_x, new_y = x[index], y[index]
        train_x, train_y = new_x, new_y
        if strategy == "er" and seen:
            draw = torch.randperm(min(seen, case.size), device=device)[: case.batch]
            train_x, train_y = torch.cat([new_x, kept_x[draw]]), torch.cat([new_y, kept_y[draw]])
        optimizer.zero_grad()
        F.cross_entropy(model(train_x.float().div_(255)), train_y).backward()
        optimizer.step()
        if strategy == "er":
            number = seen + np.arange(len(new_y))
            slots = np.where(number < case.size, number, rng.integers(0, number + 1))
            for i in np.flatnonzero(slots < case.size):
                kept_x[slots[i]], kept_y[slots[i]] = new_x[i], new_y[i]
            seen += len(new_y)
    wait_for(device)
    a_step = (time.perf_counter() - started) / steps
    model.eval()
    started, right = time.perf_counter(), torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode():
        for piece_x, piece_y in zip(x.split(case.eval_batch), y.split(case.eval_batch), strict=True):
            right += (model(piece_x.float().div_(255)).argmax(1) == piece_y).sum()
    right.item()
    return a_step, (time.perf_counter() - started) / n


def both(case: Case, strategy: str, steps: int, device: str) -> tuple[tuple[float, float], tuple[float, float]]:
    return ours(case, strategy, steps, device), bare(case, strategy, steps, device)


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Median, and a 95 % bootstrap interval of it."""
    rng = np.random.default_rng(0)
    draws = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
    return statistics.median(ratios), *np.quantile(draws, [0.025, 0.975])


START = """
import sys, time
import torch.optim
class Reached(BaseException): pass
def reached(*_):
    print(time.time()); sys.stdout.flush(); import os; os._exit(0)
"""
OURS = (
    START
    + """
from clbench import optimizer
optimizer.Optimizer.step = reached
from clbench.cli import main
main(["run", "stream=digits", "strategy=naive", "model=mlp", "mlflow=off", "results=" + sys.argv[1]])
"""
)
BARE = (
    START
    + """
import numpy as np, torch, gzip, csv, importlib.util, pathlib
from torch import nn
import torch.nn.functional as F
where = pathlib.Path(importlib.util.find_spec("sklearn").submodule_search_locations[0])
table = np.loadtxt(gzip.open(where / "datasets/data/digits.csv.gz", "rt"), delimiter=",", dtype=np.uint8)
x, y = torch.from_numpy(table[:, :-1]).float() / 16, torch.from_numpy(table[:, -1]).long()
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
F.cross_entropy(model(x[:32]), y[:32]).backward()
optimizer.step()
reached()
"""
)


def start(script: str) -> float:
    """Seconds from the start of a process to its first optimiser step."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1]) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--nets", default="mlp,cnn,convbn,resnet18")
    parser.add_argument("--strategies", default="naive,er")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="timed steps of every net (default: by net, for two cores)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report = []
    print(f"{'':22}{'bare':>10}{'ours':>10}   ratio (95 % interval)")
    for net in given.nets.split(","):
        case = CASES[net]
        steps = given.steps or case.steps
        for strategy in given.strategies.split(","):
            both(case, strategy, 4, given.device)
            pairs = [both(case, strategy, steps, given.device) for _ in range(given.pairs)]
            for what, i in (("step", 0), ("image", 1)):
                ratio, low, high = interval([mine[i] / plain[i] for mine, plain in pairs])
                mine, plain = (statistics.median(side[i] for side in sides) for sides in zip(*pairs, strict=True))
                unit = 1e3 if what == "step" else 1e6
                name = f"{net} {strategy} {'step, ms' if what == 'step' else 'exam, µs/image'}"
                line = f"{name:28}{plain * unit:10.3f}{mine * unit:10.3f}   {ratio:.3f} ({low:.3f} to {high:.3f})"
                print(line, flush=True)
                report.append({"what": name, "bare": plain, "ours": mine, "ratio": ratio, "low": low, "high": high})
    starts = [(start(OURS), start(BARE)) for _ in range(given.pairs)]
    extra, low, high = interval([mine - plain for mine, plain in starts])
    print(f"start to first step: {extra:.3f} s above the bare script's ({low:.3f} to {high:.3f})")
    report.append({"what": "start, s above bare", "ratio": extra, "low": low, "high": high})
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
