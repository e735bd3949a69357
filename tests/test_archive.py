"""Runs kept with the sources: what is kept gives the same tables, and a table that was changed by hand is found."""

import zipfile
from pathlib import Path

import pytest
from fake import FORGETS, matrix_rows, write_run

from clbench import archive, results
from clbench.cli import main
from clbench.errors import Mistake
from clbench.metric import Row

REFERENCE = Path(__file__).parents[1] / "results" / "reference"

DRIFT = [Row(1, 10 * look, "drift/within", group, 0.1 * look, 5) for look in range(1, 9) for group in ("fc1", "head")]


@pytest.fixture
def runs(tmp_path):
    """Two strategies over three seeds each; one run diverged."""
    for seed in range(3):
        spent = [Row(step, 10 * step, "cost/train_flops", "", 1e9 * step) for step in range(5)]
        rows = [*matrix_rows([[0.9], [0.5 + seed / 9, 0.9]]), *spent, *DRIFT]
        write_run(
            tmp_path / "results", "er", seed, rows=rows, timings=[Row(4, 40, "cost/train_seconds", "", 1.5 + seed)]
        )
        write_run(tmp_path / "results", "naive", seed, state="diverged" if seed == 2 else "done", hash="ab" * 6)
    return tmp_path / "results"


@pytest.fixture
def kept(runs):
    """An archive of them."""
    archive.archive(results.find(runs), runs / "reference" / "small")
    return runs / "reference" / "small"


def test_an_archive_gives_the_same_boards(runs, kept):
    there, stored = results.find(runs), results.find(kept)
    assert [(r.strategy, r.seed, r.meta, r.status) for r in stored] == [
        (r.strategy, r.seed, r.meta, r.status) for r in there
    ]
    assert [r.summaries() for r in stored] == [r.summaries() for r in there]
    assert results.leaderboard(stored) == results.leaderboard(there)
    assert [r.hash for r in results.select(kept, "toy/naive")] == ["ab" * 6] * 3


def test_where_a_file_lay_is_left_out(tmp_path):
    config = write_run(tmp_path, command="tuned=/home/me/a-b/er.yaml seed=0") / "config.yaml"
    config.write_text("stream: toy  # command line\nlearner.lr: 0.1  # tuned /home/me/a-b/er.yaml\n", "utf-8")
    archive.archive(results.find(tmp_path), tmp_path / "kept")
    (stored,) = results.find(tmp_path / "kept")
    assert stored.meta["command"] == "tuned=er.yaml seed=0"
    text = (stored.folder / "config.yaml").read_text(encoding="utf-8")
    assert text == "stream: toy  # command line\nlearner.lr: 0.1  # tuned er.yaml\n"


