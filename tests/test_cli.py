"""The command, as a user meets it: what it prints, what it leaves, how it ends."""

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from clbench import catalogue
from clbench.cli import main
from clbench.recorder import Recorder

TOY = "run stream=toy stream.samples=8 learner.threads=1 mlflow=off"
"""a run of a fraction of a second"""


class Ended(NamedTuple):
    """What a command did."""

    status: object
    out: str
    err: str


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder to work in, without data sets, and a page wide enough for any table."""
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clbench(capsys):
    """Does a command in this process."""

    def do(line: str) -> Ended:
        try:
            status: object = main(shlex.split(line))
        except SystemExit as end:
            status = end.code
        return Ended(status, *capsys.readouterr())

    return do


def install(folder: Path, name: str, code: str, entry_points: str) -> None:
    """What pip leaves of a package of one file."""
    (folder / f"{name}.py").write_text(code)
    card = folder / f"{name}-1.0.dist-info"
    card.mkdir()
    (card / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (card / "entry_points.txt").write_text(entry_points)


THEIRS = '''
from dataclasses import dataclass

from clbench import Strategy


@dataclass
class Halved(Strategy):
    """Fine-tuning on half of the loss."""

    share: float = 0.5
    """of the loss"""

    def loss(self, learner, batch):
        return self.share * super().loss(learner, batch)


@dataclass
class Breaks(Strategy):
    """Fails at the second experience."""

    def learn(self, learner, experience):
        if experience.index:
            raise RuntimeError("the second experience\\nis too much")
        super().learn(learner, experience)


CATALOGUE = {"theirs": "theirs:Halved", "breaks": "theirs:Breaks"}
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A package of somebody else's, installed; the folder that holds it."""
    site = tmp_path / "site"
    site.mkdir()
    install(site, "theirs", THEIRS, "[clbench.strategies]\ntheirs = theirs:CATALOGUE\n")
    monkeypatch.syspath_prepend(site)
    catalogue.names.cache_clear()
    yield site
    catalogue.names.cache_clear()
    for name in ("theirs", "others"):
        sys.modules.pop(name, None)


def folders(results: str = "results") -> list[Path]:
    """The folders of all runs."""
    return sorted(path.parent for path in Path(results).rglob("meta.json"))


def content(results: str) -> dict[str, bytes]:
    """What a rerun must write to the byte: rows, configuration, answers, and the state at the end."""
    files = [path for name in ("rows.csv", "config.yaml", "*.npz") for path in Path(results).rglob(name)]
    found = {path.relative_to(results).as_posix(): path.read_bytes() for path in files}
    for folder in Path(results).rglob("checkpoint"):
        last = load_file(max(folder.glob("*.safetensors")))
        found |= {f"{folder.relative_to(results)}: {name}": tensor.tobytes() for name, tensor in last.items()}
    return found


# Asking.


def test_help_lists_every_command():
    done = subprocess.run([sys.executable, "-m", "clbench.cli", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("run", "validate", "tune", "list", "show", "data", "leaderboard", "compare", "sync"):
        assert re.search(rf"^    {command}\b", done.stdout, re.MULTILINE)


def test_without_words_it_prints_its_help(clbench):
    assert clbench("") == clbench("--help")


def test_version(clbench):
    assert clbench("--version") == Ended(0, f"{version('clbench')}\n", "")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("streams", "digits"), ("strategies", "derpp"), ("metrics", "class/forgetting"), ("models", "mlp")],
)
def test_list_says_a_line_about_each(clbench, kind, name):
    done = clbench(f"list {kind}")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (done.status, done.err) == (0, "")
    assert set(lines) == set(catalogue.names({plural: one for one, plural in catalogue.KINDS.items()}[kind]))
    assert name in lines
    assert all(len(line) > 3 for line in lines.values())


def test_list_data_says_where_each_stands(clbench):
    lines = dict(line.split(maxsplit=1) for line in clbench("list data").out.splitlines())
    assert lines["digits"] == "embedded"
    assert lines["cifar100"] == "not here: clbench data prepare cifar100"
    assert clbench("data list") == clbench("list data")


