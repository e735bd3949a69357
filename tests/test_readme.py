"""What the documents say works: their strategy runs, their commands resolve, their links lead somewhere."""

import csv
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clbench import catalogue, cli, config, words
from clbench.errors import Mistake
from clbench.pretraining import Pretraining

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    """What stands in the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


COMMANDS = sorted(
    {
        line.partition("  #")[0].strip()
        for page in PAGES
        for block in blocks(page.read_text("utf-8"), "console")
        for line in block.splitlines()
        if line.startswith("clbench ")
    }
)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The README's strategy, installed by the README's entry point."""
    [code] = blocks(README, "python")
    [project] = blocks(README, "toml")
    [(group, entries)] = tomllib.loads(project)["project"]["entry-points"].items()
    (tmp_path / "mine.py").write_text(code)
    card = tmp_path / "mine-1.0.dist-info"
    card.mkdir()
    (card / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    lines = "".join(f"{name} = {reference}\n" for name, reference in entries.items())
    (card / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    catalogue.names.cache_clear()
    yield
    catalogue.names.cache_clear()
    sys.modules.pop("mine", None)


def rows(folder: Path, *metrics: str) -> list[tuple[str, ...]]:
    with (folder / "rows.csv").open() as file:
        return [tuple(row.values()) for row in csv.DictReader(file) if row["metric"] in metrics]


def test_the_strategy_of_the_readme_runs_and_does_what_it_says(mine, capsys):
    """Held by nothing it is fine-tuning, to the digit; held hard it learns less."""
    toy = "run stream=toy mlflow=off learner.threads=1 strategy"
    assert cli.main([*f"{toy}=naive results=free".split()]) == 0
    assert cli.main([*f"{toy}=anchor strategy.pull=0 results=loose".split()]) == 0
    assert cli.main([*f"{toy}=anchor strategy.pull=10 results=held".split()]) == 0
    capsys.readouterr()
    [free], [loose], [held] = ([*Path(name).glob("toy/*/*/seed-0")] for name in ("free", "loose", "held"))
    metrics = ("class/accuracy", "task/accuracy", "train/loss")
    assert rows(loose, *metrics) == rows(free, *metrics)
    assert rows(held, *metrics) != rows(free, *metrics)


def test_the_strategy_of_the_readme_passes_the_checks(mine):
    from clbench.testing import check_strategy

    check_strategy("anchor")


def test_the_first_two_commands_are_what_ci_runs():
    install, test = blocks(README, "bash")[:2]
    assert re.fullmatch(r"pip install .*-e \. && clbench run\n", install)
    assert re.fullmatch(r"pip install .*-e '\.\[test\]' && pytest -n auto\n", test)
    assert "README.md" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documents_resolves(command, mine):
    """Its words are in the grammar and its names exist; data need not be here."""
    given = cli._parser().parse_args(shlex.split(command)[1:])
    if hasattr(given, "words"):
        assert config.plans(given.words)[0]
    if hasattr(given, "settings"):
        assert words.typed(Pretraining, words.parse(given.settings)[0][0])
    if hasattr(given, "name") and command.startswith("clbench show"):
        assert any(given.name in catalogue.names(kind) for kind in catalogue.KINDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shell_takes_a_command_of_the_documents_as_it_stands(command):
    assert subprocess.run(["bash", "-nc", command], capture_output=True).returncode == 0
    assert not re.search(r"[][*?~]", re.sub(r"'[^']*'|~/", "", command)), "a shell would look for files of that name"


def test_a_wrong_command_would_be_noticed():
    with pytest.raises(Mistake):
        config.plans(["strategy=er", "strategy.alpha=1"])
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
