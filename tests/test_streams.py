import hashlib
import json
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.data import Data
from clbench.errors import Mistake
from clbench.seeds import derive
from clbench.streams.incremental import ClassIncremental, DomainIncremental, Permuted, Rotated
from clbench.streams.toy import Toy

SHAPE = (6, 5, 3)
GROUPS, DOMAINS = ["animal", "plant", "thing"], ["photo", "sketch", "clip"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def prepared(tmp_path):
    """A prepared data set of 6 classes in 3 groups and 3 domains; every class is in every domain, but clip has no f."""
    rng, folder, sums = np.random.default_rng(0), tmp_path / "things", {}
    folder.mkdir()
    for split, times in (("train", 4), ("test", 2)):
        y, domain = (np.tile(a.ravel(), times) for a in np.meshgrid(np.arange(6), np.arange(3), indexing="ij"))
        there = (y != 5) | (domain != 2)
        y, domain = y[there], domain[there]
        x = rng.integers(1, 256, (len(y), *SHAPE), dtype=np.uint8)
        for field, values in {"x": x, "y": y, "group": y // 2, "domain": domain}.items():
            file = folder / f"{split}_{field}.npy"
            np.save(file, values)
            sums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    card = {
        "name": "things", "classes": list("abcdef"), "fields": {"group": GROUPS, "domain": DOMAINS},
        "splits": {"train": 68, "test": 34}, "shape": SHAPE, "source": "made up", "licence": "none", "sha256": sums,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(card))
    return str(folder)


def opened(stream, seed=0):
    stream.open(seed)
    return stream


def rows(data):
    return data.index.tolist()


def taught(stream):
    """The classes of each experience, after a look at whether they are those of its samples and its exam."""
    found = [e.classes for e in stream]
    assert found == [frozenset(e.train.labels.tolist()) for e in stream]
    assert found == [exam.classes for exam in stream.exams()]
    assert found == [frozenset(exam.data.labels.tolist()) for exam in stream.exams()]
    assert [exam.since for exam in stream.exams()] == [e.index for e in stream] == list(range(len(stream)))
    return [sorted(classes) for classes in found]


# Class-incremental.


def test_every_sample_is_taught_once_and_asked_once():
    stream = opened(Toy())
    assert sorted(chain.from_iterable(rows(e.train) for e in stream)) == list(range(240))
    assert sorted(chain.from_iterable(rows(exam.data) for exam in stream.exams())) == list(range(120))
    assert [exam.name for exam in stream.exams()] == ["0", "1", "2"]
    assert all(exam.until is None for exam in stream.exams())
    assert not opened(Toy(classes=4, experiences=4)).syllabus().shared


def test_orders_of_classes():
    assert taught(opened(Toy())) == [[0, 1], [2, 3], [4, 5]]
    assert taught(opened(Toy(order=[5, 0, 4, 1, 3, 2], experiences=2))) == [[0, 4, 5], [1, 2, 3]]
    by_number = [taught(opened(Toy(order=7, experiences=6), seed)) for seed in (0, 1)]
    assert by_number[0] == by_number[1] == [[c] for c in np.random.default_rng(7).permutation(6)]
    by_seed = [taught(opened(Toy(order="seed", experiences=6), seed)) for seed in (0, 0, 1)]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    assert sorted(chain.from_iterable(by_seed[2])) == list(range(6))


def test_only_so_many_classes_of_the_order():
    stream = opened(Toy(take=4, experiences=2, order=[5, 0, 4, 1, 3, 2]))
    assert taught(stream) == [[0, 5], [1, 4]]
    assert stream.syllabus().classes == 6
    assert "classes taught" not in Toy().protocol()
    assert Toy(take=4).protocol()["classes taught"] == 4


def test_only_so_many_samples_of_each_class():
    def kept(**options):
        stream = opened(Toy(experiences=2, **options))
        lessons = {label: [] for label in range(6)}
        for e in stream:
            for row, label in zip(rows(e.train), e.train.labels.tolist(), strict=True):
                lessons[label].append(row)
        return lessons, [rows(exam.data) for exam in stream.exams()]

    (few, exams), (more, whole), everything = kept(per_class=3), kept(per_class=9, exam_per_class=2), kept()
    assert [len(found) for found in few.values()] == [3] * 6
    assert [len(found) for found in more.values()] == [9] * 6
    assert all(set(few[label]) < set(more[label]) < set(everything[0][label]) for label in range(6))
    assert exams == everything[1]
    assert [len(found) for found in whole] == [6, 6]
    assert all(set(part) < set(all_) for part, all_ in zip(whole, exams, strict=True))
    assert kept(per_class=10**6, exam_per_class=10**6) == everything


def test_the_few_are_the_same_in_every_run_and_hold_the_validation_samples():
    def parts(seed):
        stream = opened(Toy(per_class=8, validation=0.25, exam_on="validation", exam_per_class=1), seed)
        return [set(rows(e.train)) for e in stream], [set(rows(exam.data)) for exam in stream.exams()]

    lessons, exams = parts(0)
    assert [len(lesson) for lesson in lessons] == [12] * 3
    assert [len(exam) for exam in exams] == [2] * 3
    whole = [set(rows(e.train)) for e in opened(Toy(per_class=8), 1)]
    assert all(
        not lesson & exam and lesson | exam < all_ for lesson, exam, all_ in zip(lessons, exams, whole, strict=True)
    )
    assert whole == [set(rows(e.train)) for e in opened(Toy(per_class=8), 0)]
    protocol = Toy(per_class=8, exam_per_class=1).protocol()
    assert (protocol["training samples a class"], protocol["exam samples a class"]) == (8, 1)
    assert not {"training samples a class", "exam samples a class"} & Toy().protocol().keys()


def test_what_the_strategy_is_told_before_it_starts():
    syllabus = opened(Toy(validation=0.25)).syllabus()
    assert (syllabus.lessons, syllabus.classes, syllabus.shape) == (3, 6, (1, 6, 6))
    assert syllabus.sizes == (60, 60, 60)
    assert not syllabus.shared


def test_names_of_exams_sort_in_order():
    names = [exam.name for exam in opened(Toy(classes=12, experiences=12, samples=2)).exams()]
    assert names == sorted(names)
    assert names[0] == "00"


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_is_held_out_of_each_class_and_never_taught(seed):
    whole, stream = opened(Toy(), seed), opened(Toy(validation=0.3, exam_on="validation"), seed)
    for plain, lesson, exam in zip(whole, stream, stream.exams(), strict=True):
        assert sorted(rows(lesson.train) + rows(exam.data)) == rows(plain.train)
        assert exam.data.source is lesson.train.source
        for label in lesson.classes:
            assert (exam.data.labels == label).sum() == 12
            assert (lesson.train.labels == label).sum() == 28
    held = [rows(exam.data) for exam in stream.exams()]
    assert held == [rows(exam.data) for exam in opened(Toy(validation=0.3, exam_on="validation"), seed).exams()]
    assert held != [rows(exam.data) for exam in opened(Toy(validation=0.3, exam_on="validation"), seed + 5).exams()]


def test_validation_alone_changes_no_exam():
    plain, stream = opened(Toy()), opened(Toy(validation=0.3))
    assert [rows(e.data) for e in stream.exams()] == [rows(e.data) for e in plain.exams()]
    assert [rows(e.train) for e in stream] == [rows(e.train) for e in opened(Toy(validation=0.3, exam_on="validation"))]


def test_another_field_can_be_the_label(prepared):
    stream = opened(ClassIncremental(data=prepared, label="group", experiences=3))
    assert taught(stream) == [[0], [1], [2]]
    assert stream.syllabus().classes == 3
    y = np.load(f"{prepared}/train_y.npy")
    for experience in stream:
        assert set(y[rows(experience.train)] // 2) == {experience.index}


def test_normalisation_is_over_the_training_set(prepared):
    stream = opened(ClassIncremental(data=prepared, experiences=6))
    shown = stream.transform()(torch.from_numpy(np.load(f"{prepared}/train_x.npy")))
    torch.testing.assert_close(shown.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(shown.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    unit = opened(ClassIncremental(data=prepared, experiences=6, normalise="unit", crop=2, flip=True)).transform()
    assert (unit.mean, unit.std, unit.crop, unit.flip) == ((0.0,), (1.0,), 2, True)


def test_the_toy_is_the_same_for_every_seed():
    a, b = opened(Toy(), 0), opened(Toy(), 1)
    assert torch.equal(a[0].train.source.x, b[0].train.source.x)
    assert a.checksums() == b.checksums()
    assert Toy(noise=41.0).checksums() != a.checksums()


# Domain-incremental.


def test_every_domain_is_a_lesson(prepared):
    stream = opened(DomainIncremental(data=prepared))
    assert taught(stream) == [list(range(6)), list(range(6)), list(range(5))]
    assert [exam.name for exam in stream.exams()] == DOMAINS
    domain = np.load(f"{prepared}/train_domain.npy")
    assert [set(domain[rows(e.train)]) for e in stream] == [{0}, {1}, {2}]
    assert sorted(chain.from_iterable(rows(e.train) for e in stream)) == list(range(68))
    assert stream.syllabus().shared
    assert stream.syllabus().sizes == (24, 24, 20)


def test_orders_of_domains(prepared):
    def names(order, seed=0):
        return [exam.name for exam in opened(DomainIncremental(data=prepared, order=order), seed).exams()]

    assert names(["clip", "photo"]) == ["clip", "photo"]
    assert names(4, 0) == names(4, 1) == [DOMAINS[d] for d in np.random.default_rng(4).permutation(3)]
    assert names("seed", 3) == names("seed", 3)
    assert len({tuple(names("seed", seed)) for seed in range(8)}) > 1


def test_any_field_can_tell_domains_apart(prepared):
    stream = opened(DomainIncremental(data=prepared, domain="group"))
    assert [exam.name for exam in stream.exams()] == GROUPS
    assert taught(stream) == [[0, 1], [2, 3], [4, 5]]
    assert not stream.syllabus().shared
    assert [e.name for e in opened(DomainIncremental(data=prepared, domain="y", label="domain")).exams()] == [*"abcdef"]


# Permuted and rotated.


def images(data: Data):
    return data.gather(torch.arange(len(data)))[0].numpy()


def test_a_permutation_undone_gives_the_image_back(prepared):
    stream = opened(Permuted(data=prepared, tasks=3))
    pixels = np.load(f"{prepared}/train_x.npy").reshape(68, -1, 3)
    views = stream[0].train.source.views
    for experience, exam in zip(stream, stream.exams(), strict=True):
        view = views[experience.index].numpy()
        assert sorted(view) == list(range(30))
        assert not np.array_equal(view, np.arange(30))
        shown = images(experience.train).reshape(68, -1, 3)
        assert np.array_equal(shown[:, np.argsort(view)], pixels)
        original = np.load(f"{prepared}/test_x.npy").reshape(34, -1, 3)
        assert np.array_equal(images(exam.data).reshape(34, -1, 3), original[:, view])
    assert len(np.unique(views.numpy(), axis=0)) == 3


def test_permutations_are_those_of_the_seed(prepared):
    def views(seed):
        return opened(Permuted(data=prepared, tasks=3), seed)[0].train.source.views

    assert torch.equal(views(0), views(0))
    assert not torch.equal(views(0), views(1))


def test_rotation_is_that_of_pillow(prepared):
    stream = opened(Rotated(data=prepared, tasks=4), seed=5)
    angles = np.random.default_rng(derive(5, "angles")).uniform(0, 180, 4)
    for split, parts in (("train", [e.train for e in stream]), ("test", [e.data for e in stream.exams()])):
        x = np.load(f"{prepared}/{split}_x.npy")
        for angle, data in zip(angles, parts, strict=True):
            turned = [np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST)) for image in x]
            assert np.array_equal(images(data), np.stack(turned))
    assert (images(stream[0].train) == 0).any()


@pytest.mark.parametrize("kind", [Permuted, Rotated])
def test_every_task_teaches_all_classes_and_all_samples(prepared, kind):
    stream = opened(kind(data=prepared, tasks=3))
    assert taught(stream) == [list(range(6))] * 3
    assert all(rows(e.train) == list(range(68)) for e in stream)
    assert stream.syllabus().shared


@pytest.mark.parametrize("kind", [Permuted, Rotated])
def test_a_sample_held_out_of_one_task_is_held_out_of_all(prepared, kind):
    stream = opened(kind(data=prepared, tasks=3, validation=0.25, exam_on="validation"))
    trained = set(chain.from_iterable(rows(e.train) for e in stream))
    asked = set(chain.from_iterable(rows(exam.data) for exam in stream.exams()))
    assert not trained & asked
    assert trained | asked == set(range(68))


def test_hundreds_of_tasks_with_few_exams():
    stream = opened(Permuted(tasks=9, samples=100, exam_every=4, exam_samples=50, look_every=2))
    exams = stream.exams()
    assert [(exam.name, exam.since, exam.data.view, len(exam.data)) for exam in exams] == [
        ("3", 3, 3, 50),
        ("7", 7, 7, 50),
    ]
    assert rows(exams[0].data) == rows(exams[1].data)
    assert [step for step in range(10) if stream.looks(step)] == [0, 2, 4, 6, 8]
    assert stream.syllabus().sizes == (100,) * 9
    drawn = [rows(e.train) for e in stream]
    assert all(len(set(one)) == 100 for one in drawn)
    assert drawn[0] != drawn[1]
    assert len(set(chain.from_iterable(drawn))) > 500


def test_what_800_tasks_hold_does_not_grow_with_the_data():
    """Views alone are one for each task: all tasks teach from the same rows."""
    stream = opened(Permuted(tasks=800))
    assert stream[0].train.source.views.nbytes == 800 * 64 * 8
    assert stream[0].train.index.data_ptr() == stream[799].train.index.data_ptr()


# Mistakes.


@pytest.mark.parametrize(
    ("stream", "line"),
    [
        (
            Toy(experiences=4),
            "stream.experiences=4 does not divide the 6 classes of toy. These do: 1, 2, 3, 6.",
        ),
        (Toy(take=7), "stream.take=7: toy has 6 classes."),
        (Permuted(tasks=4, exam_every=5), "stream.exam_every=5 leaves the 4 tasks without an exam."),
        (
            Permuted(tasks=4, exam_every=3, look_every=2),
            "stream.look_every=2 must divide stream.exam_every=3, so that an exam is sat right after its task.",
        ),
        (Toy(order=[0, 1, 2, 3, 4]), "stream.order must list each label of toy once: 0 to 5."),
        (Toy(order=[0, 1, 2, 3, 4, 4]), "stream.order must list each label of toy once: 0 to 5."),
        (
            Toy(exam_on="validation"),
            "stream.exam_on=validation needs a share to hold out: set stream.validation=0.1, say.",
        ),
        (Toy(validation=0.01), "stream.validation=0.01 holds out none of the 80 samples of experience 0."),
        (Toy(validation=0.999), "stream.validation=0.999 holds out all of the 80 samples of experience 0."),
        (Toy(label="coarse"), "There is no field of toy named 'coarse'. There are: y."),
        (Toy(label="x"), "There is no field of toy named 'x'. There are: y."),
        (
            ClassIncremental(data=""),
            "This stream needs data: stream.data=PATH (a folder of images, an .npz) or stream.data=NAME.",
        ),
        (
            DomainIncremental(data="THINGS", domain="dom"),
            "There is no field of things named 'dom'. Did you mean 'domain'? There are: domain, group, y.",
        ),
        (
            DomainIncremental(data="THINGS", label="classes"),
            "There is no field of things named 'classes'. There are: domain, group, y.",
        ),
        (
            DomainIncremental(data="THINGS", order=["photos"]),
            "There is no domain in THINGS named 'photos'. Did you mean 'photo'? There are: clip, photo, sketch.",
        ),
        (
            DomainIncremental(data="THINGS", order=["photo", "clip", "photo"]),
            "stream.order must list one or more of photo, sketch, clip, each at most once.",
        ),
        (
            DomainIncremental(data="THINGS", order=[]),
            "stream.order must list one or more of photo, sketch, clip, each at most once.",
        ),
    ],
)
def test_mistakes_are_one_line(prepared, stream, line):
    stream.data = stream.data.replace("THINGS", prepared)
    with pytest.raises(Mistake) as error:
        stream.open(0)
    assert str(error.value) == line.replace("THINGS", prepared)


def test_an_experience_without_a_test_sample(prepared, monkeypatch):
    stream = DomainIncremental(data=prepared)
    dataset = stream._open_dataset()
    dataset.splits["test"]["domain"][:] = 1
    monkeypatch.setattr(stream, "_open_dataset", lambda: dataset)
    with pytest.raises(Mistake, match=r"^Experience 0 of the stream over .*things has no test sample\.$"):
        stream.open(0)


def test_the_beginning_of_a_stream_passes_everything_on():
    """What a stream can be asked is asked of the whole one, whatever is added to Stream."""
    from clbench.beginning import Beginning
    from clbench.stream import Stream

    asked = {name for name in vars(Stream) if not name.startswith("_")} - {"version", "offers", "criterion"}
    assert asked <= vars(Beginning).keys()
    whole = Toy(samples=5)
    begun = Beginning(whole, 2)
    begun.open(0)
    assert (begun.version, begun.offers, begun.criterion) == (whole.version, whole.offers, whole.criterion)
    assert [len(experience.train) for experience in begun] == [10, 10]
    assert [exam.since for exam in begun.exams()] == [0, 1]
    assert (begun.syllabus().lessons, begun.syllabus().sizes) == (2, (10, 10))
    assert begun.syllabus().classes == whole.syllabus().classes
    assert begun.protocol() == {**whole.protocol(), "first experiences": 2}
