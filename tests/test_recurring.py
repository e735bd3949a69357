"""Classes that come back: which ones each experience teaches, how often, and that each sample lies where it should."""

from itertools import combinations

import numpy as np
import pytest

from clbench.errors import Mistake
from clbench.streams.recurring import Sampling, SCoLe, Slots
from clbench.testing import check_stream


def opened(stream, seed=0):
    stream.open(seed)
    return stream


def taught(stream):
    """The classes of each experience, by the labels of its samples."""
    return [set(e.train.labels.tolist()) for e in stream]


EVERY = [
    SCoLe(experiences=20),
    SCoLe(experiences=15, classes=6, samples=31, look_every=4),
    SCoLe(experiences=15, per_experience=3, imbalance=2.0, prob_reduction=3.0, period="forgetting"),
    SCoLe(experiences=10, validation=0.2, exam_on="validation"),
    SCoLe(experiences=10, draw="cycle", random_slots=0.5),
    SCoLe(experiences=10, draw="couples", couples=0.1),
    SCoLe(experiences=6, draw="iid"),
    Slots(experiences=20, per_experience=3),
    Slots(experiences=5, per_experience=2, samples=21),
    Sampling(experiences=15, samples=61, first=0.3),
    Sampling(experiences=15, samples=None, repeat=[0.0, 1.0] * 5),
]


@pytest.mark.parametrize("stream", EVERY, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'draw', '')}-{s.experiences}")
def test_every_way_of_recurring_keeps_the_contract(stream):
    check_stream(stream, seed=1)


@pytest.mark.parametrize("stream", EVERY[:3], ids=str)
def test_one_exam_a_class_from_its_first_lesson_on(stream):
    opened(stream)
    lessons = taught(stream)
    exams = stream.exams()
    assert stream.syllabus().answers == "all"
    assert [exam.classes for exam in exams] == [{label} for label in range(len(stream._pools))]
    for label, exam in enumerate(exams):
        assert set(exam.data.labels.tolist()) == {label}
        assert exam.since == next((i for i, classes in enumerate(lessons) if label in classes), None)


def test_an_experience_teaches_all_samples_of_k_classes():
    stream = opened(SCoLe(experiences=30, per_experience=3))
    y = stream._labels("train")
    for experience in stream:
        assert len(experience.classes) == 3
        assert sorted(experience.train.index.tolist()) == np.flatnonzero(np.isin(y, list(experience.classes))).tolist()


def test_a_subset_of_the_classes_gets_labels_from_0():
    stream = opened(SCoLe(experiences=40, classes=4), seed=3)
    original = stream._dataset.splits["train"]["y"]
    names = [int(exam.name) for exam in stream.exams()]
    assert names == sorted(names)
    assert stream.syllabus().classes == 4
    for experience in stream:
        assert original[experience.train.index].tolist() == [names[y] for y in experience.train.labels.tolist()]
    assert names != [int(exam.name) for exam in opened(SCoLe(experiences=40, classes=4), seed=4).exams()]


def test_a_cap_is_shared_equally_and_drawn_anew():
    stream = opened(SCoLe(experiences=200, samples=21))
    seen: dict[int, set[int]] = {}
    for experience in stream:
        assert np.bincount(experience.train.labels)[sorted(experience.classes)].tolist() == [10, 10]
        assert len(set(experience.train.index.tolist())) == 20
        for label in experience.classes:
            seen.setdefault(label, set()).update(experience.train.index[experience.train.labels == label].tolist())
    assert all(len(rows) > 60 for rows in seen.values())


def test_uniform_classes_occur_in_a_share_k_by_c_of_the_experiences():
    often = (opened(SCoLe(experiences=2000))._counts > 0).mean(0)
    assert often == pytest.approx(np.full(10, 0.2), abs=4 * np.sqrt(0.2 * 0.8 / 2000))


def test_imbalance_by_hand():
    stream = opened(SCoLe(imbalance=2.0, classes=3, per_experience=1, experiences=3000))
    p = np.array([1, 0.95, 0.9]) ** 2
    assert sorted(stream._probabilities(np.random.default_rng(0), 3)) == pytest.approx(sorted(p / p.sum()))
    many = stream._probabilities(np.random.default_rng(0), 100)
    assert many.max() / many.min() == pytest.approx((1 / 0.01) ** 2)
    often = (opened(SCoLe(imbalance=8.0, per_experience=1, experiences=3000))._counts > 0).mean(0)
    p = (1 - 0.05 * np.arange(10)) ** 8
    assert np.sort(often)[::-1] == pytest.approx(p / p.sum(), abs=0.04)


def test_a_class_that_was_drawn_becomes_rare():
    """With a great reduction every class is drawn once before any is drawn again."""
    stream = opened(SCoLe(experiences=50, prob_reduction=1e9))
    for start in range(0, 50, 5):
        assert set.union(*taught(stream)[start : start + 5]) == set(range(10))


@pytest.mark.filterwarnings("error")
def test_classes_that_are_drawn_on_and_on_among_few_keep_their_chances():
    rows = list(SCoLe(period="forgetting", prob_reduction=1e9, experiences=400)._drawn(np.random.default_rng(0), 10))
    assert np.bincount(np.concatenate(rows[200:]), minlength=10).tolist() == [80] * 5 + [0] * 5


def test_periods():
    halves = taught(opened(SCoLe(experiences=60, period="halves")))
    assert set.union(*halves[:30]) == set(range(5))
    assert set.union(*halves[30:]) == set(range(5, 10))
    forgetting = taught(opened(SCoLe(experiences=60, period="forgetting")))
    assert set.union(*forgetting[:30]) == set(range(10))
    assert set.union(*forgetting[30:]) == set(range(5))