def test_list_without_a_kind_lists_all(clbench):
    done = clbench("list").out
    for kind in ("streams", "strategies", "metrics", "models", "data"):
        assert f"{kind}\n{clbench(f'list {kind}').out}\n" in done


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("permuted_mnist", ["(stream)", "tasks", "recipe der2020: ", "model=mlp", "source: Buzzega et al. 2020"]),
        (
            "derpp",
            ["(strategy)", "weight of the distance", "cifar10 der2020 memory_size=500 learner.lr=0.03", "Mammoth"],
        ),
        ("mlp", ["(model)", "hidden"]),
        ("class/forgetting", ["(metric)", "formula", "max over l(j) <= t < T", "Chaudhry et al."]),
        ("exams", ["(metric)", "van de Ven and Tolias 2019"]),
        ("der2020", ["recipe der2020 for cifar10: ", "recipe der2020 for mnist: ", "source: Buzzega et al. 2020"]),
    ],
)
def test_show_tells_paper_options_and_sources(clbench, name, shown):
    done = clbench(f"show {name}")
    assert (done.status, done.err) == (0, "")
    for text in shown:
        assert text in " ".join(done.out.split())


def test_every_entry_can_be_shown(clbench):
    for name in {name for kind in catalogue.KINDS for name in catalogue.names(kind)}:
        done = clbench(f"show {name}")
        assert done.status == 0, done.err
        assert done.out.startswith(name)


# Mistakes.


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("run strategy=erp", ["no strategy named 'erp'", "Did you mean 'er'?", "gdumb"]),
        ("run stream=digit", ["no stream named 'digit'", "Did you mean 'digits'?"]),
        ("run model=mpl", ["no model named 'mpl'", "Did you mean 'mlp'?"]),
        ("run strategies=er", ["no setting named 'strategies'", "Did you mean 'strategy'?"]),
        ("run stream=toy strategy=er strategy.memory_sise=5", ["strategy=er", "'memory_sise'", "'memory_size'?"]),
        ("run stream=toy learner.epoch=5", ["option of learner", "'epoch'", "'epochs'?"]),
        ("run stream=toy learner.lr=fast", ["learner.lr=fast", "number"]),
        ("run stream=toy learner.lr=-1", ["learner.lr=-1", "greater than 0"]),
        ("run stream=toy seed=-1", ["seed=-1"]),
        ("run stream=toy strategy=er strategy=der", ["'strategy' is set twice", "strategy=A,B"]),
        ("run er", ["'er'", "path=value"]),
        ("run +strategy=er", ["'+strategy=er'", "not supported"]),
        ("run seed=interval(0,5)", ["range(N)", "intervals"]),
        ("run stream=toy results=a,b", ["'results' takes one value"]),
        ("run stream=toy recipe=der2020", ["no recipe for toy named 'der2020'", "house"]),
        ("run stream=mnist recipe=der2021", ["no recipe for mnist named 'der2021'", "Did you mean 'der2020'?"]),
        ("run stream=toy stream.crop=-1", ["stream.crop=-1", "0"]),
        ("run stream=fomo stream.sets=[{data:digits,turnn:left}]", ["turnn"]),
        ("run config=/dev/null", ["config=/dev/null is empty"]),
        ("data prepare mine --from . --seed -1", ["seed of the split", "-1"]),
        ("run config=nowhere.yaml", ["config=nowhere.yaml can't be read", "No such file"]),
        ("run stream=toy stream.experiences=4", ["does not divide the 6 classes", "1, 2, 3, 6"]),
        ("run stream=toy stream.exam_on=validation", ["stream.validation=0.1"]),
        ("run stream=toy learner.device=abacus", ["learner.device=abacus"]),
        ("run stream=folder", ["stream.data=PATH"]),
        ("run stream=folder stream.data=/nowhere/at/all", ["no folder or file /nowhere/at/all"]),
        ("run stream=mnist", ["'mnist' is not here", "clbench data prepare mnist"]),
        ("validate strategy=erp", ["Did you mean 'er'?"]),
        ("list strategy", ["Did you mean 'strategies'?"]),
        ("show erp", ["no entry named 'erp'"]),
        ("data verify", ["needs the name of a data set"]),
        ("data verify minst", ["no data set named 'minst'", "Did you mean 'mnist'?"]),
        ("data prepare minst", ["Did you mean 'mnist'?"]),
        ("leaderboard nowhere", ["no folder nowhere"]),
        ("compare er naive --results nowhere", ["no folder nowhere"]),
        ("compare er", ["two names, or --against one"]),
        ("compare --against er --results nowhere", ["no folder nowhere"]),
        ("leaderboard nowhere --ranks", ["no folder nowhere"]),
        ("run stream=toy budget.maf=10", ["budget.maf=10 leaves no step for experience 0"]),
        ("run stream=toy first=3", ["first=3 leaves nothing out", "3 experiences"]),
        ("run tuned=nowhere.yaml", ["tuned=nowhere.yaml can't be read", "No such file"]),
        ("sync nowhere", ["no folder nowhere"]),
    ],
)
def test_a_mistake_is_one_line(clbench, home, line, told):
    done = clbench(line)
    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    for text in told:
        assert text in done.err
    assert not list(home.iterdir()), "it left something behind"


