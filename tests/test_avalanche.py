"""Both ways between Avalanche and clbench: what is exact is held to the bit."""

import csv
import io
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from small import Linear, images, lesson, opened, syllabus, teach, weights
from torch import nn

from clbench import avalanche, sweep
from clbench.avalanche import Avalanche, Classic, from_benchmark, to_benchmark
from clbench.batch import Batch
from clbench.catalogue import resolve
from clbench.config import plans
from clbench.config import resolve as resolve_plan
from clbench.errors import Mistake
from clbench.learner import Diverged, Learner
from clbench.metric import Look, Probe, Row
from clbench.recorder import Recorder
from clbench.run import Run
from clbench.strategies.alignment import WA
from clbench.strategies.replay import ER
from clbench.strategy import Strategy
from clbench.streams.incremental import ClassIncremental, Permuted
from clbench.streams.toy import Toy
from clbench.testing import check_strategy, check_stream
from clbench.words import parse

installed = pytest.mark.skipif(find_spec("avalanche") is None, reason="avalanche-lib is not installed")

FIRST, SECOND = [0, 1] * 20, [2, 3] * 20


@dataclass
class Whole:
    """What makes two loops differ where they can: dropout, and statistics that each pass moves."""

    def build(self, shape, classes):
        inputs = int(np.prod(shape))
        body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2))
        return nn.Sequential(OrderedDict(body=body, head=nn.Linear(32, classes)))


@dataclass
class InTheirOrder(Strategy):
    """Fine-tuning in the order in which torch's loader goes through a data set."""

    def batches(self, learner, experience) -> Iterator[Batch]:
        data = experience.train
        for index in torch.utils.data.DataLoader(range(len(data)), learner.batch, shuffle=True):
            raw, y = learner.gather(data, index)
            yield Batch(learner.encode(raw), y, raw, index)


@dataclass
class Inside(Probe):
    """Where it looked, and what is answered there."""

    when: ClassVar[tuple[str | int, ...]] = (3,)

    def __call__(self, look: Look) -> Iterator[Row]:
        x, _ = look.exams[0].data.gather(torch.arange(4))
        assert not any(module.training for module in look.learner.model.modules())
        with torch.inference_mode():
            answer = look.strategy.predict(look.learner, look.learner.encode(x))
        yield Row(look.step, look.at, "inside/answer", "", float(answer.sum()))


def lessons():
    return [lesson(images(FIRST)), lesson(images(SECOND), 1)]


def run(folder: Path, strategy: Strategy, stream: Any, seed: int = 0, **options: Any) -> tuple[list[dict], Learner]:
    """The rows of a run, and its learner."""
    learner = Learner(**{"threads": 1, "device": "cpu", **options})
    probes = [Inside(), *(resolve("metric", name)() for name in ("exams", "cost", "loss", "drift"))]
    with Recorder(folder) as recorder:
        Run(stream, strategy, Whole(), learner, seed, probes, recorder)()
    return list(csv.DictReader(io.StringIO((folder / "rows.csv").read_text()))), learner


def final(rows: list[dict]) -> float:
    """Mean accuracy over all exams at the end."""
    last = max(int(row["step"]) for row in rows)
    return float(
        np.mean([float(r["value"]) for r in rows if r["metric"] == "class/accuracy" and int(r["step"]) == last])
    )


# Their strategies.


@installed
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adam", "lr": 0.01, "schedule": "cosine", "clip": 0.5, "loss_mask": "seen"},
        {"momentum": 0.9, "keep_optimizer": True, "weight_decay": 1e-3, "loss_mask": "experience"},
    ],
    ids=["sgd", "adam", "momentum"],
)
def test_naive_through_both_loops_is_the_same_to_the_bit(options, tmp_path):
    """Every row (accuracies, losses, drift, operations, looks within experiences), and every weight."""
    options = {"epochs": 3, "batch": 16, "lr": 0.1, **options}
    ours, one = run(tmp_path / "ours", InTheirOrder(), Toy(), **options)
    theirs, other = run(tmp_path / "theirs", Avalanche(), Toy(), **options)
    unread = ("cost/parameters_stored", "cost/bytes_kept")
    assert [row for row in ours if row["metric"] not in unread] == [
        row for row in theirs if row["metric"] not in unread
    ]
    assert {row["note"] for row in theirs if row["metric"] in unread} == {"the strategy's state can't be read"}
    assert sum(row["metric"] == "inside/answer" for row in theirs) == 3 * 3
    a, b = one.model.state_dict(), other.model.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@installed
