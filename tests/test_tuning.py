"""Options chosen by what is held out: which runs that takes, what they see, and what is made of them."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from fake import matrix_rows, write_run

from clbench import catalogue, config, results, tuning, words
from clbench.cli import main
from clbench.errors import Mistake

TOY = "stream=toy stream.samples=10 learner.threads=1 probes=[exams] strategy=er strategy.memory_size=20"
SWEEP = f"{TOY} learner.lr=0.001,0.1"
FINAL = "class/final_accuracy"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tune(capsys):
    """Does `clbench tune`; its exit status, and what it prints."""

    def do(line: str) -> tuple[int, str, str]:
        first, judge, rest = line.partition(" --judge")
        status = main(shlex.split(f"tune mlflow=off {first}{judge}{rest}"))
        return status, *capsys.readouterr()

    return do


def search(line, **options):
    return tuning.search(shlex.split(line), **options)[0]


# Which runs.


def test_candidates_are_run_on_the_validation_share_with_seeds_of_their_own():
    found = search(f"{SWEEP} strategy.every=1,2")
    assert found.candidates == [
        {"learner.lr": rate, "strategy.every": every} for rate in (0.001, 0.1) for every in (1, 2)
    ]
    assert [plan.seed for plan in found.plans] == [100, 101, 102] * 4
    assert not set(found.seeds) & set(tuning.JUDGING)
    for plan in found.plans:
        assert (plan.stream.validation, plan.stream.exam_on) == (0.1, "validation")
        assert len({json.dumps(p.protocol()) for p in found.plans}) == 1
    assert found.source == (
        "tuned here on validation (protocol whole on toy, share 0.1, seeds 100-102, "
        "4 candidates of learner.lr, strategy.every, by class/final_accuracy)"
    )


def test_seeds_and_share_can_be_given():
    found = search(f"{SWEEP} seed=8,7 stream.validation=0.3")
    assert (found.seeds, found.share) == ([7, 8], 0.3)
    assert {plan.stream.validation for plan in found.plans} == {0.3}
    assert "seed" not in found.fixed
    assert "stream.validation" not in found.fixed


def test_the_first_experience_alone():
    found = search(SWEEP, protocol="first")
    assert {len_of(plan) for plan in found.plans} == {1}
    assert found.plans[0].protocol()["first experiences"] == 1
    assert "protocol first=1 on toy" in found.source
    assert {len_of(plan) for plan in search(f"{SWEEP} first=2", protocol="first").plans} == {2}


def len_of(plan):
    plan.stream.open(plan.seed)
    return len(plan.stream)


def test_draws_are_a_part_of_the_grid_the_same_each_time():
    line = f"{TOY} learner.lr=0.1,0.2,0.3 strategy.every=1,2,3"
    whole, part = search(line).candidates, search(line, draws=4).candidates
    assert len(part) == 4
    assert part == [candidate for candidate in whole if candidate in part]
    assert part == search(line, draws=4).candidates
    assert search(line, draws=9).candidates == whole
    assert "Candidates are a random part of the grid" in tuning.render(outcome(search(line, draws=4), {}))
    assert "Candidates are a random part of the grid" not in tuning.render(outcome(search(line), {}))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (TOY, "nothing to choose between"),
        (f"{TOY} learner.lr=0.1,0.1", "nothing to choose between"),
        (f"{SWEEP} --protocol firs", "Did you mean 'first'?"),
        (f"{SWEEP} --protocol first first=0", "first=0: input should be greater than"),
        (f"{SWEEP} --protocol first first=3", "first=3 leaves nothing out: the stream has 3 experiences"),
        (f"{SWEEP} first=2", "first=2 belongs to --protocol first"),
        (f"{SWEEP} --draws 1", "--draws 1"),
        (f"{SWEEP} --metric class/forgeting", "Did you mean 'class/forgetting'?"),
        (f"{SWEEP} stream.exam_on=test", "Tuning selects on stream.exam_on=validation"),
        (f"{SWEEP} stream.validation=0", "stream.validation=0.1"),
        (f"{SWEEP} stream.validation=0.1,0.2", "stream.validation can't be tuned"),
        (f"{TOY} learner.epochs=1,2", "share a protocol, or none could be ranked with others; here differ: epochs"),
        ("stream=toy strategy=er strategy.memory_size=10,20", "an axis of the table"),
        ("stream=toy strategy=er,naive learner.lr=1,2", "one strategy is tuned at a time"),
        (f"{SWEEP} config=x.yaml", "config=FILE can't be tuned"),
        (f"{SWEEP} --protocol transfer", "--judge stream=NAME"),
        (f"{SWEEP} --protocol transfer --judge stream=toy", "toy and toy share theirs"),
        (f"{SWEEP} --protocol transfer --judge stream=digits", "one number of experiences: toy has 3, digits has 5"),
        (f"{SWEEP} --judge stream=digits", "under --protocol transfer only"),
        (f"{SWEEP} --judge learner.lr=1", "learner.lr has no place behind --judge"),
        (f"{SWEEP} --judge strategy.memory_size=1", "strategy.memory_size has no place behind --judge"),
        (f"{SWEEP} --judge stream.per_clas=1", "There is no option of stream=toy named 'per_clas'"),
        (f"{SWEEP} results=file/results", "file/results"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_run(tune, home, line, told):
    (home / "file").touch()
    status, out, err = tune(line)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert [path.name for path in home.iterdir()] == ["file"]


def test_a_stream_that_holds_nothing_out_is_a_mistake(monkeypatch):
    from dataclasses import dataclass

    from clbench.stream import Stream

    @dataclass
    class Bare(Stream):
        """No options."""

    monkeypatch.setitem(catalogue.names("stream"), "bare", Bare)
    with pytest.raises(Mistake, match="Nothing can be tuned on stream=bare"):
        search("stream=bare learner.lr=1,2")


# What they see.


def written(path: Path, change: int | None = None, test: int = 0) -> Path:
    """A data set of 6 classes; `change` makes noise of the classes from there on, `test` inverts the test split."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 20)
    centres = rng.integers(40, 200, (6, 5, 5))
    x = np.clip(centres[y] + rng.normal(0, 50, (120, 5, 5)), 0, 255).astype(np.uint8)
    if change is not None:
        x[y >= change] = rng.integers(0, 256, x[y >= change].shape)
    arrays = {"train_x": x, "train_y": y, "test_x": x[::4] if not test else 255 - x[::4], "test_y": y[::4]}
    np.savez(path, **arrays)
    return path


