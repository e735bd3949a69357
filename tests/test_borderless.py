"""Streams without borders: who is taught where, and at which angle."""

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.config import resolve
from clbench.errors import Mistake
from clbench.streams.borderless import Blurry, Turning
from clbench.streams.incremental import ClassIncremental
from clbench.sweep import check
from clbench.testing import check_stream


def opened(stream, seed=0):
    stream.open(seed)
    return stream


EVERY = [
    Blurry(blur=0.2),
    Blurry(blur=0.3, experiences=2, validation=0.2, exam_on="validation"),
    Turning(data="digits", stretches=2),
    Turning(data="digits", classes=4, rounds=1, stretches=3, degrees=5, validation=0.2, exam_on="validation"),
]


@pytest.mark.parametrize("stream", EVERY, ids=lambda s: f"{type(s).__name__}-{s.exam_on}")
def test_streams_without_borders_keep_the_contract(stream):
    check_stream(stream, seed=1)


@pytest.mark.parametrize("name", ["blurry_mnist", "mnist_360"])
def test_a_strategy_that_needs_borders_is_refused(name):
    plan = resolve({"stream": name, "stream.data": "digits"})
    type(plan.strategy).needs = frozenset({"task borders"})
    try:
        lacks = (
            f"^strategy=naive needs task borders, which neither stream={name} nor model={plan.values['model']} offers.$"
        )
        with pytest.raises(Mistake, match=lacks):
            check(plan)
    finally:
        del type(plan.strategy).needs


@pytest.mark.parametrize("name", ["ewc", "si", "rwalk", "lwf", "gpm", "fot", "wa", "icarl"])
def test_what_is_done_between_tasks_needs_tasks(name):
    with pytest.raises(Mistake, match=f"^strategy={name}.* needs task borders"):
        check(resolve({"stream": "mnist_360", "stream.data": "digits", "strategy": name}))


# Blurry.


@pytest.mark.parametrize("blur", [0.1, 0.3, 1.0])
def test_every_sample_is_taught_once_a_share_of_them_elsewhere(blur):
    stream, pure = opened(Blurry(blur=blur)), opened(ClassIncremental())
    lessons = [e.train.index.tolist() for e in stream]
    assert sorted(chain(*lessons)) == sorted(chain(*(e.train.index.tolist() for e in pure)))
    for lesson, own in zip(lessons, pure, strict=True):
        home = set(own.train.index.tolist())
        guests = [row for row in lesson if row not in home]
        assert len(home & set(lesson)) == pytest.approx((1 - blur) * len(home), abs=1.01)
        assert len(guests) == pytest.approx(blur * len(home), abs=10)
        if blur == 0.3:
            labels = stream._labels("train")[guests]
            assert set(labels) == set(range(10)) - set(own.classes)


def test_exams_of_a_blurry_stream_are_those_of_the_plain_one():
    for exam, plain in zip(opened(Blurry()).exams(), opened(ClassIncremental()).exams(), strict=True):
        assert (exam.name, exam.classes, exam.since) == (plain.name, plain.classes, plain.since)
        assert exam.data.index.tolist() == plain.data.index.tolist()


def test_without_blur_it_is_the_plain_stream():
    for one, other in zip(opened(Blurry(blur=0.0)), opened(ClassIncremental()), strict=True):
        assert one.train.index.tolist() == other.train.index.tolist()


# Turning.


def test_pairs_of_classes_in_rounds():
    stream = opened(Turning(data="digits", stretches=2))
    assert len(stream) == 9 * 3 * 2
    pairs = [{label, (label + 1) % 9} for label in range(9)]
    assert [set(e.train.labels.tolist()) for e in stream] == [pair for pair in pairs * 3 for _ in range(2)]
    rows = np.concatenate([e.train.index for e in stream])
    assert sorted(rows) == np.flatnonzero(stream._dataset.splits["train"]["y"] < 9).tolist()
    assert [exam.since for exam in stream.exams()] == [0, 0, 2, 4, 6, 8, 10, 12, 14]


def test_each_class_turns_once_around_from_its_own_angle():
    stream = opened(Turning(data="digits", stretches=2))
    for label in range(9):
        angles = np.concatenate([e.train.view[e.train.labels == label] for e in stream])
        n = len(angles)
        assert angles.tolist() == [(60 * (label - 1) + 360 * i // n) % 360 for i in range(n)]
    for exam in stream.exams():
        n = len(exam.data)
        assert exam.data.view.tolist() == [360 * i // n for i in range(n)]


def test_an_image_is_turned_by_the_angle_of_its_place_rounded_down():
    stream = opened(Turning(data="digits", stretches=2, degrees=30))
    data = stream[3].train
    x = stream._dataset.splits["train"]["x"]
    shown = data.gather(torch.arange(len(data)))[0].numpy()
    for image, row, view in zip(shown, data.index.tolist(), data.view.tolist(), strict=True):
        turned = Image.fromarray(x[row, ..., 0]).rotate(30 * view, Image.Resampling.NEAREST)
        assert np.array_equal(image[..., 0], np.asarray(turned))


@pytest.mark.parametrize(
    ("stream", "line"),
    [
        (Blurry(experiences=1), "stream.experiences=1: there is no other experience for samples to be taught in."),
        (Turning(data="digits", classes=2), "stream.classes=2: pairs take 3 classes or more, and digits has 10."),
        (Turning(data="digits", degrees=7), "stream.degrees=7 does not divide 360."),
        (Turning(data="digits", stretches=90), "stream.stretches=90 are more than there are samples for."),
    ],
)
def test_mistakes_are_one_line(stream, line):
    with pytest.raises(Mistake) as error:
        stream.open(0)
    assert str(error.value) == line
