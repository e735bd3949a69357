"""What it brings that the network `cnn` keeps channels innermost in memory: a training step in both layouts.

    python benchmarks/layout.py [--pairs 20] [--threads 1,2] [--batches 32,64]

The same network and weights; in one its first convolution is torch's, in the other clbench.layout.Innermost. The two
take turns; printed: milliseconds a step, and the median of the ratios with a 95 % interval by bootstrap.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy

import torch
import torch.nn.functional as F
from overhead import interval
from torch import Tensor, nn

from clbench.models import CNN

STEPS = 20


def a_step(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Milliseconds."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, fused=True)
    started = time.perf_counter()
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return 1000 * (time.perf_counter() - started) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--batches", default="32,64")
    given = parser.parse_args()
    print(f"{'':20}{'outermost':>12}{'innermost':>12}   ratio (95 % interval)")
    for threads in map(int, given.threads.split(",")):
        torch.set_num_threads(threads)
        for batch in map(int, given.batches.split(",")):
            x, y = torch.rand(batch, 1, 28, 28), torch.arange(batch) % 10
            inner = CNN().build((1, 28, 28), 10)
            outer = deepcopy(inner)
            plain = nn.Conv2d(1, 10, 5)
            plain.load_state_dict(outer.get_submodule("body.conv1").state_dict())
            outer.set_submodule("body.conv1", plain)
            a_step(outer, x, y), a_step(inner, x, y)
            pairs = [(a_step(outer, x, y), a_step(inner, x, y)) for _ in range(given.pairs)]
            before, after = (sorted(each)[len(each) // 2] for each in zip(*pairs, strict=True))
            middle, low, high = interval([second / first for first, second in pairs])
            what = f"threads {threads}, batch {batch}"
            print(f"{what:20}{before:12.2f}{after:12.2f}   {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
