import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from fake import FORGETS, HASH, IMPROVES, matrix_rows, write_predictions, write_run
from rich.console import Console

import clbench.metrics
from clbench import catalogue, results
from clbench.cli import main
from clbench.configurations import differences, ranges
from clbench.errors import Mistake
from clbench.metric import Row, Summary, Value
from clbench.result import read_rows
from clbench.tables import quantities

FINAL = "class/final_accuracy"


def final(accuracy, *more):
    """Rows of a run of two experiences that ends at this accuracy."""
    return [*matrix_rows([[0.9], [accuracy, accuracy]]), *more]


def write_seeds(root, strategy, accuracies, **options):
    for seed, accuracy in enumerate(accuracies):
        write_run(root, strategy, seed, rows=final(accuracy), **options)


def narrow(width=80):
    return Console(width=width)


# One run.


def test_a_folder_is_read_back(tmp_path):
    timings = [Row(4, 40, "cost/train_seconds", "", 1.5)]
    folder = write_run(tmp_path, "er", 3, timings=timings, config={"strategy.memory": "500"})
    result = results.open_result(folder)
    assert (result.stream, result.strategy, result.hash, result.seed, result.state) == ("toy", "er", HASH, 3, "done")
    assert result.config == {"stream": "toy", "strategy": "er", "seed": "3", "strategy.memory": "500"}
    assert result.rows() == matrix_rows(FORGETS) + timings
    found = result.summaries()
    assert found[FINAL].number == pytest.approx(0.6925)
    assert found["cost/train_seconds"] == Value(1.5)
    assert found["cost/train_flops"] == Value(None, "no cost/train_flops was measured")
    assert result.summaries([FINAL]) == {FINAL: found[FINAL]}
    assert results.summarise(matrix_rows(FORGETS))["class/bwt"] == found["class/bwt"]


def test_a_line_that_is_still_being_written_is_left(tmp_path):
    folder = write_run(tmp_path)
    whole = read_rows(folder / "rows.csv")
    with (folder / "rows.csv").open("a") as file:
        file.write("5,50,class/accuracy,e0,0.1")
    assert read_rows(folder / "rows.csv") == whole
    with (folder / "rows.csv").open("a") as file:
        file.write('23,100,"why, and why"\n')
    assert read_rows(folder / "rows.csv")[-1] == Row(5, 50, "class/accuracy", "e0", 0.123, 100, "why, and why")
    assert read_rows(folder / "no.csv") == []


def test_a_line_that_is_no_row_is_named(tmp_path):
    folder = write_run(tmp_path)
    with (folder / "rows.csv").open("a") as file:
        file.write("what\n")
    lines = len(matrix_rows(FORGETS)) + 2
    with pytest.raises(Mistake, match=rf"rows\.csv:{lines} is no row \(step,at,metric,subject,value,n,note\): what"):
        results.open_result(folder).rows()


def test_no_run_folder(tmp_path):
    with pytest.raises(Mistake, match=r"is no run folder: it has no meta\.json"):
        results.open_result(tmp_path)
    with pytest.raises(Mistake, match="There is no folder"):
        results.find(tmp_path / "nowhere")
    assert results.find(tmp_path) == []
    folder = write_run(tmp_path)
    (folder / "status.json").write_text('{"state": "do')
    with pytest.raises(Mistake, match="cannot be read"):
        results.find(tmp_path)
    (folder / "meta.json").write_text('{"project": "theirs"}')
    (folder / "status.json").unlink()
    with pytest.raises(Mistake, match=r"is no run folder: its meta.json is none of clbench's"):
        results.find(tmp_path)


def test_rows_that_are_no_text(tmp_path):
    folder = write_run(tmp_path)
    (folder / "rows.csv").write_bytes(b"step\n\xff\n")
    with pytest.raises(Mistake, match=r"rows\.csv cannot be read: 'utf-8' codec"):
        results.open_result(folder).rows()


def test_a_new_metric_is_computed_on_old_folders(tmp_path, monkeypatch):
    folder = write_run(tmp_path)
    worst = Summary("class/worst", lambda rows: Value(min(r.value or 0 for r in rows if r.step == 4)), "min", "ours")
    monkeypatch.setitem(clbench.metrics.CATALOGUE, "class/worst", worst)
    catalogue.names.cache_clear()
    try:
        assert results.open_result(folder).summaries()["class/worst"].number == 0.55
    finally:
        monkeypatch.undo()
        catalogue.names.cache_clear()
    assert "class/worst" not in results.open_result(folder).summaries()


@pytest.mark.parametrize("state", ["running", "diverged", "failed"])
def test_a_run_that_is_not_done_has_no_summary(tmp_path, state):
    result = results.open_result(write_run(tmp_path, state=state, at=120, error="OSError: disk full"))
    reasons = {"running": "not finished", "diverged": "diverged at step 120", "failed": "failed: OSError: disk full"}
    assert set(result.summaries().values()) == {Value(None, reasons[state])}


