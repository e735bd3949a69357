"""Requests to forget: which classes each names, which samples are at hand, and which exams share a fate."""

import numpy as np
import pytest
import torch

from clbench.errors import Mistake
from clbench.streams.forgetting import Forgetting
from clbench.streams.standard import RECIPES
from clbench.testing import check_stream


def opened(seed=0, **options):
    stream = Forgetting(**{"requests": 3, "per_request": 2, **options})
    stream.open(seed)
    return stream


def counts(data):
    return dict(zip(*(a.tolist() for a in np.unique(data.labels.numpy(), return_counts=True)), strict=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"order": 7, "shots": 4, "missing": 2}, {"order": "seed", "validation": 0.2, "exam_on": "validation"}],
    ids=str,
)
def test_it_keeps_the_contract(options):
    check_stream(Forgetting(requests=3, per_request=2, **options), seed=3)


def test_the_last_classes_of_the_order_go_first():
    stream = opened(order=[3, 1, 4, 5, 9, 2, 6, 8, 7, 0])
    assert [set(e.forget) for e in stream] == [set(), {7, 0}, {6, 8}, {9, 2}]
    assert [set(e.classes) for e in stream] == [
        set(range(10)), set(range(10)), {3, 1, 4, 5, 9, 2, 6, 8}, {3, 1, 4, 5, 9, 2}
    ]  # fmt: skip


def test_the_papers_order_is_that_of_their_code():
    """random.seed(1337), random.shuffle(list(range(100))); the default is another shuffle, by numpy."""
    order = RECIPES["forget_folder"]["zhao2024"].values["stream.order"]
    assert sorted(order) == list(range(100))
    assert order[:10] == [83, 17, 10, 9, 89, 52, 7, 32, 37, 77]
    assert order[80:90] == [51, 54, 13, 88, 84, 26, 50, 39, 96, 81]


def test_everything_is_taught_first_and_a_share_is_at_hand_later():
    stream = opened(data_ratio=0.25)
    whole = counts(stream[0].train)
    assert sum(whole.values()) == len(stream._labels("train"))
    for experience in list(stream)[1:]:
        assert counts(experience.train) == {label: round(0.25 * whole[label]) for label in experience.classes}
    assert not np.array_equal(stream[1].train.index[:20], stream[2].train.index[:20])
    assert set(counts(opened(shots=4)[2].train).values()) == {4}
    assert set(counts(opened(data_ratio=0.001)[2].train).values()) == {1}


def test_missing_classes_have_no_samples_after_the_first_experience():
    stream = opened(missing=2)
    assert {0, 1} <= stream[0].classes
    assert not any({0, 1} & experience.classes for experience in list(stream)[1:])


def test_an_exam_for_each_fate():
    stream = opened(missing=2)
    exams = {exam.name: exam for exam in stream.exams()}
    assert {name: (sorted(e.classes), e.since, e.until) for name, e in exams.items()} == {
        "forget 1": ([8, 9], 0, 1),
        "forget 2": ([6, 7], 0, 2),
        "forget 3": ([4, 5], 0, 3),
        "remaining": ([2, 3], 0, None),
        "missing": ([0, 1], 0, None),
    }
    assert torch.cat([e.data.index for e in exams.values()]).sort()[0].tolist() == list(
        range(len(stream._labels("test")))
    )
    assert "missing" not in {exam.name for exam in opened().exams()}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"per_request": 4}, "3 requests of 4 classes and 0 without samples leave none of the 10 classes of digits"),
        ({"missing": 4}, "3 requests of 2 classes and 4 without samples leave none"),
        ({"order": [0, 1]}, "stream.order must list each label of digits once: 0 to 9"),
    ],
)
def test_a_mistake_is_one_line(options, line):
    with pytest.raises(Mistake, match=line):
        opened(**options)
