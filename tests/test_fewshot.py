"""Few-shot streams: sizes of sessions, and which samples are the shots."""

import numpy as np
import pytest

from clbench.errors import Mistake
from clbench.metrics.page import matrix_rows
from clbench.metrics.summary import SUMMARIES
from clbench.streams.fewshot import FewShot
from clbench.testing import check_stream

FSCIL = {"base": 6, "way": 2}
FSCIT = {"base": 2, "way": 2, "shots": 10, "base_shots": 10}


def opened(seed=0, **options):
    stream = FewShot(**{**FSCIL, **options})
    stream.open(seed)
    return stream


@pytest.mark.parametrize(
    "options",
    [FSCIL, {**FSCIT, "shots_seed": "seed"}, {**FSCIL, "order": 3, "validation": 0.2, "exam_on": "validation"}],
    ids=str,
)
def test_it_keeps_the_contract(options):
    check_stream(FewShot(**options), seed=2)


def test_a_large_base_then_few_shots():
    stream = opened()
    assert [sorted(e.classes) for e in stream] == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    y = stream._labels("train")
    assert stream[0].train.index.tolist() == np.flatnonzero(y < 6).tolist()
    assert [np.bincount(e.train.labels)[sorted(e.classes)].tolist() for e in list(stream)[1:]] == [[5, 5], [5, 5]]
    assert [len(exam.data) for exam in stream.exams()] == [
        np.isin(stream._labels("test"), part).sum() for part in ([0, 1, 2, 3, 4, 5], [6, 7], [8, 9])
    ]


def test_every_session_few_shot():
    stream = opened(**FSCIT)
    assert stream.syllabus().sizes == (20,) * 5


def test_shots_are_the_same_for_every_run_unless_asked():
    def shots(seed, **options):
        return opened(seed, **options)[1].train.index.tolist()

    assert shots(0) == shots(1)
    assert shots(0) != shots(0, shots_seed=1)
    assert shots(0, shots_seed="seed") != shots(1, shots_seed="seed")
    assert shots(1, shots_seed="seed") == shots(0, shots_seed=1)


def test_what_is_held_out_is_no_shot():
    stream = opened(validation=0.9, exam_on="validation")
    for experience, exam in zip(stream, stream.exams(), strict=True):
        assert not set(experience.train.index.tolist()) & set(exam.data.index.tolist())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"base": 5}, r"stream.base=5 leaves 5 of the 10 classes of digits, .*; stream.base=2 would do"),
        ({"base": 12}, r"stream.base=12 leaves 0 of the 10 classes"),
        ({"shots": 5000}, r"Session 1 takes 5000 samples of each class; digits has one of \d+"),
    ],
)
def test_a_mistake_is_one_line(options, line):
    with pytest.raises(Mistake, match=line):
        opened(**options)


def test_accuracy_over_all_samples_of_the_classes_seen_is_there():
    """Papers on few-shot streams report this one: of a base exam of 600 samples and a session's of 100."""
    rows = [row._replace(n=600 if row.subject == "e0" else 100) for row in matrix_rows(((0.8,), (0.7, 0.3)))]
    found = SUMMARIES["class/final_accuracy_samples"].compute(rows)
    assert found.number == pytest.approx((600 * 0.7 + 100 * 0.3) / 700)