def test_frame_is_tidy(tmp_path):
    write_run(tmp_path, "er", 0)
    write_run(tmp_path, "er", 1, state="failed")
    table = results.frame(results.find(tmp_path))
    assert list(table.columns) == ["stream", "strategy", "hash", "seed", "state", "metric", "value", "note"]
    line = table[(table.metric == "class/bwt") & (table.seed == 0)].iloc[0]
    assert line.value == pytest.approx(-0.83 / 3)
    assert table[table.seed == 1].value.isna().all()
    assert results.frame([]).empty


def test_rescoring_predictions_gives_the_recorded_rows(tmp_path):
    folder = write_run(tmp_path)
    write_predictions(folder)
    result = results.open_result(folder)
    recorded = [row for row in result.rows() if row.metric.endswith("/accuracy")]
    assert len(recorded) == 12
    assert sorted(results.rescore(result)) == sorted(recorded)
    with np.load(folder / "predictions" / "002.npz") as file:
        answers = dict(file)
    answers["class/e1"][:] = 0
    np.savez(folder / "predictions" / "002.npz", **answers)
    assert sorted(results.rescore(result)) != sorted(recorded)


def test_rescoring_needs_predictions_that_fit(tmp_path):
    result = results.open_result(write_run(tmp_path))
    with pytest.raises(Mistake, match="has no predictions"):
        results.rescore(result)
    write_predictions(result.folder)
    np.savez(result.folder / "predictions" / "000.npz", **{"class/e0": np.zeros(7, np.uint8)})  # type: ignore[arg-type]
    with pytest.raises(Mistake, match="class/e0 has 7 answers, the truth 30"):
        results.rescore(result)


# Leaderboards.


def test_means_over_seeds_are_ranked(tmp_path):
    write_seeds(tmp_path, "worse", [0.5, 0.6, 0.7])
    write_seeds(tmp_path, "better", [0.8, 0.8, 0.8])
    (board,) = results.leaderboard(results.find(tmp_path))
    assert [row.strategy for row in board.rows] == ["better", "worse"]
    cell = board.rows[1].cells[FINAL]
    assert (cell.mean, cell.half_width, cell.n) == (pytest.approx(0.6), pytest.approx(4.302653 * 0.1 / np.sqrt(3)), 3)
    (board,) = results.leaderboard(results.find(tmp_path), [FINAL], rank_by="class/forgetting")
    assert list(board.metrics) == ["class/forgetting", FINAL]
    assert [row.strategy for row in board.rows] == ["better", "worse"]
    with pytest.raises(Mistake, match=r"no summary named 'class/forgeting'. Did you mean 'class/forgetting'\?"):
        results.leaderboard([], rank_by="class/forgeting")


def test_protocols_are_never_ranked_together(tmp_path):
    write_seeds(tmp_path, "er", [0.5, 0.6])
    write_seeds(tmp_path, "naive", [0.1])
    write_seeds(tmp_path, "er", [0.9], hash="b" * 12, protocol={"epochs": 1, "pretrained": True})
    write_seeds(tmp_path, "er", [0.9], hash="c" * 12, protocol={"stream": "digits"})
    boards = results.leaderboard(results.find(tmp_path))
    assert [(board.protocol["stream"], board.protocol["epochs"], len(board.rows)) for board in boards] == [
        ("digits", 5, 1),
        ("toy", 5, 2),
        ("toy", 1, 1),
    ]
    text = results.render(boards, "md")
    assert text.count("stream toy · model mlp · epochs 5 · batch 32 · order natural\n\n|") == 1
    assert "as the first board of toy, but epochs 1 instead of 5 · pretrained yes instead of none" in text


def test_versions_are_never_averaged(tmp_path):
    write_seeds(tmp_path, "er", [0.5, 0.5], versions={"strategy": 1}, hash="a" * 12)
    write_seeds(tmp_path, "er", [0.9, 0.9], versions={"strategy": 2}, hash="b" * 12)
    (board,) = results.leaderboard(results.find(tmp_path))
    assert [(row.cells[FINAL].mean, row.settings) for row in board.rows] == [
        (0.9, {"version of strategy": "2"}),
        (0.5, {"version of strategy": "1"}),
    ]


def test_a_diverged_seed_shows_and_takes_the_mean_away(tmp_path):
    write_seeds(tmp_path, "naive", [0.1, 0.1])
    write_seeds(tmp_path, "der", [0.9, 0.9])
    write_run(tmp_path, "der", 2, state="diverged", at=120)
    write_run(tmp_path, "der", 3, state="running")
    write_run(tmp_path, "der", 4, state="failed", error="OSError: no space")
    (board,) = results.leaderboard(results.find(tmp_path))
    assert [row.strategy for row in board.rows] == ["naive", "der"]
    trouble = "1 of 5 diverged at step 120; 1 of 5 failed: OSError: no space; 1 of 5 not finished"
    assert board.rows[1].trouble == trouble
    assert set(board.rows[1].cells.values()) == {(None, None, 5, trouble)}
    assert trouble in results.render([board], "md")