QUICK = "seed=100 probes=[exams] learner.epochs=8 learner.batch=8 model=mlp model.hidden=16"


def scores(tune, file: Path, more: str) -> list[str]:
    """The candidates' lines of the table."""
    line = f"stream=folder stream.data={file} stream.experiences=3 stream.normalise=unit learner.threads=1 {more}"
    status, out, err = tune(f"{line} strategy=er learner.lr=0.02,0.1 results={file.stem} stream.validation=0.2 {QUICK}")
    assert (status, err) == (0, "")
    return [line for line in out.splitlines() if line.startswith("learner.lr=")]


@pytest.mark.parametrize("protocol", ["whole", "first"])
def test_no_exam_is_seen(tune, home, protocol):
    one, other = written(home / "one.npz"), written(home / "other.npz", test=1)
    assert scores(tune, one, f"--protocol {protocol}") == scores(tune, other, f"--protocol {protocol}")


def test_first_sees_no_later_experience(tune, home):
    one, other = written(home / "one.npz"), written(home / "other.npz", change=4)
    assert scores(tune, one, "--protocol first first=2") == scores(tune, other, "--protocol first first=2")
    assert scores(tune, one, "--protocol whole") != scores(tune, other, "--protocol whole")


# What is made of them.


def outcome(found, accuracies, states=None):
    """The outcome of runs that end at these accuracies, by candidate and seed."""
    root, runs = Path(mkdtemp(dir=".")), []
    for index in range(len(found.candidates)):
        for place, seed in enumerate(found.seeds):
            value = accuracies.get(index, [0.5] * len(found.seeds))[place]
            state = (states or {}).get((index, seed), "done")
            rows = matrix_rows([[0.9], [value, value]])
            runs.append(write_run(root / str(len(runs)), "er", seed, rows=rows, state=state, config={}))
    return tuning.outcome(found, [results.open_result(run) for run in runs])


