import math

import pytest
from fake import FORGETS, matrix_rows, write_run
from matplotlib.colors import to_hex

from clbench import results
from clbench.accumulation import Bin, accumulation, by_frequency, curve, frequencies, known
from clbench.cli import main
from clbench.errors import Mistake
from clbench.figures import COLOURS
from clbench.figures import accumulation as draw
from clbench.intransigence import intransigence
from clbench.metric import Row, Undefined
from clbench.testing import check_metric


def recurring(accuracies, samples=50, since=(0, 1), times=(), n=(10, 30)):
    """Two classes, taught first by the experiences of `since`; accuracies of their exams by step."""
    rows = [Row(0, 0, "exam/since", name, first, size) for name, first, size in zip("ab", since, n, strict=True)]
    for step, cells in accuracies.items():
        rows += [Row(step, step, "class/accuracy", name, a, size) for name, a, size in zip("ab", cells, n, strict=True)]
        rows += [Row(step, step, "cost/samples", "", samples * step)]
    last = max(accuracies)
    return rows + [Row(last, last, "stream/occurrences", name, count) for name, count in zip("ab", times, strict=False)]


RUN = recurring({1: (0.8, 1.0), 2: (0.4, 0.8), 4: (0.6, 0.8), 5: (0.9, 0.9), 8: (1.0, 0.8)}, times=(8, 2))
IID = recurring({2: (0.5, 0.5), 4: (0.8, 0.8), 6: (0.9, 0.9), 8: (1.0, 1.0)}, since=(0, 0))


def values(run=RUN, reference=IID):
    found = {id.partition("/")[2]: summary.compute(run) for id, summary in accumulation(reference).items()}
    assert all((value.number is None) == bool(value.note) for value in found.values())
    return found


def test_what_is_known_is_of_all_exam_samples():
    assert known(RUN) == pytest.approx({1: 0.8 / 4, 2: 0.7, 4: 0.75, 5: 0.9, 8: 0.85})
    never = [row._replace(value=None, note="never") if row[2:4] == ("exam/since", "b") else row for row in RUN]
    assert known(never)[8] == pytest.approx(0.25)


def test_the_reference_is_where_it_had_seen_as_much():
    assert curve(RUN, IID).reference == [0.5, 0.5, 0.8, 0.9, 1.0]
    fewer = recurring({2: (0.5, 0.5), 4: (0.8, 0.8), 8: (1.0, 1.0)}, samples=48, since=(0, 0))
    assert curve(RUN, fewer).reference == [0.5, 0.8, 1.0, 1.0, 1.0]
    once = recurring({1: (0.8, 0.8)}, samples=400, since=(0, 0))
    assert curve(RUN, once).reference == pytest.approx([0.8] * 5)
    joint = [row._replace(value=None, note="at the end") if row.step < 8 and row.n and row.step else row for row in IID]
    assert curve(RUN, joint).reference == [1.0] * 5


def test_measures_by_hand():
    ka = {1: 0.2 / 0.5, 2: 0.7 / 0.5, 4: 0.75 / 0.8, 5: 0.9 / 0.9, 8: 0.85}
    found = {name: value.number for name, value in values().items()}
    assert found["final"] == pytest.approx(0.85)
    assert found["auc"] == pytest.approx((ka[1] + ka[2] + 2 * ka[4] + ka[5] + 3 * ka[8]) / 8)
    assert found["slope"] == pytest.approx((ka[8] - ka[5]) / math.log(8 / 5))
    assert found["half_time"] == 2


def test_looked_at_after_each_experience_the_area_is_the_mean():
    run = recurring({t: (0.1 * t, 0.1 * t) for t in range(1, 6)}, since=(0, 0))
    iid = recurring(dict.fromkeys(range(1, 6), (0.5, 0.5)), since=(0, 0))
    found = values(run, iid)
    assert found["auc"].number == pytest.approx(sum(0.2 * t for t in range(1, 6)) / 5)
    x, y = [math.log(t) for t in (3, 4, 5)], [0.6, 0.8, 1.0]
    slope = sum((a - sum(x) / 3) * (b - 0.8) for a, b in zip(x, y, strict=True)) / sum((a - sum(x) / 3) ** 2 for a in x)
    assert found["slope"].number == pytest.approx(slope)
    assert found["half_time"].number == 3