def test_a_missing_cell_has_no_mean_and_a_footnote(tmp_path):
    write_seeds(tmp_path, "er", [0.5, 0.6])
    rows = [row for row in final(0.9) if (row.step, row.subject) != (2, "e0")]
    write_run(tmp_path, "er", 2, rows=rows)
    write_seeds(tmp_path, "naive", [0.1, 0.1, 0.1])
    (board,) = results.leaderboard(results.find(tmp_path), [FINAL, "task/bwt"])
    reason = "there is no class/accuracy of e0 after 2 experiences (1 of 3 seeds)"
    assert board.rows[1].cells[FINAL] == (None, None, 3, reason)
    text = results.render([board], "md")
    assert "| er | 3 | –¹ |" in text
    assert f"¹ {reason}" in text
    assert "Left out, as no row has a value: backward transfer (task) (no task/accuracy was measured)." in text


def test_seconds_on_several_devices_are_not_taken_together(tmp_path):
    seconds = [Row(2, 20, "cost/train_seconds", "", 9.0)]
    for seed, device in enumerate(["cpu", "a GPU", None]):
        write_run(tmp_path, "er", seed, rows=final(0.5), timings=seconds, device=device)
        write_run(tmp_path, "der", seed, rows=final(0.4), timings=seconds, device="cpu")
        write_run(tmp_path, "naive", seed, rows=final(0.3), timings=seconds, device="a GPU")
    (board,) = results.leaderboard(results.find(tmp_path), [FINAL, "cost/train_seconds"])
    cells = board.rows[0].cells
    assert cells["cost/train_seconds"] == (None, None, 3, "its seeds ran on a GPU and on cpu")
    assert cells[FINAL][0] == 0.5
    assert "Times and memory are not of one device: naive on a GPU; der on cpu." in board.notes
    (board,) = results.leaderboard(results.find(tmp_path), [FINAL])
    assert not [note for note in board.notes if note.startswith("Times")]


def test_other_seeds_and_few_seeds_are_said(tmp_path):
    write_seeds(tmp_path, "er", [0.5] * 7)
    write_seeds(tmp_path, "der", [0.6] * 7)
    (board,) = results.leaderboard(results.find(tmp_path))
    assert board.notes == []
    write_seeds(tmp_path, "joint", [0.9] * 3)
    (board,) = results.leaderboard(results.find(tmp_path))
    assert board.notes == [
        "Not all rows have the same seeds: joint 0-2; the others 0-6.",
        "With fewer than 6 seeds no difference to another row can be claimed.",
    ]


def test_an_option_that_is_null_makes_no_other_configuration(tmp_path):
    write_run(tmp_path, "er", 0, config={"learner.lr": "0.1"}, protocol={"stream": "toy"})
    write_run(
        tmp_path,
        "er",
        1,
        config={"learner.lr": "0.1", "learner.clip": "null"},
        protocol={"stream": "toy", "clip": None},
    )
    (board,) = results.leaderboard(results.find(tmp_path))
    (row,) = board.rows
    assert (row.seeds, row.settings) == ([0, 1], {})


def test_settings_tell_rows_apart(tmp_path):
    write_seeds(tmp_path, "naive", [0.1])
    for size, digit in ((200, "a"), (500, "b")):
        axes, config = {"memory": size}, {"strategy.memory": str(size), "learner.lr": "0.1"}
        write_seeds(tmp_path, "er", [0.5], hash=digit * 12, axes=axes, config=config)
    for alpha, digit in (("0.1", "d"), ("0.3", "e")):
        config = {"strategy.alpha": alpha, "strategy.memory": "200"}
        write_seeds(tmp_path, "der", [0.6], hash=digit * 12, axes={"memory": 200}, config=config)
    groups = results.configurations(results.find(tmp_path))
    assert [(group[0].strategy, settings) for group, settings in zip(groups, differences(groups), strict=True)] == [
        ("der", {"memory": "200", "alpha": "0.1"}),
        ("der", {"memory": "200", "alpha": "0.3"}),
        ("er", {"memory": "200"}),
        ("er", {"memory": "500"}),
        ("naive", {}),
    ]


def test_the_hash_tells_twins_apart(tmp_path):
    for digit in "ab":
        write_seeds(tmp_path, "er", [0.5], hash=digit * 12)
    assert differences(results.configurations(results.find(tmp_path))) == [{"hash": "aaaaaaaa"}, {"hash": "bbbbbbbb"}]