def test_a_mistake_shows_no_traceback():
    """The same in a process of its own, as a shell sees it."""
    done = subprocess.run([sys.executable, "-m", "clbench.cli", "run", "strategy=erp"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_all_points_of_a_sweep_are_checked_before_the_first_run(clbench, home):
    done = clbench(f"{TOY} stream.experiences=3,4 strategy=er")
    assert done.status == 2
    assert not list(home.iterdir())


# Running.


def test_validate_names_the_folders_and_writes_nothing(clbench, home):
    done = clbench("validate stream=toy strategy=naive,er seed=range(2)")
    assert (done.status, done.err) == (0, "")
    *paths, last = done.out.splitlines()
    assert last == "4 runs can start."
    assert [re.sub(r"[0-9a-f]{12}", "HASH", path) for path in paths] == [
        f"results/toy/{strategy}/HASH/seed-{seed}" for strategy in ("naive", "er") for seed in (0, 1)
    ]
    assert not list(home.iterdir())


def test_a_run_leaves_its_files_and_says_a_line(clbench):
    done = clbench(f"{TOY} strategy=er")
    assert (done.status, done.err) == (0, "")
    [folder] = folders()
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "checkpoint", "config.yaml", "meta.json", "predictions", "rows.csv", "status.json", "timings.csv",
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "predictions").iterdir()) == [
        "000.npz", "001.npz", "002.npz", "003.npz", "truth.npz",
    ]  # fmt: skip
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert re.search(r"^\[1/1\] toy er seed 0: final accuracy \d+\.\d %, \d+ s$", done.out, re.MULTILINE)
    assert "1 run in" in done.out
    assert "Results: results" in done.out
    assert "MLflow" not in done.out