def test_the_best_mean_is_chosen():
    found = search(f"{TOY} learner.lr=0.01,0.1,1")
    best = outcome(found, {0: [0.5, 0.5, 0.5], 1: [0.6, 0.7, 0.8], 2: [0.9, 0.5, 0.4]})
    assert best.values == {"learner.lr": 0.1}
    assert best.cells[1].mean == pytest.approx(0.7)
    text = tuning.render(best, "md")
    assert "| learner.lr=0.1 (chosen) | 3 | 70.0 ± 24.8 |" in text
    assert text.index("learner.lr=0.1 ") < text.index("learner.lr=1.0 ") < text.index("learner.lr=0.01 ")
    assert "With fewer than 6 seeds no difference between candidates can be claimed" in text


def test_less_is_better_where_the_metric_says_so():
    found = search(SWEEP, metric="class/forgetting")
    assert outcome(found, {0: [0.8, 0.8, 0.8], 1: [0.2, 0.2, 0.2]}).values == {"learner.lr": 0.001}


def test_a_candidate_with_a_seed_that_diverged_is_not_chosen():
    found = search(SWEEP)
    best = outcome(found, {0: [0.9, 0.9, 0.9], 1: [0.2, 0.2, 0.2]}, {(0, 101): "diverged"})
    assert best.values == {"learner.lr": 0.1}
    assert "| learner.lr=0.001, 1 of 3 diverged at step 40 | 3 | – |" in tuning.render(best, "md")
    none = {(0, 101): "diverged", (1, 100): "failed"}
    assert outcome(search(f"{SWEEP} seed=100,101"), {}, none).chosen is None


def test_equals_and_edges_are_said():
    found = search(f"{TOY} learner.lr=0.01,0.1,1 strategy.every=1,2")
    best = outcome(found, {4: [0.9] * 3, 5: [0.9] * 3})
    text = tuning.render(best, "md")
    assert best.values == {"learner.lr": 1, "strategy.every": 1}
    assert "first of them is taken: learner.lr=1.0 strategy.every=1; learner.lr=1.0 strategy.every=2." in text
    assert best.source == f"{found.source}; the first of 2 that are equal"
    assert tuning.preset(best).startswith(f"source: '{best.source}'")
    assert "learner.lr=1.0 is the largest that was tried" in text
    assert "strategy.every=1 is" not in text
    assert "One experience can't show forgetting" not in text
    assert "One experience can't show forgetting" in tuning.render(outcome(search(SWEEP, protocol="first"), {}), "md")


def test_a_preset_is_read_back():
    found = search(f"{SWEEP} stream.validation=0.2 seed=5,6")
    best = outcome(found, {1: [0.9, 0.9]})
    tuning.save(best, Path("there/er.yaml"))
    plan = config.resolve({"tuned": "there/er.yaml", "seed": 3})
    assert (plan.values["learner.lr"], plan.sources["learner.lr"]) == (0.1, f"preset: {found.source}")
    assert plan.values["strategy.memory_size"] == 20
    assert (plan.stream.validation, plan.stream.exam_on, plan.seed) == (0.0, "test", 3)
    assert plan.preset() == found.source
    by_hand = config.resolve(words.parse(shlex.split(f"{TOY} learner.lr=0.1 seed=3"))[0][0])
    assert plan.hash({}) == by_hand.hash({})
    other = config.resolve({"tuned": "there/er.yaml", "learner.lr": 0.5})
    assert (other.values["learner.lr"], other.preset()) == (0.5, "untuned")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tuned=nowhere.yaml", "tuned=nowhere.yaml can't be read"),
        ("tuned=config.yaml", "is not as clbench tune writes it"),
        ("tuned=er.yaml strategy=naive", "tuned=er.yaml is for strategy=er, not for strategy=naive"),
        ("tuned=er.yaml config=config.yaml", "config=FILE takes every value as it stands"),
    ],
)
def test_a_preset_that_does_not_fit_is_a_mistake(line, told):
    Path("config.yaml").write_text("stream: toy\n")
    tuning.save(outcome(search(SWEEP), {}), Path("er.yaml"))
    with pytest.raises(Mistake, match=told):
        config.plans(line.split())