def test_sources_of_options_are_footnotes_where_they_differ(tmp_path):
    write_seeds(tmp_path, "er", [0.5], preset="Chaudhry et al. 2019")
    write_seeds(tmp_path, "der", [0.6], preset="untuned")
    text = results.render(results.leaderboard(results.find(tmp_path)), "md")
    assert "¹ options: untuned" in text
    assert "² options: Chaudhry et al. 2019" in text
    assert "| er² |" in text


def test_one_source_of_all_options_is_said(tmp_path):
    tuned = "tuned here on validation (protocol first=1 on toy)"
    write_seeds(tmp_path, "er", [0.5], preset=tuned)
    write_seeds(tmp_path, "der", [0.6], preset=tuned)
    text = results.render(results.leaderboard(results.find(tmp_path)), "md")
    assert f"Options: {tuned}." in text
    assert "| er |" in text


def test_how_a_row_varies_with_the_rate(tmp_path):
    for rate, accuracy, digit in (("0.03", 0.3, "a"), ("0.1", 0.5, "b"), ("1.0", 0.2, "c")):
        config = {"learner.lr": rate, "strategy.alpha": "1"}
        write_seeds(tmp_path, "er", [accuracy], hash=digit * 12, config=config)
    write_seeds(tmp_path, "er", [0.6], hash="d" * 12, config={"learner.lr": "0.1", "strategy.alpha": "2"})
    (board,) = results.leaderboard(results.find(tmp_path), [FINAL])
    assert [(row.hash[0], row.rates) for row in board.rows] == [
        ("d", None), ("b", (0.03, 1.0, 0.2, 0.5, 3)), ("a", None), ("c", None),
    ]  # fmt: skip
    assert "| er, learner.lr 0.1, alpha 1, rate 0.03–1: 20.0–50.0 |" in results.render([board], "md")
    write_run(tmp_path, "er", 1, hash="c" * 12, state="diverged", config={"learner.lr": "1.0", "strategy.alpha": "1"})
    (board,) = results.leaderboard(results.find(tmp_path), [FINAL])
    assert "rate 0.03–1: not every one has a mean" in results.render([board], "md")


def test_boards_on_validation_shares_come_last_and_say_so(tmp_path):
    write_seeds(tmp_path, "er", [0.5] * 6, protocol={"exams": "validation"}, hash="a" * 12)
    write_seeds(tmp_path, "er", [0.5], protocol={"exams": "test"})
    test, validation = results.leaderboard(results.find(tmp_path))
    assert test.protocol["exams"] == "test"
    assert validation.notes == ["Exams are validation shares: to choose options by, not to judge strategies by."]


def test_a_seed_that_is_there_twice_counts_once(tmp_path):
    write_run(tmp_path / "old", "er", 0, rows=final(0.1), started="2026-01-01T00:00:00+00:00")
    write_run(tmp_path / "new", "er", 0, rows=final(0.9), started="2026-01-02T00:00:00+00:00")
    (board,) = results.leaderboard(results.find(tmp_path))
    assert board.rows[0].cells[FINAL] == (0.9, None, 1, "")


# What is shown.


def test_quantities_far_apart_are_all_read():
    assert quantities([(6_160_100, 0), (232_020, 32_697), (920, 0)], "B") == ("kB", ["6160.1", "232.0 ± 32.7", "0.9"])


def test_quantities():
    assert quantities([(0.934, 0.006), (0.1, 0.0312), None], "%") == ("%", ["93.4 ± 0.6", "10.0 ± 3.1", "–"])
    assert quantities([(0.5, None), (-0.00001, 0.0)], "%") == ("%", ["50.0", "0.0 ± 0.0"])
    assert quantities([(2.13e12, 0.0), (40.2e12, 0.0)], "FLOP") == ("TFLOP", ["2.13", "40.20"])
    assert quantities([(512e9, 1e9), (2e12, None)], "FLOP") == ("TFLOP", ["0.51 ± 0.00", "2.00"])
    assert quantities([(0, 0), (392_000, 0)], "B") == ("kB", ["0", "392"])
    assert quantities([(5412.0, 12.0), (33.25, 1.0)], "s") == ("s", ["5412 ± 12", "33 ± 1"])
    assert quantities([(11_173_962, 0)], "") == ("M", ["11.2"])
    assert quantities([(640, 0)], "") == ("", ["640"])
    assert quantities([(640, 0), (700, 3)], "") == ("", ["640", "700 ± 3"])
    assert quantities([(0.0123, 0.001)], "") == ("", ["0.0123 ± 0.0010"])
    assert quantities([], "%") == ("%", [])


