"""What it brings that images keep channels innermost in memory: a training step of a bare loop in both layouts.

    python benchmarks/layout.py [--pairs 10] [--threads 1,2] [--nets cnn,convbn,resnet18]

The same network, batch and optimiser, from uint8 images N x H x W x C: once made N x C x H x W in memory, once as they
lie (clbench/transform.py). The two take turns; printed: milliseconds a step, and the median of the ratios with a 95 %
interval by bootstrap.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy

import torch
import torch.nn.functional as F
from overhead import CASES, interval, network_input
from torch import Tensor, nn

from clbench.catalogue import resolve


def channels_outermost(images: Tensor) -> Tensor:
    """As `network_input`, with the strides of an array made in that order."""
    x = network_input(images)
    return torch.empty(x.shape).copy_(x)


def a_step(net: nn.Module, x: Tensor, y: Tensor, steps: int) -> float:
    """Milliseconds."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, fused=True)
    started = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return 1000 * (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--nets", default="cnn,convbn,resnet18")
    given = parser.parse_args()
    print(f"{'':20}{'outermost':>12}{'innermost':>12}   ratio (95 % interval)")
    for threads in map(int, given.threads.split(",")):
        torch.set_num_threads(threads)
        for case in (CASES[name] for name in given.nets.split(",")):
            images = torch.randint(256, (case.batch, case.side, case.side, case.channels), dtype=torch.uint8)
            y = torch.arange(case.batch) % 10
            first = resolve("model", case.net)().build((case.channels, case.side, case.side), 10).train()
            second, steps = deepcopy(first), max(case.steps // 20, 1)
            outer, inner = channels_outermost(images), network_input(images)
            a_step(first, outer, y, 2), a_step(second, inner, y, 2)
            pairs = [(a_step(first, outer, y, steps), a_step(second, inner, y, steps)) for _ in range(given.pairs)]
            times = [sorted(each)[len(each) // 2] for each in zip(*pairs, strict=True)]
            middle, low, high = interval([after / before for before, after in pairs])
            what = f"{case.net}, threads {threads}"
            print(f"{what:20}{times[0]:12.2f}{times[1]:12.2f}   {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
