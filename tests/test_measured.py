"""Numbers with an interval, in the tables of the documents, come from the runs that are kept with the sources."""

import csv
import re
import runpy
import sys
from collections import defaultdict
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from clbench.archive import archives
from clbench.configurations import configurations
from clbench.results import find
from clbench.statistics import mean_interval

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
ELSEWHERE = {
    "accumulation.md": "what benchmarks/recurrence.py prints",
    "plasticity.md": "what benchmarks/plasticity.py prints",
    "Forgeries": "no measurements",
    "And when the libraries themselves change?": "of APIs by when they live, not by strategy",
    "FPF at the end of replay": "what benchmarks/fpf_at_end.py prints: below",
    "Does drift predict restoration?": "what benchmarks/drift_and_restoration.py prints",
}
"""pages and sections whose tables are not made of one summary, or one paired difference, a cell"""


KINDS = {"forgetting": "forgetting", "over samples": "_samples", "average incremental": "average_incremental"}
"""what the id of a column's summary has in it where its heading says so"""


def stored() -> list[tuple[str, str, dict[str, dict[int, float]]]]:
    """Of each configuration kept: the stream, the strategy, and its summaries by seed."""
    found = []
    for folder in archives(REFERENCE):
        for group in configurations(find(folder)):
            summaries: dict[str, dict[int, float]] = defaultdict(dict)
            for run in group:
                for id, value in run.summaries().items():
                    if value.number is not None:
                        summaries[id][run.seed] = value.number
            found.append((group[0].stream, group[0].strategy, summaries))
    by_hash = defaultdict(dict)
    text = (REFERENCE / "which_modules_forget" / "runs.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        key = row["stream"], row["strategy"], row["hash"]
        by_hash[key][int(row["seed"])] = float(row["class/final_accuracy"])
    return found + [(stream, name, {"class/final_accuracy": of}) for (stream, name, _), of in by_hash.items()]


def intervals() -> dict[str, dict[str, list[tuple[float, float]]]]:
    """For each strategy and summary means and half widths, of configurations and of their differences to others."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))

    def add(strategy: str, id: str, values: list[float]) -> None:
        mean, half = mean_interval(values)
        if half is not None:
            found[strategy.partition("(")[0]][id] += [(mean, half), (100 * mean, 100 * half)]

    runs = stored()
    for _, strategy, summaries in runs:
        for id, of in summaries.items():
            add(strategy, id, list(of.values()))
    for (stream, strategy, ours), (other, _, theirs) in permutations(runs, 2):
        for id in ours.keys() & theirs.keys() if stream == other else ():
            if len(seeds := ours[id].keys() & theirs[id].keys()) > 1:
                add(strategy, id, [ours[id][seed] - theirs[id][seed] for seed in sorted(seeds)])
    return found


def rounds_to(text: str, pairs: np.ndarray) -> bool:
    """Whether one of the pairs is, rounded, what a cell says."""
    mean, half = text.split(" ± ")
    off = 0.5 * 10.0 ** -np.array([len(each.partition(".")[2]) for each in (mean, half)]) + 1e-9
    return bool((abs(pairs - [float(mean), float(half)]) <= off).all(axis=1).any())


def tables() -> list[tuple[str, str, list[str], str]]:
    """Of each line of a table with an interval: the page, the section, the headings, the line."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        section, above, heads = "", "", []
        for line in page.read_text(encoding="utf-8").splitlines():
            section = line.lstrip("# ") if line.startswith("#") else section
            heads = above.split("|") if line.startswith("| ---") else heads
            if line.startswith("|") and "±" in line and not {page.name, section} & ELSEWHERE.keys():
                found.append((page.name, section, heads, line))
            above = line
    return found


def test_tables_say_what_the_runs_say():
    made = intervals()
    wrong = []
    for page, section, heads, line in tables():
        names = sorted(set(re.findall(r"\w+", line)) & made.keys())
        for head, text in zip(heads, line.split("|"), strict=True):
            if "published" in head:
                continue
            kind = next((part for words, part in KINDS.items() if words in head), "")
            known = [pair for name in names for id, pairs in made[name].items() if kind in id for pair in pairs]
            wrong += [
                f"{page}, {section}: no run of {names} comes to {head.strip()} {cell}: {line}"
                for cell in re.findall(r"[-+]?[\d.]+ ± [\d.]+", text)
                if not rounds_to(cell, np.array(known).reshape(-1, 2))
            ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("page", "script", "words"),
    [
        ("accumulation.md", "recurrence.py", ["accumulation"]),
        ("accumulation.md", "recurrence.py", ["scole"]),
        ("accumulation.md", "recurrence.py", ["frequency"]),
        ("accumulation.md", "recurrence.py", ["frequency", "--against", "902a3706"]),
        ("accumulation.md", "recurrence.py", ["optimizers"]),
        ("accumulation.md", "recurrence.py", ["scole500", "--late", "300"]),
        ("plasticity.md", "plasticity.py", ["plasticity"]),
    ],
)
def test_tables_of_benchmarks(page, script, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script, str(REFERENCE / words[0]), *words[1:]])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    assert not ended.value.code
    lines = [line for line in capsys.readouterr().out.splitlines() if re.search(r"\d\.\d", line)]
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    assert lines
    assert not [line for line in lines if line not in text]


def test_gains_of_fpf_are_those_of_the_kept_runs(capsys, monkeypatch):
    kept = REFERENCE / "which_modules_forget" / "fpf_at_end.csv"
    monkeypatch.setattr(sys, "argv", ["fpf_at_end.py", str(kept)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "benchmarks" / "fpf_at_end.py"), run_name="__main__")

    def numbers(text):
        rows = [re.split(r"[ `]*\|[ `]*", line) for line in text.splitlines() if line.startswith("|") and "±" in line]
        return {(row[1], *row[3:]) for row in rows}

    printed = numbers(capsys.readouterr().out)
    assert printed
    assert printed <= numbers((ROOT / "docs" / "which_modules_forget.md").read_text(encoding="utf-8"))