def test_commands_that_differ_by_seeds_are_one(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "er", seed, command=f"strategy=er seed={seed} stream=toy")
        write_run(tmp_path, "naive", seed, hash="ab" * 6, command="strategy=naive stream=toy seed=range(3)")
    archive.archive(results.find(tmp_path), tmp_path / "kept")
    text = (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")
    commands = "\n  - strategy=er stream=toy seed=0,1,2\n  - strategy=naive stream=toy seed=0,1,2\n- "
    assert f"- command:{commands}" in text


def test_rows_that_no_summary_reads_are_left_out(runs, kept):
    whole, part = (next(r for r in results.find(root) if r.strategy == "er").rows() for root in (runs, kept))
    assert part == [row for row in whole if row.metric != "drift/within"]
    assert {"exam/since", "exam/until", "class/accuracy", "cost/train_seconds"} <= {row.metric for row in part}
    assert archive.needed(DRIFT) == frozenset()


def test_what_only_one_configuration_needs_is_kept_for_all(tmp_path):
    write_run(tmp_path, "er", rows=matrix_rows(FORGETS))
    write_run(tmp_path, "lwf", rows=[*matrix_rows(FORGETS), Row(4, 40, "task/accuracy", "e0", 0.9, 100)], hash="cd" * 6)
    archive.archive(results.find(tmp_path), tmp_path / "kept")
    er, lwf = results.find(tmp_path / "kept")
    assert lwf.rows()[:-1] == er.rows()
    assert lwf.rows()[-1].metric == "task/accuracy"


def test_what_a_run_that_ended_early_did_not_see_is_kept_of_the_others(tmp_path):
    for seed in range(3):
        rows = matrix_rows(FORGETS) if seed else []
        write_run(tmp_path / "results", "er", seed, rows=rows, state="done" if seed else "diverged")
    archive.archive(results.find(tmp_path / "results"), tmp_path / "kept")
    there, stored = results.find(tmp_path / "results"), results.find(tmp_path / "kept")
    assert [r.summaries() for r in stored] == [r.summaries() for r in there]
    assert stored[1].summaries(["class/bwt"])["class/bwt"].number is not None


@pytest.mark.parametrize("name", ["meta.json", "rows.csv"])
def test_a_damaged_archive_is_one_line(kept, name):
    file = kept / archive.ARCHIVE
    with zipfile.ZipFile(file) as there:
        entry = next(entry for entry in there.infolist() if entry.filename.endswith(name))
    content = bytearray(file.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename)
    content[start : start + 20] = bytes(20)
    file.write_bytes(content)
    with pytest.raises(Mistake, match=rf"{name} cannot be read"):
        results.leaderboard(results.find(kept))


def test_the_reference_is_read_where_it_is_named(runs, kept):
    assert all(isinstance(result.folder, Path) for result in results.find(runs))
    assert len(results.find(runs / "reference")) == 6


def test_the_same_runs_give_the_same_bytes(runs, kept):
    before = (kept / "runs.zip").read_bytes()
    archive.archive(results.find(runs), kept)
    assert (kept / "runs.zip").read_bytes() == before
    archive.archive(results.find(kept), kept)
    assert (kept / "runs.zip").read_bytes() == before


def test_what_can_not_be_kept(runs, tmp_path):
    with pytest.raises(Mistake, match="There is no run to keep"):
        archive.archive([], tmp_path / "kept")
    with pytest.raises(Mistake, match=r"results holds runs \(.*\); name the archive last: results/reference/NAME"):
        archive.archive(results.find(runs), runs)
    folder = write_run(runs, "er", 7, state="running")
    with pytest.raises(Mistake, match=f"Not finished: {folder}"):
        archive.archive(results.find(runs), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "runs.zip").write_text("no zip")
    with pytest.raises(Mistake, match="is no archive of runs"):
        results.find(tmp_path / "broken")


def test_a_number_changed_by_hand_is_found(kept):
    assert archive.stale(kept) == []
    table = kept / "README.md"
    made = table.read_text()
    assert "| er | 3 | 75.6 ±" in made
    table.write_text(made.replace("75.6", "76.6"))
    [told] = archive.stale(kept)
    assert told.startswith(f"{table}:")
    assert "76.6" in told.splitlines()[0]
    assert "75.6" in told.splitlines()[1]
    table.write_text(made + "\none more line\n")
    assert len(archive.stale(kept)) == 1
    table.unlink()
    assert archive.stale(kept) == [f"{table} is not there"]


def test_last_bits_may_differ_and_no_more(kept):
    sheet = kept / "table.csv"
    made = sheet.read_text()
    [mean] = {line.split(",")[9] for line in made.splitlines() if ",er," in line and ",class/final_accuracy," in line}
    assert mean in made
    sheet.write_text(made.replace(mean, repr(float(mean) * (1 + 1e-14))))
    assert sheet.read_text() != made
    assert archive.stale(kept) == []
    sheet.write_text(made.replace(mean, repr(float(mean) + 0.001)))
    assert len(archive.stale(kept)) == 1


def test_the_commands(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    assert main(["archive", "results", "results/reference/two"]) == 0
    assert capsys.readouterr().out.startswith("results/reference/two/runs.zip: 6 runs, ")
    assert main(["tables", "--check"]) == 0
    Path("results/reference/two/README.md").write_text("nothing")
    assert main(["tables", "--check"]) == 1
    assert "results/reference/two/README.md:1: nothing" in capsys.readouterr().out
    assert main(["tables"]) == 0
    assert main(["tables", "--check"]) == 0
    assert main(["leaderboard", "results/reference/two"]) == 0
    assert main(["tables", "results/toy"]) == 2
    assert capsys.readouterr().err.startswith("There is no archive in results/toy")


def test_columns_are_kept_with_the_archive(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs.parent)
    kept = Path("results/reference/two")
    assert main(["archive", "results", str(kept), "--metric", "class/bwt", "--metric", "class/fwt"]) == 0
    assert (kept / "columns.txt").read_text().split() == ["class/final_accuracy", "class/bwt", "class/fwt"]
    made = (kept / "README.md").read_text()
    assert "|   | n | final accuracy (class) ↑ % | backward transfer (class) ↑ % |\n" in made
    assert "Left out, as no row has a value: forward transfer" in made
    assert main(["archive", str(kept), str(kept)]) == 0
    assert (kept / "README.md").read_text() == made, "they stay until others are named"
    ranked = ["class/forgetting", *results.DEFAULT[:1], *results.DEFAULT[2:]]
    assert main(["archive", str(kept), str(kept), "--rank-by", "class/forgetting"]) == 0
    assert (kept / "columns.txt").read_text().split() == ranked
    assert [line.split(",")[7] for line in (kept / "table.csv").read_text().splitlines()[1:6]] == ranked
    assert main(["archive", str(kept), str(kept), "--metric", "class/none"]) == 2
    (kept / "columns.txt").write_text("class/worst_exam\n")
    assert main(["tables", "--check"]) == 1
    assert main(["tables"]) == 0
    assert "|   | n | worst exam (class) ↑ % |\n" in (kept / "README.md").read_text()


@pytest.mark.parametrize("folder", archive.archives(REFERENCE), ids=lambda folder: folder.name)
def test_the_tables_of_the_project_say_what_its_runs_say(folder):
    assert archive.stale(folder) == [], "clbench tables makes them anew"
