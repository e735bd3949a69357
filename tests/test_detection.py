"""AUC and what goes with it, of exams whose scores are known; and where a detector looks."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import Linear, images, opened, syllabus

from clbench.metric import Look, Row
from clbench.metrics.detected import DETECTED
from clbench.metrics.detection import Detection, by_video, equal_error, marks
from clbench.metrics.localisation import Localisation, pixel_auc
from clbench.strategy import Strategy
from clbench.stream import Exam

Y = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORE = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9])


def exam(labels, **about) -> Exam:
    return Exam("e", images(list(labels)), frozenset(labels), since=0, about=about)


def test_marks_of_known_scores():
    video = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = {name: value.number for name, value in marks(exam(Y.tolist(), video=video), SCORE).items()}
    assert found["auc"] == 14 / 16, "of 16 pairs, .7 is above .4 and .6"
    assert found["ap"] == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)
    assert found["eer"] == pytest.approx(0.25), "above .5: one real of four, and one fake of four is missed"
    assert (found["accuracy_real"], found["accuracy_fake"]) == (0.75, 0.75)
    assert found["video_auc"] == 7 / 8, "means .15, .5 and .5, .85: a half for the pair that is equal"
    assert marks(exam(Y.tolist()), SCORE)["video_auc"].note == "the exam does not say of which videos its samples are"
    assert marks(exam([1, 1]), SCORE[:2])["auc"] == (None, "the exam asks for one label only")
    assert marks(exam([0, 1]), np.array([0.1, np.nan]))["auc"].note == "what the network says is not finite"


def test_equal_error_at_the_ends():
    assert equal_error(Y, Y.astype(float)) == 0
    assert equal_error(Y, 1.0 - Y) == 1


def test_a_video_is_the_mean_of_its_frames():
    y, score = by_video(np.array([1, 0, 1]), np.array([0.2, 0.5, 0.4]), np.array([7, 3, 7]))
    assert (y.tolist(), score.tolist()) == ([0, 1], [0.5, pytest.approx(0.3)])


def look(learner, exams, step=1, classes=2) -> Look:
    return Look(step, 0, learner, Strategy(), syllabus(classes, sizes=[8]), exams, frozenset(range(classes)))


def test_the_probe_asks_the_strategy():
    weight = torch.zeros(2, 16)
    weight[1, 0] = 100.0  # the first pixel is the number of the sample
    rows = list(Detection()(look(opened(2, model=Linear(weight)), [exam(Y.tolist())])))
    assert [(row.metric, row.subject, row.value) for row in rows][:2] == [
        ("detection/auc", "e", 1.0),
        ("detection/ap", "e", 1.0),
    ]
    assert {row.metric for row in rows} == {f"detection/{n}" for n in marks(exam([0, 1]), SCORE[:2])}
    (row,) = Detection()(look(opened(4), [exam([0, 1, 2, 3])], classes=4))
    assert row.note == "the stream has 4 labels; real and fake are two"


def rows(name, cells) -> list[Row]:
    found = [Row(0, 0, "exam/since", f"e{j}", j, 10) for j in range(len(cells))]
    for step, values in enumerate(cells, start=1):
        found += [Row(step, step, f"detection/{name}", f"e{j}", value, 10) for j, value in enumerate(values)]
    return found


def test_what_a_run_comes_to():
    auc = rows("auc", [(0.9,), (0.7, 0.8), (0.5, 0.6, 1.0)])
    summed = {id: summary.compute(auc).number for id, summary in DETECTED.items() if id.endswith("_auc")}
    assert summed["detection/final_auc"] == pytest.approx(0.7)
    assert summed["detection/forgetting_auc"] == pytest.approx(((0.9 - 0.5) + (0.8 - 0.6)) / 2)
    assert summed["detection/learning_auc"] == pytest.approx(0.9)
    assert summed["detection/average_incremental_auc"] == pytest.approx((0.9 + 0.75 + 0.7) / 3)
    eer = rows("eer", [(0.1,), (0.3, 0.2)])
    assert DETECTED["detection/forgetting_eer"].compute(eer).number == pytest.approx(0.2)
    assert DETECTED["detection/forgetting_eer"].better == DETECTED["detection/final_eer"].better == "lower"


def test_pixels_are_told_apart_by_the_size_of_the_gradient():
    size, inside = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3), torch.zeros(3, 4, dtype=torch.bool)
    inside[0, 3] = inside[1, 0] = inside[2, 1] = True
    assert pixel_auc(size, inside).tolist() == [1.0, 0.0, pytest.approx(1 / 3)]


def test_a_detector_is_held_against_the_mask():
    weight, mask = torch.zeros(2, 16 * 16), torch.zeros(4, 16, 16, dtype=torch.uint8)
    weight[1].view(16, 16)[3, 12] = 5.0
    mask[1, 1:6, 10:15] = mask[3, 9:12, 2:5] = 255
    learner = opened(2, side=16, model=Linear(weight))
    asked = Exam("e", images([0, 1, 0, 1], side=16), frozenset({0, 1}), since=0, about={"mask": mask})
    seen = replace(look(learner, [asked]), syllabus=syllabus(2, 16, [4], shared=True))
    found = {row.metric: row.value for row in Localisation()(seen)}
    assert found["localisation/pointing"] == 0.5, "it looks at one place, which is forged in one of two"
    assert found["localisation/share"] == pytest.approx((25 + 9) / 2 / 256)
    assert found["localisation/auc"] == pytest.approx((1 + 0.5 * (1 - 25 / 247)) / 2)
    assert found["localisation/place"] == found["localisation/auc"], "it looks at one place, whatever the sample"
    mask[[1, 3]] = 255
    (row,) = Localisation()(seen)
    assert row.note == "no sample of this exam is forged in a region"
    silent = replace(seen, strategy=SimpleNamespace(predict=lambda learner, x: learner(x).detach(), whole_stream=False))
    mask[[1, 3], :8] = 0
    (row,) = Localisation()(silent)
    assert row.note == "SimpleNamespace answers without a gradient"