def test_a_method_of_no_strength_is_naive():
    found = []
    for strategy in (
        Avalanche(),
        Avalanche("LwF", {"alpha": 0, "temperature": 2}),
        Avalanche(plugins={"LwFPlugin": {"alpha": 0}}),
        Avalanche("EWC", {"ewc_lambda": 0.0}),
        Avalanche("SynapticIntelligence", {"si_lambda": 0.0}),
    ):
        learner = opened(epochs=2, batch=16)
        teach(learner, strategy, lessons())
        found.append(weights(learner))
    assert all(torch.equal(found[0], other) for other in found[1:])


@installed
def test_a_plugin_does_what_the_strategy_of_its_name_does():
    found = []
    for strategy in (
        Avalanche("LwF", {"alpha": 2, "temperature": 2}),
        Avalanche(plugins={"LwFPlugin": {"alpha": 2, "temperature": 2}}),
        Avalanche(),
    ):
        learner = opened(epochs=2, batch=16)
        teach(learner, strategy, lessons())
        found.append(weights(learner))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@installed
def test_what_replay_and_projection_cost_is_counted():
    """A linear map of 16 inputs to 4 labels takes 2 x 16 x 4 operations a sample forward and as many backward, in one
    layer without a gradient for its input."""
    a_sample = 2 * 2 * 16 * 4

    def spent(strategy):
        learner = opened(model=Linear(torch.zeros(4, 16)), epochs=2, batch=16)
        teach(learner, strategy, lessons())
        return learner.flops.total

    stream = 2 * 80 * a_sample
    assert spent(Avalanche()) == stream
    replay = spent(Avalanche("Replay", {"mem_size": 16}))
    assert replay == stream + 2 * 3 * 16 * a_sample  # memory comes in with each batch of the second lesson
    gem = spent(Avalanche("GEM", {"patterns_per_exp": 10, "memory_strength": 0.5}))
    assert gem == stream + 2 * 3 * 10 * a_sample  # the gradient of memory, at each step of the second lesson


@installed
def test_importances_are_counted():
    learner = opened(model=Linear(torch.zeros(4, 16)), epochs=1, batch=16)
    teach(learner, Avalanche("EWC", {"ewc_lambda": 1.0}), lessons())
    assert learner.flops.total == 2 * 80 * 2 * 2 * 16 * 4  # a pass of training and one for importances


@installed
def test_our_model_is_trained_in_place():
    """GDumb begins each experience with a copy of the initial model, and forgets what memory does not hold."""
    learner = opened(epochs=4, batch=16)
    before, model = weights(learner), learner.model
    strategy = teach(learner, Avalanche("GDumb", {"mem_size": 40}), lessons())
    assert strategy.theirs.model is model is learner.model
    assert not torch.equal(before, weights(learner))
    assert learner.step == 4 * (3 + 3)


@installed
def test_a_loss_that_is_no_number_ends_a_run_at_its_step():
    learner = opened(epochs=2, batch=16, lr=1e30)
    with pytest.raises(Diverged) as error:
        teach(learner, Avalanche(), lessons())
    assert 1 < error.value.step <= 6
    assert not torch.is_inference_mode_enabled()


