"""What learning costs: operations, time, memory, parameters; and the training loss."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from clbench.flops import counted
from clbench.metric import Look, Probe, Row
from clbench.state import kept_bytes
from clbench.strategy import Strategy, resumable

STATUS = Path("/proc/self/status")
NO_STEP = "no step was taken in this pass"


@dataclass
class Cost(Probe):
    """What a second run repeats: samples that the stream gave so far, `learner.epochs` times each, whatever a budget or
    a strategy's own epochs make of them; floating-point operations of training so far (matrix products and
    convolutions, forward and backward, replay included), of predicting one sample; parameters; bytes kept of the past.
    """

    def __call__(self, look: Look) -> Iterable[Row]:
        learner, strategy = look.learner, look.strategy
        trainable = sum(p.numel() for p in learner.model.parameters() if p.requires_grad)
        costs: dict[str, int | None] = {
            "samples": sum(look.syllabus.sizes[: look.step]) * learner.epochs,
            "train_flops": learner.flops.total,
            "inference_flops": self._one_prediction(look),
            "parameters_trainable": learner.trained or trainable,
            "parameters_stored": None,
            "bytes_kept": None,
        }
        if resumable(strategy):
            stored = {id(p): p.numel() for module in (learner.model, *_modules(strategy)) for p in module.parameters()}
            costs["parameters_stored"] = sum(stored.values())
            costs["bytes_kept"] = kept_bytes(strategy, {id(learner.model)})
        for name, value in costs.items():
            note = "the strategy's state can't be read" if value is None else ""
            yield Row(look.step, look.at, f"cost/{name}", "", value, note=note)

    def _one_prediction(self, look: Look) -> int:
        one, _ = look.learner.gather(look.exams[0].data, torch.zeros(1, dtype=torch.int64))
        with torch.inference_mode(), counted() as count:
            look.strategy.predict(look.learner, look.learner.encode(one))
        return count()


def _modules(strategy: Strategy) -> Iterator[nn.Module]:
    """The modules that a strategy keeps, and those of the strategy that it is wrapped around."""
    for value in vars(strategy).values():
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, Strategy):
            yield from _modules(value)


@dataclass
class Timing(Probe):
    """What a second run does not repeat: seconds of training and of exams so far, and the largest memory use (bytes; of
    the GPU where the run is on one, else of the process).
    """

    repeats: ClassVar[bool] = False

    def __call__(self, look: Look) -> Iterable[Row]:
        device = look.learner.where
        if look.step == 0:
            forget_peak(device)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak()
        costs = {"train_seconds": look.learner.seconds, "exam_seconds": look.exam_seconds, "peak_memory": peak}
        for name, value in costs.items():
            yield Row(look.step, look.at, f"cost/{name}", "", value)


def process_peak() -> int:
    """The largest resident memory of this process, bytes; on Linux since the last `forget_peak`."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak(device: torch.device) -> None:
    """Measure peaks from here on, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        STATUS.with_name("clear_refs").write_text("5")


@dataclass
class Loss(Probe):
    """The mean loss of the steps of each pass over an experience; none where a budget left the pass no step."""

    when: ClassVar[tuple[str | int, ...]] = ("epoch",)

    def __call__(self, look: Look) -> Iterable[Row]:
        loss = look.learner.last_loss
        taken = math.isfinite(loss)
        yield Row(look.step, look.at, "train/loss", "", loss if taken else None, note="" if taken else NO_STEP)