# The command.


def test_the_command_runs_chooses_writes_and_judges(tune):
    status, out, err = tune(f"{SWEEP} --judge seed=0,1")
    assert (status, err) == (0, "")
    assert "[6/6] toy er learner.lr=0.1 seed 102" in out
    assert "learner.lr=0.1 (chosen)" in out
    [file] = Path("results/tuned").iterdir()
    assert file.name == "toy-er-whole.yaml"
    judged = [r for r in results.find("results") if r.protocol["exams"] == "test"]
    assert [r.seed for r in judged] == [0, 1]
    assert {r.config["learner.lr"] for r in judged} == {"0.1"}
    assert {r.preset for r in judged} == {file.read_text().splitlines()[0].removeprefix("source: ").strip("'")}
    assert "Options: tuned here on validation (protocol whole on toy" in out
    does_the_same(judged)
    again = tune(f"{SWEEP} --judge seed=0,1")[1]
    assert again.count("done before") == 8


def test_seeds_that_judge_what_they_tuned_are_said(tune):
    assert "Seeds that were tuned with are judged with, too: 1." in tune(f"{SWEEP} seed=0,1 --judge seed=1,2")[1]


def test_transfer_judges_on_the_other_data(tune, home):
    line = f"stream=toy stream.classes=4 stream.experiences=2 {TOY.removeprefix('stream=toy ')}"
    data = written(home / "one.npz")
    other = f"stream=folder stream.data={data}"
    status, _, err = tune(f"{line} learner.lr=0.001,0.1 --protocol transfer --to here.yaml --judge {other} seed=0,1")
    assert (status, err) == (0, "")
    judged = [r for r in results.find("results") if r.stream == "folder"]
    assert [(r.seed, r.protocol["experiences"], r.protocol["exams"]) for r in judged] == [
        (0, 2, "test"),
        (1, 2, "test"),
    ]
    assert "protocol transfer on toy" in judged[0].preset
    assert "strategy.every: 1" in Path("here.yaml").read_text(), "every option of the strategy goes with it"
    does_the_same(judged)


def does_the_same(runs):
    """Whether the command of runs is that of these runs."""
    [command] = {run.meta["command"] for run in runs}
    plans = config.plans(shlex.split(command))[0]
    assert [(plan.seed, plan.hash(plan.checksums())) for plan in plans] == [(run.seed, run.hash) for run in runs]


def test_each_stream_that_judges_has_a_command(home, monkeypatch):
    folder = catalogue.resolve("stream", "folder")
    for name, change in (("one", None), ("two", 3)):
        data = str(written(home / f"{name}.npz", change))
        monkeypatch.setitem(catalogue.names("stream"), name, replace(folder, data=data))
    found = search(f"{SWEEP} stream.classes=4 stream.experiences=2", protocol="transfer")
    assert tuning.judging(found, ["stream=one,two", "seed=3"], "er.yaml") == [
        ["tuned=er.yaml", f"stream={name}", "seed=3", "stream.experiences=2"] for name in ("one", "two")
    ]


def test_when_nothing_comes_to_a_mean_nothing_is_chosen(tune):
    status, out, _ = tune(f"{TOY} learner.lr=1e30,1e31")
    assert status == 4
    assert "No candidate has a mean, so none is chosen." in out
    assert not Path("results/tuned").exists()