@installed
def test_their_strategies_learn_and_remember(tmp_path):
    """Fine-tuning forgets the toy stream's first classes; replay does not."""
    options = {"epochs": 4, "batch": 16, "lr": 0.05}
    naive = final(run(tmp_path / "naive", Avalanche(), Toy(), **options)[0])
    for name, given in (("Replay", {"mem_size": 60}), ("DER", {"mem_size": 60}), ("ER_ACE", {"mem_size": 60})):
        assert final(run(tmp_path / name, Avalanche(name, given), Toy(), **options)[0]) > naive + 0.2


@installed
@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (
            Avalanche("GEMM"),
            r"There is no strategy of Avalanche named 'GEMM'\. Did you mean 'GEM'\? There are: AETraining, ",
        ),
        (
            Avalanche("JointTraining"),
            r"strategy\.name=JointTraining is given all experiences at once, .* strategy=joint",
        ),
        (
            Avalanche("GEM", {"patterns": 1}),
            r"There is no option of Avalanche's GEM named 'patterns'\. Did you mean 'patterns_per_exp'\? "
            r"There are: memory_strength, patterns_per_exp\.",
        ),
        (Avalanche("GEM"), r"Avalanche's GEM needs patterns_per_exp: strategy\.options=\{patterns_per_exp:…\}\."),
        (Avalanche("PNNStrategy"), r"Avalanche's PNNStrategy can't be made: PNNStrategy requires a PNN model\."),
        (Avalanche("AR1"), r"strategy\.name=AR1 brings a model or an optimiser of its own"),
        (Avalanche(plugins={"LwF": {}}), r"There is no plugin of Avalanche named 'LwF'\. There are: AGEMPlugin, "),
        (
            Avalanche(plugins={"LwFPlugin": {"beta": 1}}),
            r"There is no option of Avalanche's LwFPlugin named 'beta'.* There are: alpha, temperature\.",
        ),
    ],
)
def test_a_wrong_name_or_option_is_one_line(strategy, line):
    with pytest.raises(Mistake, match=line) as error:
        strategy.start(opened(), syllabus())
    assert "\n" not in str(error.value)


@installed
def test_what_changes_the_model_or_its_numbers_is_refused():
    with pytest.raises(Mistake, match=r"strategy\.name=CoPE puts other layers into the model"):
        teach(opened(), Avalanche("CoPE", {"n_classes": 4, "p_size": 4}), lessons())
    with pytest.raises(Mistake, match=r"learner\.precision=bfloat16: Avalanche's loop knows float32 alone"):
        Avalanche().start(opened(precision="bfloat16"), syllabus())


def test_without_avalanche_there_is_one_line(monkeypatch):
    avalanche._theirs.cache_clear()
    monkeypatch.setitem(sys.modules, "avalanche.training.templates.base", None)
    monkeypatch.setitem(sys.modules, "avalanche", None)
    with pytest.raises(Mistake, match=r"^Avalanche can't be imported .* pip install 'clbench\[avalanche\]'\.$"):
        Avalanche().start(opened(), syllabus())
    avalanche._theirs.cache_clear()


@installed
def test_nothing_can_be_put_around_it():
    line = r"^{} can't be put around Avalanche: it acts in Learner.fit, which Avalanche never calls\.$"
    with pytest.raises(Mistake, match=line.format("WA")):
        teach(opened(), WA(base=Avalanche()), lessons())
    for words, around in (
        (["strategy=wa", "strategy.base=avalanche"], "WA"),
        (["strategy=avalanche", "budget.naive=1"], "Budgeted"),
    ):
        [plan], _ = plans(["stream=toy", *words])
        with pytest.raises(Mistake, match=line.format(around)):
            sweep.check(plan)