@pytest.fixture
def boards(tmp_path):
    cost = Row(2, 20, "cost/train_flops", "", 2.5e12), Row(2, 20, "cost/bytes_kept", "", 392_000)
    for strategy, accuracy in (("er", 0.9), ("a_rather_long_name_of_a_strategy(der)", 0.85)):
        for seed in range(6):
            write_run(tmp_path, strategy, seed, rows=final(accuracy + seed / 1000, *cost), axes={"memory": 500})
    write_seeds(tmp_path, "naive", [0.1] * 6)
    accuracies = ["class/final_accuracy", "class/average_incremental_accuracy", "class/forgetting"]
    more = ["task/final_accuracy", "cost/train_flops", "cost/bytes_kept", "class/learning_accuracy", "class/bwt"]
    return results.leaderboard(results.find(tmp_path), accuracies + more)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_terminal_form_fits_and_keeps_every_number(boards, width):
    text = results.render(boards, console=narrow(width))
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    rows = [line for line in lines if line.startswith("er ")]
    assert len(rows) == {60: 3, 80: 2, 120: 1, 200: 1}[width]
    numbers = re.sub(r"\s*±\s*", "±", " ".join(row.removeprefix("er") for row in rows)).split()
    assert numbers == ["6", "90.3±0.2", "90.1±0.1", "-0.3±0.2", "2.50", "392", "90.1±0.1", "0.3±0.2"]
    assert "TFLOP" in text


def test_the_terminal_form_at_80_columns(tmp_path):
    write_seeds(tmp_path, "er", [0.900, 0.910, 0.920, 0.930, 0.940, 0.950], axes={"memory": 500})
    write_seeds(tmp_path, "naive", [0.1] * 6)
    text = results.render(results.leaderboard(results.find(tmp_path), [FINAL]), console=narrow())
    assert [line.rstrip() for line in text.splitlines()] == [
        "toy",
        "stream toy · model mlp · epochs 5 · batch 32 · order natural",
        "                    final",
        "                 accuracy",
        "                  (class)",
        "            n         ↑ %",
        "─────────────────────────",
        "er          6  92.5 ± 2.0",
        "memory 500",
        "naive       6  10.0 ± 0.0",
        "n: seeds; means over seeds ± 95 % intervals by Student's t.",
        "",
    ]


def test_csv_has_the_raw_numbers(boards):
    lines = list(csv.DictReader(io.StringIO(results.render(boards, "csv"))))
    assert len(lines) == 3 * 8
    line = next(line for line in lines if line["strategy"] == "er" and line["metric"] == FINAL)
    assert float(line["mean"]) == boards[0].rows[0].cells[FINAL].mean
    assert float(line["half_width"]) == boards[0].rows[0].cells[FINAL].half_width
    assert (line["n"], line["seeds"], line["settings"], line["version"]) == ("6", "0-5", "memory 500", "1")
    assert json.loads(line["protocol"]) == boards[0].protocol
    missing = next(line for line in lines if line["strategy"] == "naive" and line["metric"] == "cost/train_flops")
    assert (missing["mean"], missing["note"]) == ("", "no cost/train_flops was measured")


def test_latex_is_booktabs_and_escaped(tmp_path):
    write_seeds(tmp_path, "lwf_mc", [0.5, 0.6], axes={"memory": 5})
    write_seeds(tmp_path, "er", [0.9, 0.9])
    text = results.render(results.leaderboard(results.find(tmp_path), [FINAL]), "latex")
    assert r"\begin{tabular}{lrr}" in text
    assert r"lwf\_mc, memory 5 & 2 & 55.0 $\pm$ 63.5 \\" in text
    assert re.search(r"(?<!\\)%", re.sub(r"^% .*", "", text, flags=re.MULTILINE)) is None
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


def test_no_such_format(boards):
    with pytest.raises(Mistake, match=r"no format named 'markdown'.*csv, latex, md, terminal"):
        results.render(boards, "markdown")


# Comparisons.


def groups(root):
    found = results.configurations(results.find(root))
    assert len(found) == 2
    return found


def test_differences_are_paired_by_seed(tmp_path):
    a, b = [0.50, 0.61, 0.72, 0.83, 0.90, 0.65], [0.49, 0.59, 0.69, 0.79, 0.85, 0.59]
    write_seeds(tmp_path, "a", a)
    write_seeds(tmp_path, "b", b)
    first, second = groups(tmp_path)
    comparison = results.compare(first, second, [FINAL])
    found = comparison.differences[FINAL]
    d = np.array([1, 2, 3, 4, 5, 6]) / 100
    assert found.a == pytest.approx(np.mean(a))
    assert found.mean == pytest.approx(0.035)
    assert found.half_width == pytest.approx(2.570582 * d.std(ddof=1) / np.sqrt(6))
    assert (found.p, found.n) == (2 / 64, 6)
    assert found.effect == pytest.approx(0.035 / d.std(ddof=1))
    assert found.detectable == pytest.approx(1.793 * d.std(ddof=1), rel=0.02)
    assert comparison.notes == [
        "80 % power: the difference that 6 seeds with this spread show at p ≤ .05 with that probability."
    ]
    text = results.render_comparison(comparison, console=narrow())
    assert re.search(r"final accuracy \(class\) ↑ % +70\.2 +66\.7 +3\.5 ± 2\.0 +\.031 +1\.87 +3\.3", text)


