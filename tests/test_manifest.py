"""What a stream teaches is the same on every machine: golden digests, over data that comes with the installation.

Where one changes, numbers change: raise the stream's version, and say so in CHANGELOG.md under Numbers.
"""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from clbench.catalogue import resolve
from clbench.cli import main
from clbench.data import Data, Source
from clbench.errors import Mistake
from clbench.stream import Exam, Experience, Stream, manifest
from clbench.streams.borderless import Blurry, Turning
from clbench.streams.fewshot import FewShot
from clbench.streams.forgetting import Forgetting
from clbench.streams.incremental import ClassIncremental, Permuted, Rotated
from clbench.streams.recurring import Sampling, SCoLe, Slots
from clbench.streams.toy import Toy

STREAMS = {
    "toy": Toy(),
    "toy in each run's order, some held out": Toy(order="seed", validation=0.25, exam_on="validation"),
    "digits": ClassIncremental(),
    "permuted digits": Permuted(tasks=3, samples=100),
    "rotated digits": Rotated(tasks=3),
    "blurry digits": Blurry(),
    "turning digits": Turning(data="digits", stretches=2),
    "scole": SCoLe(experiences=20, classes=6, samples=30),
    "scole, imbalanced": SCoLe(experiences=20, imbalance=2.0, prob_reduction=2.0),
    "scole, cycle": SCoLe(experiences=20, draw="cycle", random_slots=0.5),
    "scole, couples": SCoLe(experiences=20, draw="couples", couples=0.1),
    "scole, iid": SCoLe(experiences=5, draw="iid"),
    "cir, slots": Slots(experiences=10, per_experience=3),
    "cir, sampling": Sampling(experiences=20, samples=100, first=0.2),
    "few-shot digits": FewShot(base=6, way=2),
    "forgetting digits": Forgetting(requests=3, per_request=2, order=7, missing=1),
}
GOLDEN = {
    "toy": "7e65f15fc1a945750b71ab7d05a18739a16ba2c8d4d3e4240bc53eed397c38cb",
    "toy in each run's order, some held out": "7d9ee8a8d2e8b571e27ed68d1ad0e29196cef9b81ee009159e9364b2fba92e0f",
    "digits": "e9a0c0cffa01bd228bf847c6c8f7c76010abb871be9b665559662c410dac90a1",
    "permuted digits": "f7ceecf535fd17aeb1d372fc287ecab48519c014276329c8d1c6c110785a4a8b",
    "rotated digits": "1580318a454649f91c66d9373dfe23cd8e3a72ec9e558041c93cdcc9bc8964f4",
    "blurry digits": "e91ba69dd51d81b72d28fb1195d2fcd7f382d70fbc55e8edecad404bf9b04767",
    "turning digits": "e95f11bb9e23c6b2d3b5e922f0ae3777345cf39ea2ecc0e49414fc28026fd5ad",
    "scole": "60e081f048a13eeffa4aa89da9e9472ec7faf3e9ce420497a43333ca7de9677d",
    "scole, imbalanced": "8e0b180023652b595bd7609031109d74d43a095a9eb6fe1dfd63c7051c4423c1",
    "scole, cycle": "d6cc795200d134b631483c28e5d018cbdb5bf1397dbafacd22a90b43e6b19901",
    "scole, couples": "d879aa8ea8b0b7a9d12ecbc550873c8750bba82fc15ab69104efc6324cc44d92",
    "scole, iid": "dd012da70af6a5104315de6a53dfcc4402d779facc72816abca428b21b6374bb",
    "cir, slots": "a381aab85ba75c2f38fdefb8ec35653e5b306b14ee1f043f0179d6dd953131ea",
    "cir, sampling": "b1604980da16350eefa1d3f2599df78b246f5131f48bbe4b047b4c87edbe55e1",
    "few-shot digits": "de587d478c3dab286e59a0ef5cb6401844da560750261d8540f78a74a6e1415b",
    "forgetting digits": "66dd10098a10bd503c4aaa8d73d909f283255876d8ae5f188102e30e5fde5a26",
}
"""of seed 1"""
SHOTS = {
    "fewshot_cifar100": "a519e7ac48b75311ac5df2268b5009f0ffe5b5d40fce25c0e948d839f38ee572",
    "fewtune_cifar100": "b20459160c547a72a8336b04283d38f000ee9d6d7a6d6609fa1d0974a9881463",
}
"""of seed 0, where CIFAR-100 is prepared"""


