"""Features of a data set, computed once: on them any strategy learns a head over a frozen network in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clbench.config import Plan, check_names, resolve
from clbench.datasets import NAME, Dataset, load, open_dataset, root, sha256
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.prepare import beside, progress, strangers
from clbench.pretrained import Pretrained
from clbench.stream import Stream, Syllabus
from clbench.transform import ImageTransform
from clbench.words import parse


def features(
    name: str, words: Sequence[str], resolution: int | None = None, to: str | None = None, again: bool = False
) -> tuple[Path, bool]:
    """Makes the prepared data set of what a model's body gives for each image, un-augmented, of pixels in [0, 1].

    Args:
        name: the data set, by name or path
        words: `model=…`, options of the model and of the learner (threads, eval_batch, device, precision)
        resolution: side of the images in pixels; None: as they are
        to: name of the features; None: the data set's and the model's
        again: replace what is there

    Returns:
        The folder, and whether it was made now; what is there already stays.

    Raises:
        Mistake: the model can't take the images or has learned from them, or other features are there by that name.
    """
    plan, dataset = _plan(words), open_dataset(name, resolution)
    if dataset.features:
        raise Mistake(f"{name} holds features already, of {dataset.features['data']}.")
    if isinstance(plan.model, Pretrained):
        plan.model.check_data(dataset.name)
    model = plan.values.get("model.name", plan.values["model"])
    to = to or f"{dataset.name}.{model}"
    if not NAME.fullmatch(to):
        raise Mistake(f"Features cannot be named '{to}': use letters, digits, '-', '_' and '.': --to NAME.")
    folder, made = root() / to, _made(plan, dataset)
    if others := strangers(folder):
        raise Mistake(f"{folder} holds what is no prepared data set ({others[0]}); choose another name: --to NAME.")
    if not again and (folder / "dataset.json").exists():
        if load(folder).features != made:
            raise Mistake(f"{folder} is there already, of another making: --again replaces it, --to NAME keeps both.")
        return folder, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(folder, dataset, made, _body(plan, dataset), plan.learner.eval_batch, again)
    except OSError as error:
        raise Mistake(f"{folder} cannot be written ({error}). CLBENCH_DATA can name another place.") from error
    return folder, True


def _plan(words: Sequence[str]) -> Plan:
    """A run that has this model and learner."""
    points, options = parse(words)
    if stray := [*options, *(path for path in points[0] if path.partition(".")[0] not in ("model", "learner"))]:
        raise Mistake(f"Features are made by a model: '{stray[0]}' is no option of model or learner.")
    if len(points) > 1 or "model" not in points[0]:
        raise Mistake("Features are made by one model: clbench data features DATASET model=vit_t6.")
    check_names(points)
    return resolve(points[0])


def _made(plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """What made the features of what: all that tells them from others."""
    model = {k: v for k, v in plan.protocol().items() if k.startswith("model") or k == "weights content"}
    of = {"data": dataset.name, "content": dataset.checksum[:12], "resolution": dataset.shape[0]}
    return {**of, **model, "precision": plan.learner.precision}


def _body(plan: Plan, dataset: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the features of stored images, float32, N x F."""
    height, width, channels = dataset.shape
    learner: Learner = plan.learner
    syllabus = Syllabus(0, len(dataset.classes), (channels, height, width), (), shared=False)
    learner.open(plan.model, syllabus, ImageTransform(), Stream.criterion, plan.seed)

    def of(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return learner.features(learner.encode(torch.from_numpy(images).to(learner.where))).cpu().numpy()

    return of


def _write(
    folder: Path,
    dataset: Dataset,
    made: dict[str, Any],
    body: Callable[[np.ndarray], np.ndarray],
    size: int,
    again: bool,
) -> None:
    counts = {split: len(arrays["y"]) for split, arrays in dataset.splits.items()}
    wide = body(dataset.splits["train"]["x"][:1]).shape[1]
    with beside(folder, again) as new, progress(folder.name, sum(counts.values())) as advance:
        for split, arrays in dataset.splits.items():
            out = np.lib.format.open_memmap(new / f"{split}_x.npy", "w+", np.float32, (counts[split], wide))
            for start in range(0, len(out), size):
                rows = slice(start, start + size)
                out[rows] = body(arrays["x"][rows])
                advance(len(out[rows]))
            out.flush()
            for label in arrays.keys() - {"x"}:
                np.save(new / f"{split}_{label}.npy", arrays[label])
        card = {
            "name": folder.name,
            "classes": dataset.classes,
            "fields": dataset.fields,
            "splits": counts,
            "shape": [wide],
            "source": dataset.source,
            "licence": dataset.licence,
            "features": made,
            "sha256": {file.name: sha256(file) for file in sorted(new.glob("*.npy"))},
        }
        (new / "dataset.json").write_text(json.dumps(card, indent=1), "utf-8")
