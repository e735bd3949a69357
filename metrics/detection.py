"""How well forgeries are told from photographs, by measures that need no threshold and by both kinds of error apart.

On a stream of two labels, 0 (real) and 1 (fake). The score of a sample is the strategy's probability of label 1. AUC,
AP and EER are scikit-learn's curves; a video's score is the mean of its frames', as DeepfakeBench has it (Yan et al.
2023, NeurIPS). Where experiences share their photographs the threshold drifts, so that accuracy alone misleads: a
detector that calls everything fake has half of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clbench.metric import Look, Probe, Row, Value
from clbench.metrics.detected import MEASURES
from clbench.metrics.exams import papers
from clbench.strategy import whole_stream
from clbench.stream import Exam

ONE_KIND = "the exam asks for one label only"
NO_VIDEO = "the exam does not say of which videos its samples are"


def scores(look: Look, exams: Sequence[Exam]) -> list[np.ndarray]:
    """The probability of label 1 for each sample of each exam."""
    learner = look.learner
    with torch.inference_mode():
        batches = papers(learner, exams, learner.eval_batch)
        found = [look.strategy.predict(learner, learner.encode(raw)).double().softmax(1)[:, 1] for raw in batches]
    return np.split(torch.cat(found).cpu().numpy(), np.cumsum([len(exam.data) for exam in exams])[:-1])


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """The chance that a fake has a higher score than a real one; half where they are equal."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(y, score))


def average_precision(y: np.ndarray, score: np.ndarray) -> float:
    """The mean of the precision over recall, fakes to be found."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y, score))


def equal_error(y: np.ndarray, score: np.ndarray) -> float:
    """The rate of errors at the threshold where both kinds are nearest to equal; the mean of the two."""
    from sklearn.metrics import roc_curve

    false, right, _ = roc_curve(y, score, drop_intermediate=False)
    nearest = np.abs(1 - right - false).argmin()
    return float((1 - right[nearest] + false[nearest]) / 2)


def by_video(y: np.ndarray, score: np.ndarray, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label of each video, and the mean score of its frames."""
    _, first, which, counts = np.unique(video, return_index=True, return_inverse=True, return_counts=True)
    return y[first], np.bincount(which, score) / counts


@dataclass
class Detection(Probe):
    """`detection/auc`, `detection/ap`, `detection/eer`, `detection/accuracy_real` and `detection/accuracy_fake` of each
    exam of a stream that tells real (label 0) from fake (label 1); `detection/video_auc` where it has videos.
    """

    def __call__(self, look: Look) -> Iterable[Row]:
        if look.syllabus.classes != 2:
            note = f"the stream has {look.syllabus.classes} labels; real and fake are two"
            yield Row(look.step, look.at, "detection/auc", "", None, 0, note)
            return
        if whole_stream(look.strategy) and 0 < look.step < (look.syllabus.lessons or 0):
            note = f"{type(look.strategy).__name__} learns only at the last experience"
            for name in MEASURES:
                for exam in look.exams:
                    yield Row(look.step, look.at, f"detection/{name}", exam.name, None, len(exam.data), note)
            return
        for exam, score in zip(look.exams, scores(look, look.exams), strict=True):
            for name, (value, note) in marks(exam, score).items():
                yield Row(look.step, look.at, f"detection/{name}", exam.name, value, len(score), note)


def marks(exam: Exam, score: np.ndarray) -> dict[str, Value]:
    """Every measure of one exam."""
    y = exam.data.labels.numpy()
    if not np.isfinite(score).all():
        return dict.fromkeys(MEASURES, Value(None, "what the network says is not finite"))
    if len(np.unique(y)) < 2:
        return dict.fromkeys(MEASURES, Value(None, ONE_KIND))
    video = exam.about.get("video")
    return {
        "auc": Value(auc(y, score)),
        "ap": Value(average_precision(y, score)),
        "eer": Value(equal_error(y, score)),
        "accuracy_real": Value(float((score[y == 0] <= 0.5).mean())),
        "accuracy_fake": Value(float((score[y == 1] > 0.5).mean())),
        "video_auc": Value(None, NO_VIDEO) if video is None else Value(auc(*by_video(y, score, video.numpy()))),
    }
