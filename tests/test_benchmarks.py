"""The scripts that make tables of runs leave nothing out and mix nothing up."""

import runpy
import sys
from pathlib import Path

import pytest
from fake import write_run

from clbench.metric import Row

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def printed(monkeypatch, capsys):
    """What a script prints of a folder: the cells of each line of its table."""

    def do(script: str, folder: Path) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", [script, str(folder)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        assert not ended.value.code
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]

    return do


def test_the_table_of_recurrence_leaves_nothing_out(tmp_path, printed):
    """Seeds are paired, configurations told apart; what is never reached or diverged is said."""

    def write(seed, hash, draw, mask, ends, momentum="0.0", **options):
        config = {"stream.draw": draw, "learner.loss_mask": mask, "learner.momentum": momentum}
        begins = 0.4 if draw == "iid" else 0.1
        rows = [Row(0, 0, "exam/since", "a", 0, 10)]
        for step, accuracy in ((25, begins), (150, ends)):
            rows += [Row(step, step, "class/accuracy", "a", accuracy, 10), Row(step, step, "cost/samples", "", step)]
        write_run(tmp_path, "naive", seed, rows=rows, hash=hash * 12, config=config, **options)

    for seed in range(3):
        write(seed, "a", "iid", "all", 1.0)
        write(seed, "b", "iid", "all", 0.5, "0.9")
        write(seed, "c", "classes", "all", (0.8, 0.6, 0.4)[seed])
        write(seed, "d", "classes", "all", 0.3, "0.9")
        write(seed, "e", "classes", "batch", 0.9, "0.9", state="diverged" if seed == 1 else "done", at=7)
    for seed in (2, 1):
        write(seed, "f", "classes", "batch", (0.0, 0.6, 0.5)[seed])
    lines = {name: cells for _, name, *cells in printed("recurrence.py", tmp_path)[2:]}
    names = [f"{mask}, learner.momentum {momentum}" for momentum in ("0.0", "0.9") for mask in ("all", "batch")]
    diverged = f"{names[3]}, 1 of 3 diverged at step 7"
    assert set(lines) == {*names[:3], diverged, "batch - all, learner.momentum 0.0"}
    assert lines[names[0]] == [
        "3", "10.0 ± 0.0", "60.0 ± 49.7", "60.0 ± 49.7", "25.0 ± 0.0", "60.0 ± 49.7", "60.0 ± 49.7", "35.0 ± 49.7",
        "– (2 of 3)",
    ]  # fmt: skip
    assert lines[names[1]][0] == "2"
    assert lines[names[2]][7:] == ["35.0 ± 0.0", "150.0 ± 0.0"], "the reference is the one of its momentum"
    gains = lines["batch - all, learner.momentum 0.0"]
    assert (gains[0], gains[2], gains[-1]) == ("2", "+5.0 ± 63.5", "– (1 of 2)")
    assert lines[diverged] == ["3", *["–"] * 8]


def test_accuracy_by_how_often_a_class_is_taught(tmp_path, printed):
    """Classes taught in 1, 10 and 100 of 200 experiences; the last seed never taught the rarest."""
    for mask, gain in (("all", 0.0), ("batch", 0.2)):
        for seed in range(2):
            times = {"a": 100, "b": 10, "c": 1 - seed}
            rows = [Row(200, 200, "stream/occurrences", exam, count) for exam, count in times.items()]
            rows += [
                Row(200, 200, "class/accuracy", exam, 0.1 * place + gain, 10) for place, exam in enumerate(times, 1)
            ]
            write_run(tmp_path, "naive", seed, rows=rows, hash=mask[0] * 12, config={"learner.loss_mask": mask})
    _, _, _, heads, _, every, batch, gains = printed("recurrence.py", tmp_path)
    assert heads[3:] == ["0.0032 to 0.01", "0.032 to 0.1", "0.32 to 1"]
    assert every[1:] == ["all", "2", "– (1 of 2)", "20.0 ± 0.0", "10.0 ± 0.0"]
    assert batch[1:] == ["batch", "2", "– (1 of 2)", "40.0 ± 0.0", "30.0 ± 0.0"]
    assert gains[1:] == ["batch - all", "2", "– (1 of 2)", "+20.0 ± 0.0", "+20.0 ± 0.0"]


def test_the_table_of_plasticity_leaves_nothing_out(tmp_path, printed):
    def write(strategy, seed, last, hash, each=1, dormant=0.5, momentum="0.0", **options):
        steps = range(each, 21, each)
        rows = [Row(step, step, "online/accuracy", "", last if step > 18 else 0.9, 10 * each) for step in steps]
        rows += [Row(20, 20, "plasticity/dormant", "", dormant, 5), Row(20, 20, "cost/train_flops", "", 10.0 * seed)]
        config = {"learner.momentum": momentum}
        write_run(tmp_path, strategy, seed, rows=rows, hash=hash * 12, config=config, **options)

    for seed in (1, 2):
        write("naive", seed, 0.5, "a")
        write("er", seed, 0.7 + seed / 10, "b", each=2, dormant=None if seed == 1 else 0.5)
        write("er", seed, 0.9, "c", momentum="0.9", state="diverged" if seed == 2 else "done", at=7)
    write("er", 3, 0.9, "b", each=2)
    lines = {name: cells for name, *cells in printed("plasticity.py", tmp_path)[2:]}
    assert lines == {
        "naive": ["2", "90.0 ± 0.0", "50.0 ± 0.0", "-40.0 ± 0.0", "", "", "50.0 ± 0.0", "– (0 of 2)", "– (0 of 2)",
                  "1.00"],
        "er (learner.momentum 0.0)": ["3", "90.0 ± 0.0", "86.7 ± 14.3", "-3.3 ± 14.3", "+35.0 ± 63.5", "0.500",
                                      "– (2 of 3)", "– (0 of 3)", "– (0 of 3)", "1.33"],
        "er (learner.momentum 0.9), 1 of 2 diverged at step 7": ["2", *["–"] * 9],
    }  # fmt: skip