def test_too_few_seeds_are_said(tmp_path):
    write_seeds(tmp_path, "a", [0.5, 0.6, 0.7, 0.8])
    write_seeds(tmp_path, "b", [0.4, 0.5, 0.6])
    comparison = results.compare(*groups(tmp_path))
    assert comparison.seeds == [0, 1, 2]
    assert comparison.differences[FINAL].p == 0.25
    assert comparison.notes == [
        "Seeds of a that the other does not have are left out: 3.",
        "With 3 seeds no difference can be claimed: the smallest p is .25; 6 seeds are needed.",
    ]


def test_seeds_that_are_not_done_allow_no_difference(tmp_path):
    write_seeds(tmp_path, "a", [0.5, 0.6])
    write_seeds(tmp_path, "b", [0.4])
    write_run(tmp_path, "b", 1, state="diverged", at=7)
    found = results.compare(*groups(tmp_path)).differences[FINAL]
    assert found == (None, None, None, None, None, None, None, 2, "b: 1 of 2 diverged at step 7")


def test_an_undefined_value_allows_no_difference(tmp_path):
    write_seeds(tmp_path, "a", [0.5, 0.6])
    write_seeds(tmp_path, "b", [0.4, 0.4])
    first, second = groups(tmp_path)
    comparison = results.compare(first, second, ["task/bwt", FINAL])
    assert comparison.differences["task/bwt"].note == "no task/accuracy was measured"
    text = results.render_comparison(comparison, "md")
    assert "| backward transfer (task) ↑ % | – | – | –¹ | – | – | – |" in text
    assert "¹ no task/accuracy was measured" in text
    lines = list(csv.DictReader(io.StringIO(results.render_comparison(comparison, "csv"))))
    assert [(line["metric"], line["p"]) for line in lines] == [("task/bwt", ""), (FINAL, "0.5")]


def test_what_cannot_be_compared(tmp_path):
    write_seeds(tmp_path, "a", [0.5], axes={"memory": 5})
    write_seeds(tmp_path, "b", [0.4], protocol={"epochs": 1, "pretrained": True})
    a, b = groups(tmp_path)
    with pytest.raises(
        Mistake, match=r"^a \(memory 5\) and b do not share .*: epochs \(5, 1\); pretrained \(none, yes\)"
    ):
        results.compare(a, b)
    with pytest.raises(Mistake, match="both sides"):
        results.compare(a, a)
    with pytest.raises(Mistake, match="a side has 0"):
        results.compare(a, [])
    with pytest.raises(Mistake, match=r"a side has 2: toy/a 01234567 \(memory 5\); toy/b 01234567"):
        results.compare(a, [*a, *b])
    write_run(tmp_path, "c", 4)
    with pytest.raises(Mistake, match=r"no seed to pair by: a \(memory 5\) has 0 and c has 4"):
        results.compare(a, results.select(tmp_path, "c"))


def test_many_metrics_can_be_corrected_for(tmp_path):
    for name, last in (("a", 0.7), ("b", 0.6)):
        for seed in range(7):
            write_run(tmp_path, name, seed, rows=[*matrix_rows([[0.9 + seed / 100], [last + seed / 1000, last]])])
    metrics = [FINAL, "class/forgetting"]
    plain, corrected = (results.compare(*groups(tmp_path), metrics, holm=holm) for holm in (False, True))
    assert [found.p for found in plain.differences.values()] == [2 / 128] * 2
    assert [found.p for found in corrected.differences.values()] == [4 / 128] * 2
    assert "Each p stands for itself: none is corrected for there being 2 of them (--holm)." in plain.notes
    assert "p: corrected by Holm's procedure for there being 2." in corrected.notes


@pytest.fixture
def three(tmp_path):
    """A reference, a better and a worse strategy under one protocol, and a stranger under another."""
    flops = [Row(2, 20, "cost/train_flops", "", 100.0)]
    rest = np.array([0, 1, 2, 3, 4, 5]) / 100
    write_seeds(tmp_path, "naive", (0.5 + rest).tolist(), timings=flops)
    write_seeds(tmp_path, "er", (0.7 + 2 * rest).tolist(), timings=[flops[0]._replace(value=200.0)], preset="a paper")
    write_seeds(tmp_path, "lwf", (0.4 + rest[::-1]).tolist())
    write_seeds(tmp_path, "joint", [0.9] * 6, hash="d" * 12, protocol={"epochs": 1})
    return tmp_path