def digest(stream, seed=1):
    stream.open(seed)
    return manifest(stream)["sha256"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_the_same_on_every_machine(name):
    assert digest(STREAMS[name]) == GOLDEN[name]


@pytest.mark.parametrize("name", SHOTS)
def test_the_shots_of_cifar100_are_what_they_were(name):
    """No list of them is kept: they are drawn, from a data set whose content is checked."""
    stream = replace(resolve("stream", name))
    try:
        found = digest(stream, 0)
    except Mistake as missing:
        pytest.skip(str(missing))
    assert found == SHOTS[name]


@dataclass
class Tiny(Stream):
    """One lesson and one exam, of which something can be changed."""

    version: ClassVar[int] = 1

    def open(self, seed):
        x = torch.zeros(4, 1, 2, 1, dtype=torch.uint8)
        source = Source(x, torch.tensor([0, 1, 0, 1]), torch.tensor([[0, 1], [1, 0]]))
        self.lesson, self.asked, self.since = Data(source, torch.arange(2), view=0, lesson=0), torch.tensor([2, 3]), 0

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Experience(0, self.lesson, frozenset({0, 1}))

    def exams(self):
        return [Exam("all", Data(self.lesson.source, self.asked), frozenset({0, 1}), since=self.since)]


def test_a_digest_is_over_positions_labels_views_and_what_exams_say():
    def changed(**change):
        stream = Tiny()
        stream.open(0)
        vars(stream).update(change)
        return manifest(stream)["sha256"]

    stream = Tiny()
    stream.open(0)
    source = stream.lesson.source
    relabelled = Source(source.x, source.y.flip(0), source.views)
    one = changed()
    others = [
        changed(lesson=Data(source, torch.tensor([1, 0]), view=0)),
        changed(lesson=Data(source, torch.arange(2))),
        changed(lesson=Data(source, torch.arange(2), view=1)),
        changed(lesson=Data(source, torch.arange(2), view=torch.tensor([0, 1]))),
        changed(lesson=Data(relabelled, torch.arange(2), view=0)),
        changed(asked=torch.tensor([3, 2])),
        changed(since=None),
    ]
    assert len({one, *others}) == 8


# The command.


def test_a_line_for_each_part(capsys):
    assert main(["manifest", "stream=toy", "seed=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 + 3 + 1
    assert lines[0][66:] == "data toy"
    assert [line[66:] for line in lines[1:5]] == [
        "experience 0, 80 samples", "experience 1, 80 samples", "experience 2, 80 samples", "exam 0, 40 samples"
    ]  # fmt: skip
    assert lines[-1] == f"{GOLDEN['toy']}  stream toy, seed 1, whole"


def test_as_json_for_each_seed(capsys):
    assert (
        main(["manifest", "stream=scole_mnist", "stream.data=digits", "stream.experiences=9", "--json", "seed=1,2"])
        == 0
    )
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["stream"], one["seed"], len(one["experiences"])) for one in found] == [
        ("scole_mnist", 1, 9), ("scole_mnist", 2, 9)
    ]  # fmt: skip
    assert found[0]["sha256"] != found[1]["sha256"]
    assert set(found[0]["data"]) == {"digits"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stream=toyy"], "There is no stream named 'toyy'. Did you mean 'toy'?"),
        (["strategy=er"], "'strategy=er': a manifest is of a stream; beside it and its options only recipe and seed"),
        (["stream=toy", "stream.take=7"], "stream.take=7: toy has 6 classes."),
        (["stream=toy", "sed=1"], "There is no setting named 'sed'. Did you mean 'seed'?"),
    ],
)
def test_a_mistake_is_one_line(words, line, capsys):
    assert main(["manifest", *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(line)
    assert told.err.count("\n") == 1