def test_json_is_one_object_a_line_and_the_last_a_summary(clbench):
    done = clbench(f"{TOY} strategy=er,gdumb strategy.memory_size=20 --json")
    assert (done.status, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    ends = [line for line in lines if "status" in line]
    assert [end["status"] for end in ends] == ["done", "done"]
    assert lines[-1] == ends[-1]
    assert sorted(Path(end["folder"]) for end in ends) == folders()
    assert 0 <= ends[0]["summary"]["class/final_accuracy"] <= 1
    assert ends[1]["summary"]["class/forgetting"] is None, "gdumb learns only at the end"


def test_what_is_done_is_skipped_and_again_does_it_again(clbench):
    line = f"{TOY} strategy=er seed=0,1"
    clbench(line)
    before = content("results")
    started = [json.loads((folder / "meta.json").read_text())["started"] for folder in folders()]
    done = clbench(line)
    assert done.status == 0
    assert done.out.count("done before") == 2
    assert [json.loads((folder / "meta.json").read_text())["started"] for folder in folders()] == started
    done = clbench(f"{line} --again")
    assert "done before" not in done.out
    assert [json.loads((folder / "meta.json").read_text())["started"] for folder in folders()] != started
    assert content("results") == before


def test_a_stored_configuration_is_the_same_run(clbench):
    clbench(f"{TOY} strategy=derpp strategy.alpha=0.7 seed=3")
    [folder] = folders()
    done = clbench(f"run config={folder}/config.yaml mlflow=off")
    assert "toy derpp seed 3: done before" in done.out
    assert folders() == [folder]


def test_processes_share_a_sweep_and_change_nothing(clbench):
    line = f"{TOY} strategy=er,joint seed=0,1"
    assert clbench(f"{line} results=alone").status == 0
    done = clbench(f"{line} results=shared workers=2")
    assert done.status == 0
    assert "[4/4]" in done.out
    assert content("shared") == content("alone")
    assert any("learner.model" in name for name in content("alone"))


def test_runs_that_differ_in_an_option_are_told_apart(clbench):
    done = clbench(f"{TOY} strategy=naive,er learner.lr=0.1,0.2")
    assert "[1/4] toy naive learner.lr=0.1 seed 0: " in done.out
    assert "[4/4] toy er learner.lr=0.2 seed 0: " in done.out
    assert "toy er seed 0: " in clbench(f"{TOY} strategy=er seed=0").out


def test_the_first_experiences_alone(clbench):
    done = clbench(f"{TOY} strategy=er first=2")
    assert (done.status, done.err) == (0, "")
    [folder] = folders()
    assert sorted(path.name for path in (folder / "predictions").glob("0*")) == ["000.npz", "001.npz", "002.npz"]
    with np.load(folder / "predictions" / "truth.npz") as truth:
        assert sorted(truth) == ["0", "1"]
    whole = clbench(f"{TOY} strategy=er results=whole")
    assert whole.status == 0
    [other] = folders("whole")
    first, all_ = (list(csv.DictReader((f / "rows.csv").read_text().splitlines())) for f in (folder, other))
    seen = [
        row for row in all_ if row["metric"] == "class/accuracy" and row["step"] in "012" and row["subject"] in "01"
    ]
    assert [row for row in first if row["metric"] == "class/accuracy"] == seen, "it is how the whole stream begins"


def test_a_run_that_diverges_says_where_and_the_others_go_on(clbench):
    done = clbench(f"{TOY} strategy=naive learner.lr=1e30,0.1")
    assert done.status == 4
    assert re.search(r"\[1/2\] toy naive learner\.lr=1e\+30 seed 0: diverged: the loss was \S+ at step \d+", done.out)
    assert "[2/2] toy naive learner.lr=0.1 seed 0: final accuracy" in done.out


def test_a_run_that_fails_says_a_line_and_keeps_the_story(clbench, theirs):
    done = clbench(f"{TOY} strategy=breaks,theirs")
    assert (done.status, done.err) == (1, "")
    assert "Traceback" not in done.out
    told = r"toy breaks seed 0: failed: RuntimeError: the second experience \(theirs\.py:\d+; results/\S+/error\.txt\)$"
    assert re.search(told, done.out, re.MULTILINE)
    assert "toy theirs seed 0: final accuracy" in done.out
    [failed] = [folder for folder in folders() if "breaks" in folder.parts]
    assert "RuntimeError: the second experience\nis too much" in (failed / "error.txt").read_text()
    assert json.loads((failed / "status.json").read_text())["state"] == "failed"


def test_a_folder_in_use_is_left_alone(clbench):
    [folder] = [Path(line) for line in clbench("validate stream=toy").out.splitlines()[:1]]
    with Recorder(folder):
        done = clbench("run stream=toy mlflow=off")
    assert done.status == 3
    assert "is being run by process" in done.out + done.err
    assert not (folder / "rows.csv").exists()


def test_results_that_cannot_be_written_are_one_line(clbench, home):
    (home / "file").touch()
    done = clbench(f"{TOY} results=file/results")
    assert done.status in (1, 2)
    assert "Traceback" not in done.out + done.err
    assert "file/results" in done.out + done.err


# Reading.


@pytest.fixture
def two(clbench):
    """Results of two strategies over two seeds."""
    assert clbench(f"{TOY} strategy=naive,er seed=0,1").status == 0


@pytest.mark.parametrize(
    ("format", "opening"),
    [("terminal", "toy\n"), ("md", "### toy\n"), ("latex", "% toy"), ("csv", "board,")],
)
def test_leaderboard_in_every_format(clbench, two, format, opening):
    done = clbench(f"leaderboard --format {format}")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(opening)
    assert "naive" in done.out
    assert "er" in done.out


def test_leaderboard_as_csv_has_the_means_of_the_files(clbench, two):
    lines = csv.DictReader(io.StringIO(clbench("leaderboard --format csv --metric class/final_accuracy").out))
    means = {line["strategy"]: float(line["mean"]) for line in lines if line["metric"] == "class/final_accuracy"}
    for strategy, mean in means.items():
        by_seed = []
        for folder in (folder for folder in folders() if strategy in folder.parts):
            with (folder / "rows.csv").open() as file:
                rows = [row for row in csv.DictReader(file) if (row["step"], row["metric"]) == ("3", "class/accuracy")]
            by_seed.append(np.mean([float(row["value"]) for row in rows]))
        assert mean == pytest.approx(np.mean(by_seed))
    assert set(means) == {"naive", "er"}


def test_leaderboard_of_one_stream(clbench, two):
    assert clbench("leaderboard --stream toy").out == clbench("leaderboard").out
    done = clbench("leaderboard --stream toi")
    assert (done.status, done.out) == (2, "")
    assert "Did you mean 'toy'?" in done.err


def test_an_unknown_column_is_a_mistake(clbench, two):
    done = clbench("leaderboard --metric class/forgeting")
    assert (done.status, done.out) == (2, "")
    assert "Did you mean 'class/forgetting'?" in done.err


@pytest.mark.parametrize("option", ["--figure", "--cost"])
def test_leaderboard_draws(clbench, two, option):
    board = clbench("leaderboard").out
    done = clbench(f"leaderboard {option} drawn.png")
    assert done == (0, board, "")
    with Image.open("drawn.png") as image:
        assert image.height > 500
    for file in ("nowhere/drawn.png", "drawn.odd"):
        done = clbench(f"leaderboard {option} {file}")
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert f"{option} {file} can't be written: " in done.err
        assert not Path(file).exists()


def test_compare_pairs_the_seeds_and_does_not_claim_too_much(clbench, two):
    done = clbench("compare er naive")
    assert (done.status, done.err) == (0, "")
    assert "paired by seed: 0-1" in done.out
    assert "With 2 seeds no difference can be claimed" in done.out
    done = clbench("compare er erp")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)