def test_no_number_and_why():
    def why(run=RUN, reference=IID, name="final"):
        return values(run, reference)[name].note

    short = recurring({2: (0.5, 0.5), 4: (0.8, 0.8)}, since=(0, 0))
    assert why(reference=short) == "the reference saw 200 samples, the run 250"
    nothing = recurring({8: (0.0, 0.0)}, since=(0, 0))
    assert why(reference=nothing) == "the reference knows nothing after 400 samples"
    assert why([row for row in RUN if row.metric != "cost/samples"]) == "no cost/samples was measured"
    assert why([]) == "no class/accuracy was measured after the first experience"
    low = recurring({8: (0.1, 0.1)}, since=(0, 0))
    assert why(low, name="half_time") == "half of what the reference knows is not reached in 8"
    assert "fewer than two times" in why(low, name="slope")
    late = [row._replace(value=None, note="Joint learns only at the last experience") for row in RUN]
    assert why(late) == "Joint learns only at the last experience"


def test_accuracy_by_how_often_a_class_was_taught():
    assert frequencies(RUN) == {"a": 1.0, "b": 0.25}
    bins = by_frequency(RUN)
    assert bins == [
        Bin(pytest.approx(10**-0.75), pytest.approx(10**-0.5), 0.8, 1),
        Bin(1, pytest.approx(10**0.25), 1.0, 1),
    ]
    assert by_frequency(RUN, width=1.0) == [Bin(0.1, 1, 0.8, 1), Bin(1, 10, 1.0, 1)]
    assert by_frequency(recurring({8: (0.4, 0.8)}, times=(2, 2)))[0][2:] == (pytest.approx(0.6), 2)
    assert by_frequency(recurring({8: (0.4, 0.8)}, times=(0, 8))) == [Bin(1, pytest.approx(10**0.25), 0.8, 1)]
    with pytest.raises(Undefined, match="no class comes again"):
        by_frequency(IID)


# Intransigence.


def stiff(rows, reference, readout="class"):
    value = intransigence(reference)[f"{readout}/intransigence"].compute(rows)
    assert (value.number is None) == bool(value.note)
    return value.number if value.note == "" else value.note


def test_intransigence_against_the_same_step():
    cumulative = [[0.95, 0, 0, 0], [0.9, 0.9, 0, 0], [0.9, 0.9, 0.9, 0], [0.9, 0.9, 0.9, 0.8]]
    known = ((0.95 - 0.90) + (0.9 - 0.88) + (0.9 - 0.92) + (0.8 - 0.9)) / 4
    assert stiff(matrix_rows(FORGETS), matrix_rows(cumulative, untrained=[0.1] * 4)) == pytest.approx(known)
    assert stiff(matrix_rows(FORGETS), matrix_rows(FORGETS)) == 0


def test_intransigence_against_what_learns_at_the_end():
    note = "Joint learns only at the last experience"
    joint = matrix_rows([[None] * 4] * 3 + [[0.7, 0.8, 0.9, 1.0]], untrained=[0.1] * 4, note=note)
    known = ((0.7 - 0.90) + (0.8 - 0.88) + (0.9 - 0.92) + (1.0 - 0.9)) / 4
    assert stiff(matrix_rows(FORGETS), joint) == pytest.approx(known)
    assert "there is no class/accuracy of e0 after 1 experiences" in stiff(joint, joint)


def test_intransigence_that_is_not_there():
    rows = matrix_rows(FORGETS)
    assert stiff(rows, rows[:-1]) == "the reference has no class/accuracy of e3 after 4 experiences"
    shared = [Row(1, 1, "task/accuracy", "", None, 0, "experiences share classes")]
    assert stiff([*rows, *shared], rows, "task") == "experiences share classes"
    assert stiff([], rows) == "no exam is taught (exam/since)"


@pytest.mark.parametrize(
    "summary", [*accumulation(IID).values(), *intransigence(IID).values()], ids=lambda summary: summary.id
)
def test_against_a_reference_a_summary_keeps_the_contract(summary):
    check_metric(summary, rows=sorted(RUN, key=lambda row: row[:2]))