def test_all_against_one(three):
    found = results.paired(results.find(three), results.select(three, "naive"), FINAL)
    assert [line.name for line in found.lines] == ["er", "naive", "lwf"]
    er, naive, lwf = found.lines
    assert (er.compute, naive.compute, lwf.compute) == (2.0, 1.0, None)
    assert naive.difference is None
    alone = results.compare(results.select(three, "er"), results.select(three, "naive"), [FINAL])
    assert er.difference == alone.differences[FINAL]
    assert lwf.difference.mean == pytest.approx(-0.1)
    text = results.render_paired(found, "md")
    assert "| er¹ | 6 | 75.0 ± 3.9 | 2.00 | 22.5 ± 2.0 | .031 |" in text
    assert re.search(r"\| naive² \| 6 \| 52\.5 ± 2\.0 \| 1\.00 \| +\| +\| +\| +\|", text)
    assert "¹ options: a paper" in text
    lines = list(csv.DictReader(io.StringIO(results.render_paired(found, "csv"))))
    assert [(line["name"], line["p"]) for line in lines] == [("er", "0.03125"), ("naive", ""), ("lwf", "0.03125")]


def test_all_against_one_corrected(three):
    found = results.paired(results.find(three), results.select(three, "naive"), FINAL, holm=True)
    assert [line.difference.p for line in found.lines if line.difference] == [2 / 32, 2 / 32]
    assert "Corrected for 2, 6 seeds can't bring the first p to .05; 7 seeds can." in found.notes


def test_what_is_named_and_not_under_the_protocol_is_refused(three, capsys):
    assert main(["compare", "er", "lwf", "--against", "naive", "--results", str(three)]) == 0
    assert main(["compare", "er", "joint", "--against", "naive", "--results", str(three)]) == 2
    assert re.search("^joint and naive do not share a protocol.*: epochs", capsys.readouterr().err)


def test_a_row_with_few_seeds_does_not_speak_for_the_others(three):
    write_seeds(three, "der", [0.9, 0.9])
    found = results.paired(results.find(three), results.select(three, "naive"), FINAL, holm=True)
    assert "Fewer than 6 seeds are shared with der: nothing can be claimed there." in found.notes
    assert "p: corrected by Holm's procedure for there being 3." in found.notes
    assert not [note for note in found.notes if note.startswith("With")]


def test_against_says_what_stands_alone(three):
    write_run(three, "der", 77, rows=final(0.9))
    write_run(three, "lwf", 6, state="diverged", at=3)
    found = results.paired(results.find(three), results.select(three, "naive"), FINAL)
    assert "No seed is shared with der." in found.notes
    alone = [run for run in results.find(three) if run.strategy in ("naive", "der")]
    assert results.paired(alone, results.select(three, "naive"), FINAL).notes == ["No seed is shared with der."]
    lwf = next(line for line in found.lines if line.name == "lwf")
    assert lwf.cell.mean is None
    assert lwf.cell.note == "1 of 7 diverged at step 3"
    with pytest.raises(Mistake, match="Nothing else was run under the protocol of joint dddddddd"):
        results.paired(results.find(three), results.select(three, "joint"), FINAL)


def test_n_is_the_rows_own_and_fewer_shared_seeds_are_said(tmp_path):
    write_seeds(tmp_path, "naive", [0.5, 0.6])
    write_seeds(tmp_path, "er", [0.7, 0.7, 0.9])
    write_seeds(tmp_path, "lwf", [0.4, 0.5])
    text = results.render_paired(results.paired(results.find(tmp_path), results.select(tmp_path, "naive"), FINAL), "md")
    assert re.search(r"\| er \| 3 \| 76\.7 ± \S+ \| – \| 15\.0 ± \S+¹ \|", text)
    assert "¹ over the seeds that both have, 2" in text
    assert re.search(r"\| lwf \| 2 \| 45\.0 ± \S+ \| – \| -10\.0 ± \S+ \|", text)


# Ranks.