def test_options_are_typed_and_come_back_as_they_were():
    words = [
        "strategy=avalanche",
        "strategy.name=GEM",
        "strategy.options={patterns_per_exp:256,memory_strength:0.5,on:true,mode:online,sizes:[1,8],none:null}",
        "strategy.plugins={LwFPlugin:{alpha:1,temperature:2.0},EWCPlugin:{ewc_lambda:0.1}}",
    ]
    [plan], _ = plans(["stream=toy", *words])
    given = {
        "patterns_per_exp": 256,
        "memory_strength": 0.5,
        "on": True,
        "mode": "online",
        "sizes": [1, 8],
        "none": None,
    }
    put_in = {"LwFPlugin": {"alpha": 1, "temperature": 2.0}, "EWCPlugin": {"ewc_lambda": 0.1}}
    assert plan.strategy == Avalanche("GEM", given, put_in)
    kinds = [type(value) for value in plan.strategy.options.values()]
    assert kinds == [int, float, bool, str, list, type(None)]
    text = [f"{line.split('  # ')[0].rstrip()}".replace(": ", "=", 1) for line in plan.text().splitlines()]
    [point], _ = parse(text)
    assert resolve_plan(point).strategy == plan.strategy
    with pytest.raises(Mistake, match=r"^strategy\.options=5: input should be a valid dictionary"):
        plans(["strategy=avalanche", "strategy.options=5"])


@installed
def test_replay_of_theirs_reaches_what_ours_does(tmp_path):
    """Within the 95 % interval of the difference of the means (Welch) on digits, in the house's recipe. Their memory
    is balanced over experiences, ours is a reservoir."""
    options = {"epochs": 10, "batch": 32, "lr": 0.1, "eval_batch": 512}
    found = []
    for strategy in (ER(memory_size=100), Avalanche("Replay", {"mem_size": 100})):
        folders = [tmp_path / f"{strategy}" / str(seed) for seed in range(4)]
        found.append(
            [final(run(f, strategy, ClassIncremental(), seed, **options)[0]) for seed, f in enumerate(folders)]
        )
    ours, theirs = found
    half = np.diff(stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval())[0] / 2
    assert abs(np.mean(ours) - np.mean(theirs)) < half < 0.1
    assert min(ours + theirs) > 0.8


# Benchmarks of theirs, streams of ours.


@installed
def test_a_stream_becomes_a_benchmark():
    stream = Toy()
    benchmark = to_benchmark(stream, seed=3)
    stream.open(3)
    transform = stream.transform()
    train, test = benchmark.streams["train"], benchmark.streams["test"]
    parts = [(e.train, theirs) for e, theirs in zip(stream, train, strict=True)]
    parts += [(e.data, theirs) for e, theirs in zip(stream.exams(), test, strict=True)]
    for data, theirs in parts:
        x, y = data.gather(torch.arange(len(data)))
        samples = [theirs.dataset[i] for i in range(len(data))]
        assert torch.equal(torch.stack([sample[0] for sample in samples]), transform(x))
        assert [int(sample[1]) for sample in samples] == y.tolist() == list(theirs.dataset.targets)
        assert [sample[2] for sample in samples] == [0] * len(data)
    assert [e.current_experience for e in train] == [0, 1, 2]
    assert [set(e.classes_in_this_experience) for e in train] == [set(e.classes) for e in stream]
    assert train[1].classes_seen_so_far == {0, 1, 2, 3}
    assert train[2].task_labels == [0]


@installed
def test_augmentation_is_theirs_to_switch():
    """In the group `train` each look at a sample is another one; in `eval` it is the sample."""

    @dataclass
    class Flipped(Toy):
        crop: int = 2

    stream = Flipped()
    data = to_benchmark(stream).streams["train"][0].dataset
    x, _ = stream[0].train.gather(torch.arange(4))
    np.random.seed(0)  # noqa: NPY002
    first, second = torch.stack([data[i][0] for i in range(4)]), torch.stack([data[i][0] for i in range(4)])
    np.random.seed(0)  # noqa: NPY002
    again = torch.stack([data[i][0] for i in range(4)])
    plain = torch.stack([data.eval()[i][0] for i in range(4)])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(plain, stream.transform()(x))