def test_compare_all_against_one(clbench, two):
    done = clbench("compare --against naive --holm")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("All against naive\n")
    assert re.search(r"^er .*2 +\d", done.out, re.MULTILINE)
    assert "With 2 seeds no difference can be claimed" in done.out
    assert clbench("compare er --against naive --holm") == done
    assert clbench("compare --against naive --format csv").out.startswith("name,mean,")


@pytest.mark.parametrize(
    ("options", "told"), [("--format csv", "Mean ranks have no csv"), ("--figure a.svg", "--figure says nothing there")]
)
def test_what_ranks_do_not_have(clbench, two, options, told):
    shutil.copytree("results", "more")
    for meta in Path("more").rglob("meta.json"):
        meta.write_text(meta.read_text().replace('"stream": "toy"', '"stream": "toi"'))
    shutil.copytree("more", "results/more")
    done = clbench(f"leaderboard --ranks {options}")
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert not Path("a.svg").exists()


def test_a_run_without_exams_does_not_spoil_figure_and_page(clbench, two):
    assert clbench(f"{TOY} strategy=naive seed=7 probes=[] results=bare").status == 0
    done = clbench("leaderboard bare --figure a.svg")
    assert (done.status, done.err) == (2, "There is nothing to draw: no run has accuracy on exams.\n")
    assert clbench("report bare").status == 0


def test_ranks_need_several_streams(clbench, two):
    done = clbench("leaderboard --ranks")
    assert (done.status, done.out, done.err) == (2, "", "Ranks are over several streams; here is toy.\n")
    assert clbench(f"{TOY} strategy=naive,er seed=0,1".replace("stream=toy", "stream=toy stream.classes=9")).status == 0
    shutil.copytree("results", "more")
    for meta in Path("more").rglob("meta.json"):
        text = meta.read_text()
        meta.write_text(text.replace('"stream": "toy"', '"stream": "toi"'))
    shutil.copytree("more", "results/more")
    done = clbench("leaderboard --ranks")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("2 strategies over 2 streams\n")
    assert "toi has a further board of 4 runs" in done.out


