"""Stored runs, run again: inside or outside, to the bit or not, and what is said where they can't be."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from scipy import stats

from clbench.cli import main
from clbench.metric import Summary
from clbench.reproduction import _agreement, told

TOY = "run stream=toy stream.samples=8 strategy=er learner.threads=1 mlflow=off"


@pytest.fixture
def clbench(tmp_path, monkeypatch, capsys):
    """Does a command in an empty folder; its status, and the lines of both outputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))

    def do(line: str) -> tuple[int, list[str], list[str]]:
        status = main(shlex.split(line))
        done = capsys.readouterr()
        return status, done.out.splitlines(), done.err.splitlines()

    return do


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    """Results: three seeds of one configuration."""
    folder = tmp_path_factory.mktemp("three_seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLBENCH_DATA", str(folder / "data"))
        assert main(shlex.split(f"{TOY} 'seed=range(3)'")) == 0
    return folder / "results"


@pytest.fixture
def stored(clbench, three_seeds):
    """The folders of three seeds of one configuration."""
    shutil.copytree(three_seeds, "results")
    return sorted(Path("results").glob("toy/er/*/seed-*"))


def edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_the_same_code_gives_the_same_bits(clbench, stored):
    status, out, err = clbench("reproduce toy/er")
    assert (status, err) == (0, [])
    assert out[0] == f"toy/er {stored[0].parent.name}, from results, is run again in reproduced."
    assert out[1] == "Versions, data, configuration and commit are as they were."
    assert [line for line in out if line.startswith("inside: final accuracy (class) ")]
    assert [line for line in out if line.startswith("not judged: training time ")]
    assert out[-1] == "same bits: yes, every stored row of seeds 0-2"
    assert sorted(Path("reproduced").glob("toy/er/*/seed-*")) == [
        Path("reproduced", *folder.parts[1:]) for folder in stored
    ]


def test_some_seeds_out_of_an_archive(clbench, stored):
    assert clbench("archive results results/reference/toy")[0] == 0
    status, out, _ = clbench(f"reproduce {stored[0].parent.name[:6]} --seeds 1")
    assert status == 0
    assert ", from results/reference, " in out[0]
    assert out[-2] == "(A to B): 95 % prediction interval for the mean of 1 seed, from 3 seeds stored"
    assert out[-1] == "same bits: yes, every stored row of seed 0"
    assert len(list(Path("reproduced").rglob("rows.csv"))) == 1


def test_a_number_that_does_not_come_again_is_outside(clbench, stored):
    for folder in stored:
        lines = (folder / "rows.csv").read_text().splitlines()
        for number, line in enumerate(lines):
            step, at, metric, subject, value, *rest = line.split(",")
            if metric == "class/accuracy":
                lines[number] = ",".join([step, at, metric, subject, str(float(value) + 3), *rest])
        (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    status, out, _ = clbench("reproduce er")
    assert status == 1
    assert [line for line in out if line.startswith("outside: final accuracy (class) ")]
    assert [line for line in out if line.startswith("inside: bytes kept ")]
    assert out[-1].startswith("same bits: no; 3 of 3 seeds differ, seed 0 first at class/accuracy of ")


def test_what_has_changed_is_said(clbench, stored):
    meta = json.loads((stored[0] / "meta.json").read_text())
    edit(stored[0] / "meta.json", versions=meta["versions"] | {"torch": "1.0", "strategy": 0}, commit="ab" * 20)
    _, out, _ = clbench("reproduce er --seeds 1")
    torch = meta["versions"]["torch"]
    said = f"Not as it was: version of strategy 0 → 1; version of torch 1.0 → {torch}; commit abababab → "
    assert out[1].startswith(said)


def test_a_run_that_was_reproduced_is_not_run_again_unless_told(clbench, stored):
    clbench("reproduce er --seeds 1")
    assert "done before" in clbench("reproduce er --seeds 1")[1][2]
    assert "final accuracy" in clbench("reproduce er --seeds 1 --again")[1][2]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("reproduce er --seeds 4", "--seeds 4: toy/er HASH has 3 that are done."),
        ("reproduce er --seeds 0", "--seeds 0: toy/er HASH has 3 that are done."),
        (
            "reproduce ers",
            "There is no configuration in results named 'ers'. Did you mean 'er'? There are: er, toy/er.",
        ),
        ("reproduce er --results nowhere", "There is no folder nowhere."),
        (
            "reproduce er --to results",
            "--to results holds what is to be reproduced; a second run there would be the first: name another.",
        ),
        ("reproduce er --workers 0", "--workers 0: a number of processes, 1 or more."),
    ],
)
def test_mistakes_are_one_line(clbench, stored, command, line):
    assert clbench(command) == (2, [], [line.replace("HASH", stored[0].parent.name[:8])])


def test_what_is_not_done_has_nothing_to_reproduce(clbench, stored):
    for folder in stored:
        edit(folder / "status.json", state="diverged", at=7)
    [line] = clbench("reproduce er")[2]
    assert line.endswith("to reproduce: 3 of 3 diverged at step 7, 7, 7.")
    assert clbench("reproduce er")[0] == 2


def test_an_option_that_is_no_more_is_named(clbench, stored):
    meta = json.loads((stored[0] / "meta.json").read_text())
    edit(stored[0] / "meta.json", config=meta["config"] | {"strategy.forgotten": "1"})
    status, _, [line] = clbench("reproduce er --seeds 1")
    assert status == 2
    assert line.startswith("There is no option of strategy=er named 'forgotten'.")


def test_the_interval_is_that_for_a_new_mean():
    stored = [0.70, 0.74, 0.69, 0.75]
    deviation = stats.tstd(stored)
    half = stats.t.ppf(0.975, 3) * deviation * (1 / 4 + 1 / 2) ** 0.5
    found = _agreement(stored, [0.72, 0.80], judged=True)
    assert found.now == pytest.approx(0.76)
    assert found.interval == pytest.approx((0.72 - half, 0.72 + half))
    assert found.verdict == "inside"
    assert _agreement(stored, [0.72 + half + 1e-6] * 2, judged=True).verdict == "outside"
    assert _agreement(stored, [0.72 + half - 1e-6] * 2, judged=True).verdict == "inside"


def test_numbers_without_an_interval():
    assert _agreement([0.7], [0.7], judged=True).verdict == "inside: the same number"
    assert _agreement([0.7], [0.8], judged=True).verdict == "not judged: one stored seed has no interval"
    assert _agreement([1e12] * 3, [1e12], judged=True).verdict == "inside"
    assert _agreement([1e12] * 3, [1.001e12], judged=True).verdict == "outside"
    assert _agreement([0.7, None], [0.7], judged=True).verdict == "outside: it was undefined"
    assert _agreement([0.7, 0.7], [None], judged=False).verdict == "outside: it is undefined now"
    assert _agreement([None], [None], judged=False).verdict == "inside: undefined, as it was"


def test_a_line_for_each_metric():
    metric = Summary("class/x", lambda rows: None, "", "", unit="%", title="x")
    line = told(metric, _agreement([0.70, 0.74, 0.69, 0.75], [0.72, 0.80], judged=True))
    assert line == "inside: x 76.0 %, stored 72.0 ± 4.7 % (63.9 to 80.1)"
    assert told(metric, _agreement([None], [None], judged=False)) == "inside: x – %, stored – % (undefined, as it was)"