@installed
@pytest.mark.parametrize(
    "stream", [Toy(), Toy(order="seed"), Permuted(data="digits", tasks=2)], ids=["toy", "seed", "views"]
)
def test_there_and_back(stream):
    """A benchmark of a stream, taken back, teaches and asks what the stream does."""
    back = from_benchmark(to_benchmark(stream, seed=1))
    back.open(1)
    transform = stream.transform()
    assert back.syllabus() == replace(stream.syllabus(), names=())
    for one, other in zip(stream, back, strict=True):
        x, y = one.train.gather(torch.arange(len(one.train)))
        again, labels = other.train.gather(torch.arange(len(other.train)))
        assert torch.equal(back.transform()(again), transform(x))
        assert torch.equal(labels, y)
        assert (one.index, one.classes) == (other.index, other.classes)
    mine, theirs = stream.exams(), back.exams()
    assert [(e.name, e.classes, e.since) for e in mine] == [(e.name, e.classes, e.since) for e in theirs]


@installed
def test_a_benchmark_keeps_the_contract_of_streams():
    benchmark = to_benchmark(Toy())
    check_stream(lambda: from_benchmark(benchmark))
    check_strategy(Strategy, stream=lambda: from_benchmark(benchmark))


@installed
def test_one_exam_of_all_classes_is_taught_at_the_end():
    utils, benchmarks = avalanche._theirs("benchmarks.utils"), avalanche._theirs("benchmarks")
    stream = Toy()
    made = to_benchmark(stream)
    test = [experience.dataset for experience in made.streams["test"]]
    whole = benchmarks.benchmark_from_datasets(
        train=[experience.dataset for experience in made.streams["train"]],
        test=[utils.concat_datasets(test), test[1]],
    )
    back = from_benchmark(whole)
    back.open(0)
    assert [(exam.name, len(exam.data), exam.since) for exam in back.exams()] == [("0", 120, 2), ("1", 40, 1)]


@installed
def test_a_benchmark_by_name(monkeypatch):
    drawn = []

    def SplitToy(n_experiences: int, *, seed: int | None = None, dataset_root: str | None = None):
        drawn.append((seed, int(torch.randint(1000, (1,)))))
        if dataset_root:
            raise RuntimeError("no such data\nand more")
        return to_benchmark(Toy(experiences=n_experiences))

    monkeypatch.setattr(avalanche._theirs("benchmarks.classic"), "SplitToy", SplitToy, raising=False)
    stream = Classic("SplitToy", {"n_experiences": 2})
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        stream.open(seed)
    assert torch.equal(state, torch.get_rng_state())
    assert drawn[0] == drawn[1] != drawn[2]
    assert [sorted(e.classes) for e in stream] == [[0, 1, 2], [3, 4, 5]]
    check_stream(Classic("SplitToy", {"n_experiences": 3}))
    [plan], _ = plans(["stream=avalanche", "stream.name=SplitToy", "stream.options={n_experiences:2}", "seed=1"])
    assert plan.stream == stream
    assert plan.protocol()["data"] == "SplitToy"
    for wrong, line in (
        (Classic("SplitTo", {}), r"There is no benchmark of Avalanche named 'SplitTo'\. Did you mean 'SplitToy'\?"),
        (Classic("SplitToy", {"n": 2}), r"There is no option of Avalanche's SplitToy named 'n'"),
        (Classic("SplitToy", {}), r"Avalanche's SplitToy needs n_experiences: stream\.options="),
        (Classic("SplitToy", {"n_experiences": 2, "dataset_root": "x"}), r"SplitToy can't be made: no such data$"),
        (Classic(), r"This stream needs a benchmark of Avalanche: stream\.name=SplitMNIST"),
    ):
        with pytest.raises(Mistake, match=line):
            wrong.open(0)


@installed
def test_a_head_for_each_task_is_refused():
    benchmarks = avalanche._theirs("benchmarks")
    apart = benchmarks.task_incremental_benchmark(to_benchmark(Toy()), reset_task_labels=True)
    with pytest.raises(Mistake, match=r"has a head for each of several tasks"):
        from_benchmark(apart).open(0)
