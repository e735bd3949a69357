"""Concepts of several data sets: their order, how they are cut into tasks, what is mixed, and what is asked for."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clbench.config import plans, resolve
from clbench.dual import Dual
from clbench.errors import Mistake
from clbench.learner import Learner
from clbench.maf import MemoryAdjusted
from clbench.mixture import Mixture
from clbench.strategies.consolidation import EWC
from clbench.strategies.merging import EMAMerge
from clbench.strategies.schedules import MetaSchedule
from clbench.streams.concepts import Concepts, drawn
from clbench.streams.fomo import Fomo, contrastive
from clbench.streams.orderings import Concept, chunks, frequent, scored, shortened, similar
from clbench.streams.scores import scores
from clbench.sweep import check
from clbench.testing import check_strategy
from clbench.words import to_text

SETS = [
    Concepts("digits", "pretraining", "upright", "a {}.", classes=(0, 4)),
    Concepts("digits", "adapt", "left", "a {} turned left.", classes=(2, 7), turn="left", year=2),
    Concepts("digits", "adapt", "bright", "a bright {}.", classes=(0, 2), turn="negative", year=1),
    Concepts("digits", "eval", "mirrored", "a {} in the mirror.", turn="mirrored"),
]
SMALL = {"sets": SETS, "tasks": 3, "per_class": 12, "exam_samples": 30}


def opened(seed=0, **options):
    stream = Fomo(**{**SMALL, **options})
    stream.open(seed)
    return stream


def titles(stream):
    """The data set of each concept, task by task."""
    of = {concept.label: concept.dataset for concept, _, _ in stream.concepts()}
    return [[of[label] for label in sorted(lesson.classes)] for lesson in stream]


def test_concepts_are_cut_into_tasks_the_first_of_which_have_one_more():
    assert chunks(7, 3) == [0, 3, 5, 7]
    stream = opened()
    assert [len(lesson.classes) for lesson in stream] == [3, 2, 2]
    assert sorted(label for lesson in stream for label in lesson.classes) == list(range(4, 11))
    with pytest.raises(Mistake, match="there are 7 concepts"):
        opened(tasks=8)


def test_each_task_has_all_samples_of_its_concepts_and_the_pools_stand_beside():
    first, second, third = opened()
    assert sorted(first.train.labels.tolist()) == sorted([*first.classes] * 12)
    assert isinstance(third.train, Mixture)
    past = third.train.pools["buffer"].tolist()
    assert past == [*first.train.index.tolist(), *second.train.index.tolist()]
    assert len(third.train.pools["pretraining"]) == 4 * 12
    assert not isinstance(opened(mixture={"update": 1.0})[1].train, Mixture)


def test_what_teaches_or_asks_something_else_is_another_protocol():
    turned = [SETS[0], replace(SETS[1], turn="over"), *SETS[2:]]
    assert Fomo(**SMALL).protocol() != Fomo(**{**SMALL, "sets": turned}).protocol()
    near = [Fomo(**SMALL, order="similarity", embedding=name).protocol() for name in ("hashed", "minilm")]
    assert near[0] != near[1]


def test_exams_know_which_data_sets_are_taught_and_since_when():
    stream = opened(order="time")
    by = {exam.name: exam for exam in stream.exams()}
    assert {name: exam.since for name, exam in by.items()} == {
        "upright": None,
        "left": 0,
        "bright": 0,
        "mirrored": None,
    }
    assert by["mirrored"].classes == frozenset(range(11, 21))
    assert np.bincount(by["mirrored"].data.labels.numpy())[11:].tolist() == [3] * 10
    assert stream.syllabus().names[4].endswith("turned left.")
    assert stream.pool().labels.unique().tolist() == [0, 1, 2, 3]


def test_images_are_shown_as_a_set_says():
    stream = opened(order="dataset", per_class=None)
    plain = opened(order="dataset", per_class=None, sets=[Concepts("digits", "adapt"), SETS[0]])
    x = stream[1].train
    negative = 255 - x.gather(torch.arange(len(x)))[0]
    known = {bytes(one.numpy().tobytes()) for one in plain[0].train.source.x}
    assert all(one.numpy().tobytes() in known for one in negative)


def test_orders():
    random, again, reverse = opened(), opened(seed=5), opened(reverse=True)
    classes = [lesson.classes for lesson in random]
    assert classes == [lesson.classes for lesson in again]  # the stream's own seed, shared by all runs
    assert random[0].classes != opened(order_seed=3)[0].classes
    assert reverse[2].classes < random[0].classes
    assert [set(task) for task in titles(opened(order="dataset"))] == [{"left"}, {"bright"}]
    assert titles(opened(order="time"))[0] == ["left", "bright", "bright"]


def test_orders_by_frequency_similarity_and_scores(tmp_path):
    concepts = [Concept("d", name, label) for label, name in enumerate(("cat", "red_fox", "dog", "fox"))]
    captions = {"a photo of a cat.": 5, "a red fox and a dog.": 2, "foxes": 9}
    assert [c.name for c in frequent(concepts, captions)] == ["red_fox", "dog", "fox", "cat"]
    assert {c.name for c in similar(concepts, "hashed", 3)[:2]} == {"fox", "red_fox"}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({str(c): {"performance": c.label % 3, "loss": -c.label} for c in concepts}))
    assert [c.label for c in scored(concepts, "performance", str(file))] == [2, 1, 0, 3]
    assert [c.label for c in scored(concepts, "loss", str(file))] == [3, 2, 1, 0]
    with pytest.raises(Mistake, match=r"stream\.scores=FILE"):
        scored(concepts, "loss", "")


def test_a_path_is_shortened_until_no_part_turned_round_helps():
    places = np.array([[0, 0], [3, 0], [1, 0], [2, 0]])
    far = np.linalg.norm(places[:, None] - places, axis=-1)
    assert shortened([0, 1, 2, 3], far) == [0, 2, 3, 1]


def test_a_file_is_an_order_as_the_authors_have_it(tmp_path):
    names = [str(concept) for concept, _, _ in opened().concepts()]
    file = tmp_path / "order.json"
    file.write_text(json.dumps(names[::-1][:6]))
    stream = opened(order=str(file))
    assert len(stream.checksums()["order.json"]) == 64
    assert [sorted(lesson.classes) for lesson in stream] == [[9, 10], [7, 8], [5, 6]]
    assert {exam.name: len(exam.classes) for exam in stream.exams()}["left"] == 4
    file.write_text(json.dumps(["left+++11"]))
    with pytest.raises(Mistake, match="no concept to adapt to named"):
        opened(order=str(file))


def test_the_contrastive_loss_by_hand():
    output, target = torch.tensor([[2.0, 0.0, 5.0], [0.0, 1.0, 5.0]]), torch.tensor([0, 1])
    rows = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    columns = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert float(contrastive(output, target)) == pytest.approx((rows + columns) / 2)
    # Two images of one caption share the target: each row and column is uniform over both.
    assert float(contrastive(output[:1].repeat(2, 1), torch.tensor([0, 0]))) == pytest.approx(math.log(2))
    one = float(contrastive(output[:1], target[:1]))
    assert one == pytest.approx(-2 + math.log(math.exp(2) + 1 + math.exp(5)))


def test_what_is_held_out_is_asked_for_in_validation_and_not_taught():
    stream = opened(validation=0.25, exam_on="validation", per_class=None, exam_samples=None)
    taught = torch.cat([stream.pool().index, *(lesson.train.index for lesson in stream)])
    assert len(taught) == len(stream.pool().source.y)
    left = next(exam for exam in stream.exams() if exam.name == "left")
    whole = opened(per_class=None)
    assert len(left.data) == pytest.approx(0.25 * sum(len(d) for c, d, _ in whole.concepts() if c.dataset == "left"), 5)
    labels = np.array([0, 0, 0, 0, 1, 1])
    assert len(drawn(labels, share=0.5)) == 3
    assert set(drawn(labels, 1)) <= set(drawn(labels, 2))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sets": SETS[:1]}, "data sets to adapt to"),
        ({"sets": [*SETS, SETS[0]]}, "called upright"),
        ({"mixture": {"update": 0.5}}, "sum to 1, not to 0.5"),
        ({"sets": SETS[1:]}, "none of stream.sets has that role"),
        ({"mixture": {"buffer": 1.0}}, "without samples"),
        ({"exam_on": "validation"}, "stream.validation=0.1"),
        ({"order": "nowhere.json"}, "is none of random"),
        ({"sets": [Concepts("digits", where="domain=photo")], "mixture": {"update": 1.0}}, "no field of digits"),
    ],
)
def test_what_does_not_go_together_is_said(options, line):
    with pytest.raises(Mistake, match=line):
        opened(**options)


def test_sets_are_written_in_a_command_and_read_again(tmp_path):
    words = {"stream": "fomo", "stream.sets": [{"data": "digits", "role": "adapt"}], "stream.mixture": {"update": 1.0}}
    plan = resolve(words)
    assert plan.stream.sets == [Concepts("digits", "adapt")]
    (tmp_path / "config.yaml").write_text(plan.text())
    assert resolve({"config": str(tmp_path / "config.yaml")}).stream == plan.stream
    assert to_text(Concepts("digits", classes=(0, 2))) == "{data:digits,classes:[0,2]}"


def test_scores_are_of_every_concept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = scores(["stream=fomo", "stream.per_class=4", "model.pretraining_epochs=1"])
    assert len(found) == 30
    assert all(0 <= one["performance"] <= 1 and one["loss"] > 0 for one in found.values())


def test_a_run_killed_at_every_save_comes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def method():
        held = EWC(ewc_lambda=0.1, fisher_samples=8)
        return MemoryAdjusted(base=MetaSchedule(meta="dynamic", base=EMAMerge(share=1.0, base=held)), maf=2e8)

    check_strategy(
        method,
        stream=lambda: Fomo(**{**SMALL, "tasks": 2, "per_class": 6}),
        model=Dual(width=16, pretraining_epochs=2),
        learner=Learner(batch=12, optimizer="adamw", lr=0.01, threads=1, device="cpu"),
    )


@pytest.mark.parametrize("words", ["strategy=finetune", "strategy=lwf", "strategy=cored", "learner.loss_mask=seen"])
def test_what_asks_for_a_lesson_of_its_own_is_refused_where_lessons_are_mixed(words):
    line = ["stream=fomo", "model.pretraining_epochs=1", words]
    with pytest.raises(Mistake, match=r"stream\.mixture=\{update:1\.0\}"):
        check(plans(line)[0][0])
    check(plans([*line, "stream.mixture={update:1.0}"])[0][0])