def test_the_cycle_goes_through_all_sets_and_slots_are_replaced_by_chance():
    cycle = taught(opened(SCoLe(experiences=90, draw="cycle")))
    assert cycle[:45] == [set(pair) for pair in combinations(range(10), 2)] == cycle[45:]
    some = taught(opened(SCoLe(experiences=900, draw="cycle", random_slots=0.5)))
    kept = [len(classes & base) for classes, base in zip(some, cycle * 10, strict=True)]
    assert all(len(classes) == 2 for classes in some)
    assert np.mean(kept) == pytest.approx(2 * (0.5 + 0.5 / 9), abs=0.15)


def test_couples_are_a_share_of_all_sets():
    stream = taught(opened(SCoLe(experiences=500, draw="couples", couples=0.2)))
    assert len({frozenset(classes) for classes in stream}) == 9


@pytest.mark.parametrize("samples", [None, 60])
def test_the_reference_sees_as_many_samples_as_the_stream(samples):
    stream = opened(SCoLe(experiences=400, samples=samples))
    reference = opened(SCoLe(experiences=400, samples=samples, draw="iid"))
    assert len(set(reference.syllabus().sizes)) == 1
    assert sum(reference.syllabus().sizes) == pytest.approx(sum(stream.syllabus().sizes), rel=0.01)
    labels = np.bincount(np.concatenate([e.train.labels for e in reference]), minlength=10)
    assert labels / labels.sum() == pytest.approx(reference._sizes / reference._sizes.sum(), abs=0.01)


# CIR.


@pytest.mark.parametrize(("experiences", "each"), [(20, 3), (5, 2), (4, 10), (30, 1)])
def test_slots_teach_every_sample_once(experiences, each):
    stream = opened(Slots(experiences=experiences, per_experience=each), seed=2)
    rows = np.concatenate([e.train.index for e in stream])
    assert sorted(rows) == list(range(len(stream._labels("train"))))
    assert [len(classes) for classes in taught(stream)] == [each] * experiences
    assert set((stream._counts > 0).sum(0)) == {experiences * each // 10}


def test_the_ends_of_slots_are_class_and_domain_incremental():
    classes = taught(opened(Slots(experiences=5, per_experience=2)))
    assert sorted(label for both in classes for label in both) == list(range(10))
    assert not opened(Slots(experiences=5, per_experience=2)).syllabus().shared
    assert taught(opened(Slots(experiences=7, per_experience=10))) == [set(range(10))] * 7


def test_sampling_repeats_what_has_appeared_by_its_chance():
    never, always = (opened(Sampling(experiences=400, repeat=p, first=0.1))._counts > 0 for p in (0.0, 1.0))
    assert always[-1].all()
    assert all((np.diff(column.astype(int)) >= 0).all() for column in always.T)
    assert (never.sum(1) == 1).sum() > 380, "experiences that would be empty have one class"
    half = opened(Sampling(experiences=2000, repeat=[0.5] * 9 + [0.1], first=1.0))._counts > 0
    assert half[0].all()
    assert half[1:].mean(0) == pytest.approx([0.5] * 9 + [0.1], abs=0.05)


def test_sampling_divides_s_among_those_present():
    stream = opened(Sampling(experiences=50, samples=100, repeat=0.4, first=0.5))
    for row in stream._counts:
        assert set(row[row > 0]) == {100 // (row > 0).sum()}
    uniform = opened(Sampling(experiences=10, first=0.0, repeat=0.0), seed=5)._counts > 0
    assert len({int(column.argmax()) for column in uniform.T}) > 3


# All of them.


def test_looks():
    stream = opened(SCoLe(experiences=10, look_every=4))
    assert [step for step in range(11) if stream.looks(step)] == [0, 4, 8]


def test_a_thousand_experiences_are_a_table():
    stream = opened(SCoLe(experiences=1000))
    held = [value for value in vars(stream).values() if isinstance(value, list) and len(value) == 1000]
    assert not held
    assert stream._counts.nbytes == 1000 * 10 * 8


@pytest.mark.parametrize(
    ("stream", "line"),
    [
        (SCoLe(classes=11), "stream.classes=11: digits has 10 classes."),
        (SCoLe(per_experience=11), "stream.per_experience=11: there are 10 classes."),
        (SCoLe(samples=1), "stream.samples=1 are too few for the 2 classes together."),
        (SCoLe(samples=1, draw="iid"), "stream.samples=1 are too few for the 2 classes together."),
        (
            SCoLe(draw="iid", imbalance=1.0),
            "stream.imbalance is an option of stream.draw=classes; stream.draw=iid has none.",
        ),
        (
            SCoLe(per_experience=6, period="halves"),
            "stream.period=halves leaves 5 classes to draw from; stream.per_experience=6 asks for more.",
        ),
        (
            Slots(experiences=7, per_experience=3),
            "stream.experiences=7 times stream.per_experience=3 are 21 slots; it must be a multiple of the 10 classes.",
        ),
        (Slots(experiences=10), "stream.per_experience=20: there are 10 classes."),
        (Sampling(repeat=[0.5]), "stream.repeat has 1 chances; there are 10 classes."),
    ],
)
def test_mistakes_are_one_line(stream, line):
    with pytest.raises(Mistake) as error:
        stream.open(0)
    assert str(error.value) == line