def test_sync_fills_mlflow_and_changes_no_result(clbench, two):
    board = clbench("leaderboard --format csv")
    done = clbench("sync")
    assert (done.status, done.err) == (0, "")
    assert re.search(r"mlflow\.db: 4 runs as in the results, [1-9]\d+ points new\.$", done.out)
    assert clbench("sync").out.endswith("4 runs as in the results, 0 points new.\n")
    assert clbench("leaderboard --format csv") == board


# Data of the user's own.


def pictures(folder: Path, classes: int = 4, each: int = 10) -> Path:
    """A folder of images, a class a folder, each class of its own grey."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(60 * label + rng.normal(0, 10, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")
    return folder


def test_a_folder_of_images_is_a_stream(clbench, home):
    data = pictures(home / "my images")
    line = f"run stream=folder 'stream.data=\"{data}\"' stream.experiences=2 strategy=er mlflow=off learner.threads=1"
    done = clbench(line)
    assert (done.status, done.err) == (0, "")
    assert "folder er seed 0: final accuracy" in done.out
    [folder] = folders()
    with np.load(folder / "predictions" / "truth.npz") as truth:
        assert {exam: sorted(set(labels.tolist())) for exam, labels in truth.items()} == {"0": [0, 1], "1": [2, 3]}
    shutil.move(data, home / "elsewhere" / "my images")
    done = clbench(line.replace("my images", "elsewhere/my images"))
    assert "done before" in done.out, "the content decides, not the place"


def test_an_npz_is_a_stream(clbench, home):
    rng = np.random.default_rng(0)
    np.savez(home / "mine.npz", x=rng.integers(0, 256, (60, 6, 6), np.uint8), y=np.arange(60) % 6)
    done = clbench(f"run stream=folder stream.data={home}/mine.npz stream.experiences=3 mlflow=off learner.threads=1")
    assert (done.status, done.err) == (0, "")
    assert "folder naive seed 0: final accuracy" in done.out


def test_a_damaged_data_set_names_the_file(clbench, home):
    done = clbench(f"data prepare mine --from {pictures(home / 'images')}")
    assert done.out == f"mine is in {home}/data/mine; use it as stream.data=mine.\n"
    assert clbench("data verify mine").out == "mine is as it was prepared.\n"
    assert clbench("validate stream=folder stream.data=mine stream.experiences=2").status == 0
    file = home / "data" / "mine" / "test_x.npy"
    bytes_ = bytearray(file.read_bytes())
    bytes_[-1] ^= 1
    file.write_bytes(bytes_)
    for line in ("data verify mine", "run stream=folder stream.data=mine stream.experiences=2 mlflow=off"):
        done = clbench(line)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert f"{file} is damaged" in done.err


# Packages of others.


def test_a_plug_in_is_listed_shown_and_run(clbench, theirs):
    assert re.search(r"^  theirs +Fine-tuning on half of the loss\.$", clbench("list strategies").out, re.MULTILINE)
    assert "of the loss" in clbench("show theirs").out
    done = clbench(f"{TOY} strategy=theirs strategy.share=0.25")
    assert (done.status, done.err) == (0, "")
    assert "toy theirs seed 0: final accuracy" in done.out


def test_a_plug_in_is_checked_without_a_test_being_written(theirs):
    from clbench.testing import check_strategy

    check_strategy("theirs")


def test_a_plug_in_is_found_by_a_fresh_process(theirs):
    script = "import sys; sys.path.insert(0, sys.argv[1]); from clbench.cli import main; sys.exit(main(sys.argv[2:]))"
    words = [sys.executable, "-c", script, str(theirs), *shlex.split(f"{TOY} strategy=theirs")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[1/1] toy theirs seed 0: final accuracy" in done.stdout


def test_two_plug_ins_with_one_name_are_a_mistake_that_names_both(clbench, theirs):
    install(theirs, "others", "CATALOGUE = {'er': 'others:ER'}", "[clbench.strategies]\nothers = others:CATALOGUE\n")
    done = clbench("list strategies")
    assert (done.status, done.out) == (2, "")
    assert "named 'er': clbench and others" in done.err


def test_a_plug_in_that_cannot_be_read_is_named(clbench, theirs):
    install(theirs, "others", "import nothing_like_this", "[clbench.models]\nothers = others:CATALOGUE\n")
    done = clbench("list models")
    assert (done.status, done.out) == (2, "")
    assert "The plug-in others (others:CATALOGUE) can't be read" in done.err