def test_ranks_over_streams(tmp_path):
    for stream, scores in (("s", (0.5, 0.7, 0.6)), ("t", (0.5, 0.9, 0.5)), ("u", (0.1, 0.2, 0.3))):
        for name, score in zip(("naive", "er", "lwf"), scores, strict=True):
            write_seeds(tmp_path, name, [score] * 6, protocol={"stream": stream})
    write_seeds(tmp_path, "gdumb", [0.9] * 6, protocol={"stream": "s"})
    write_seeds(tmp_path, "naive", [0.9] * 6, hash="e" * 12, protocol={"stream": "s", "exams": "validation"})
    ranking = results.rank(results.find(tmp_path), FINAL)
    assert ranking.streams == ["s", "t", "u"]
    assert [(place.strategy, place.ranks) for place in ranking.places] == [
        ("er", [1.0, 1.0, 2.0]),
        ("lwf", [2.0, 2.5, 1.0]),
        ("naive", [3.0, 2.5, 3.0]),
    ]
    assert [(place.low, place.rank, place.high) for place in ranking.places] == [
        (pytest.approx(rank),) * 3 for rank in (4 / 3, 5.5 / 3, 8.5 / 3)
    ], "seeds that are all alike leave no doubt"
    assert ranking.critical == pytest.approx(2.343 * np.sqrt(12 / 18), rel=1e-3)
    assert ranking.notes == ["Left out: gdumb is not on t, u."]
    text = results.render_ranking(ranking, "md")
    assert "| er | 1.33 | 1.33 to 1.33 | 1 | 1 | 2 |" in text
    lower = results.rank(results.find(tmp_path), "class/forgetting")
    assert [place.strategy for place in lower.places] == ["er", "lwf", "naive"], "less forgetting is better"


def test_seeds_decide_how_sure_a_rank_is(tmp_path):
    rng = np.random.default_rng(0)
    for stream in ("s", "t"):
        for name in ("a", "b"):
            write_seeds(tmp_path, name, rng.normal(0.5, 0.1, 6).tolist(), protocol={"stream": stream})
    wide = results.rank(results.find(tmp_path), FINAL).places[0]
    assert wide.low <= wide.rank <= wide.high
    assert wide.high - wide.low >= 0.5


def test_what_cannot_be_ranked(tmp_path):
    write_seeds(tmp_path, "er", [0.5] * 2)
    with pytest.raises(Mistake, match="Ranks are over several streams; here is toy"):
        results.rank(results.find(tmp_path))
    write_seeds(tmp_path, "er", [0.5] * 2, protocol={"stream": "u"})
    write_seeds(tmp_path, "er", [0.5] * 2, hash="b" * 12, config={"learner.lr": "1"})
    write_seeds(tmp_path, "der", [0.5], protocol={"stream": "u"})
    with pytest.raises(Mistake, match="der is not on toy; er stands on toy with several options"):
        results.rank(results.find(tmp_path))


# Names of configurations.


def test_select(tmp_path):
    write_seeds(tmp_path, "er", [0.5, 0.6], hash="abcd12345678")
    folder = write_run(tmp_path, "naive", 0, IMPROVES, hash="ef" * 6)
    for spec in ("er", "toy/er", "abcd", "abcd12345678", "toy/er/abcd12345678", str(folder.parents[2] / "er")):
        assert [(r.strategy, r.seed) for r in results.select(tmp_path, spec)] == [("er", 0), ("er", 1)], spec
    assert [r.folder for r in results.select(tmp_path, str(folder))] == [folder]
    with pytest.raises(Mistake, match=r"named 'naiv'. Did you mean 'naive'\? There are: er, naive, toy/er, toy/naive"):
        results.select(tmp_path, "naiv")
    with pytest.raises(Mistake, match="named 'abc'"):
        results.select(tmp_path, "abc")


def test_an_ambiguous_name_lists_the_candidates(tmp_path):
    for size, digit in ((200, "a"), (500, "b")):
        write_seeds(tmp_path, "er", [0.5], hash=digit * 12, axes={"memory": size})
    write_seeds(tmp_path, "er", [0.5], hash="c" * 12, protocol={"stream": "digits"})
    listed = "digits/er cccccccc; toy/er aaaaaaaa (memory 200); toy/er bbbbbbbb (memory 500)"
    with pytest.raises(Mistake, match=re.escape(f"'er' stands for 3 configurations: {listed}. Name one by")):
        results.select(tmp_path, "er")
    assert results.select(tmp_path, "digits/er")[0].hash == "c" * 12
    assert results.select(tmp_path, "bbbb")[0].hash == "b" * 12


def test_ranges():
    assert [ranges(seeds) for seeds in ([], [3], [0, 1, 2], [0, 2, 3, 9])] == ["", "3", "0-2", "0, 2-3, 9"]


def test_reading_results_imports_nothing_heavy():
    heavy = {"numpy", "pandas", "scipy", "rich", "torch", "matplotlib"}
    code = f"import sys, clbench.results, clbench.result as r; r.summaries(); print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_run_whose_rows_were_cut_short_has_no_numbers(tmp_path):
    folder = write_run(tmp_path, "er", 0)
    status, rows = folder / "status.json", folder / "rows.csv"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"rows_bytes": rows.stat().st_size}))
    assert results.open_result(folder).summaries([FINAL])[FINAL].number is not None
    rows.write_bytes(rows.read_bytes()[:-30])
    value = results.open_result(folder).summaries([FINAL])[FINAL]
    assert value == (None, "rows.csv is cut short; clbench run --again makes it anew")