# The command and the figure.


@pytest.fixture
def folder(tmp_path):
    for seed in range(3):
        better = [row._replace(value=min(row.value + 0.01 * seed, 1.0)) if "acc" in row.metric else row for row in RUN]
        write_run(tmp_path, "naive", seed, rows=better)
        write_run(tmp_path, "joint", seed, rows=IID, hash="fedcba987654")
    return tmp_path


def test_the_command_holds_one_against_the_other(folder, capsys):
    assert main(["reference", "naive", "joint", "--results", str(folder), "--format", "md"]) == 0
    out = capsys.readouterr().out
    assert "### toy/naive against toy/joint" in out
    assert "paired by seed, over 3" in out
    (line,) = (line for line in out.splitlines() if line.startswith("| knowledge accumulated ↑ %"))
    assert line == "| knowledge accumulated ↑ % | 85.8 ± 1.9 |"
    (line,) = (line for line in out.splitlines() if line.startswith("| intransigence (task)"))
    assert line.endswith("–² |")
    assert "² there is no task/accuracy of a after 1 experiences" in out
    assert "| 0.178 to 0.316 | 3 | 81.0 ± 2.5 | 3 |" in out


def test_what_is_no_reference_is_refused(folder, capsys):
    other = write_run(folder / "more", "er", 0, hash="aaaaaaaaaaaa", rows=matrix_rows(FORGETS))
    assert main(["reference", "naive", str(other.parent), "--results", str(folder)]) == 2
    assert "A reference sits the same exams" in capsys.readouterr().err
    with pytest.raises(Mistake, match="no seed to pair by: 0-2 and 9"):
        results.against(
            results.select(folder, "naive"),
            results.find(write_run(folder / "x", "er", 9, hash="bbbbbbbbbbbb", rows=IID).parent),
        )
    bigger = write_run(folder / "y", "er", 0, hash="cccccccccccc", rows=IID, protocol={"model": "resnet18"})
    with pytest.raises(Mistake, match="A reference is of the same network"):
        results.against(results.select(folder, "naive"), results.find(bigger.parent))
    shuffled = write_run(
        folder / "w", "er", 0, hash="eeeeeeeeeeee", rows=IID, protocol={"class order": "each run's own"}
    )
    with pytest.raises(Mistake, match="the same exams: class order None is not class order each run's own"):
        results.against(results.select(folder, "naive"), results.find(shuffled.parent))
    failed = write_run(folder / "z", "er", 0, hash="dddddddddddd", rows=IID, state="failed")
    with pytest.raises(Mistake, match="er on toy is not all done: failed"):
        results.against(results.select(folder, "naive"), results.find(failed.parent))


def test_the_figure_has_a_curve_with_a_band_and_accuracy_by_frequency(folder, tmp_path, capsys):
    figure = draw(results.select(folder, "naive"), results.select(folder, "joint"))
    over, by = figure.axes
    assert over.lines[0].get_xdata().tolist() == [1, 2, 4, 5, 8]
    assert over.lines[0].get_ydata()[-1] == pytest.approx(85.75)
    assert to_hex(over.lines[0].get_color()) == COLOURS[0].lower()
    assert len(over.collections) == 1
    assert by.lines[0].get_ydata().tolist() == pytest.approx([81.0, 100.0])
    often = [row._replace(value=8) if row.metric == "stream/occurrences" else row for row in RUN]
    alike = [write_run(folder / "alike", "naive", seed, rows=often) for seed in range(3)]
    assert len(draw(results.find(alike[0].parent), results.select(folder, "joint")).axes) == 1
    file = tmp_path / "accumulation.svg"
    assert main(["reference", "naive", "joint", "--results", str(folder), "--figure", str(file)]) == 0
    assert file.stat().st_size > 1000
    with pytest.raises(Mistake, match="no knowledge accumulation against this reference: the reference saw"):
        draw(
            results.select(folder, "naive"),
            [
                result
                for seed in range(3)
                for result in results.find(
                    write_run(
                        folder / "short", "er", seed, hash="e" * 12, rows=recurring({1: (1.0, 1.0)}, since=(0, 0))
                    )
                )
            ],
        )
