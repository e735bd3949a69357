"""Figures are read back: marks, bars, colours and words, of rows whose numbers are known."""

import numpy as np
import pytest
from fake import FORGETS, HASH, matrix_rows, write_run
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

from clbench import results
from clbench.errors import Mistake
from clbench.figures import COLOURS, confusion_map, cost, curves, drift_map, plasticity, restoration_bars
from clbench.metric import Row
from clbench.statistics import mean_interval


def words(labels):
    return [label.get_text() for label in labels]


# Drift.


def drifts(cells, measure="drift/within_relative", looks=2):
    """Rows of groups a, b, …: a line of `cells` each, a column per look, so many looks an experience."""
    return [
        Row(column // looks, 10 * column, measure, group, value, 5)
        for group, line in zip("abc", cells, strict=False)
        for column, value in enumerate(line)
    ]


def test_a_drift_map_has_a_line_for_each_group_and_a_column_for_each_look():
    rows = drifts([[0.1, 0.01, 0.2, 0.0], [1.0, 0.5, None, 0.3]])
    axes, bar = drift_map([Row(0, 0, "drift/within", "c", 9.0), *rows]).axes
    (image,) = axes.images
    shown = image.get_array()
    assert shown.tolist() == [[0.1, 0.01, 0.2, None], [1.0, 0.5, None, 0.3]]
    assert (image.norm.vmin, image.norm.vmax) == (0.01, 1.0)
    assert image.norm(0.1) == pytest.approx(0.5)
    assert words(axes.get_yticklabels()) == ["a", "b"]
    assert words(axes.get_xticklabels()) == ["0", "1"]
    assert list(axes.get_xticks()) == [0.5, 2.5]
    assert [line.get_xdata()[0] for line in axes.lines] == [1.5]
    assert axes.get_title().endswith("(grey: none)")
    assert bar.get_ylabel() == "relative change\nsince the last look"


def test_looks_stand_in_the_order_of_steps_taken():
    rows = drifts([[0.1, 0.2, 0.3, 0.4]])
    (image,) = drift_map(rows[::-1]).axes[0].images
    assert image.get_array().tolist() == [[0.1, 0.2, 0.3, 0.4]]


def test_a_drift_map_of_any_measure(tmp_path):
    figure = drift_map(drifts([[2.0]], "drift/spike"), "drift/spike")
    assert figure.axes[1].get_ylabel() == "drift/spike"
    assert figure.axes[0].get_title() == "Drift of each module group"
    figure.savefig(tmp_path / "one.png")


def test_weights_that_never_move_are_drawn(tmp_path):
    figure = drift_map(drifts([[0.0, None]]))
    assert figure.axes[0].images[0].get_array().mask.all()
    figure.savefig(tmp_path / "none.png")


def test_no_drift_no_map():
    assert drift_map([Row(0, 0, "drift/within", "a", 1.0)]) is None
    assert drift_map([]) is None


# Restoration.


def swaps(gain, random, loss, before=0.9, after=0.3, readout="class", groups=("stem", "head")):
    """Two steps of a run: at the second everything is 0.1 more, and what the first group gains is not known."""
    rows = []
    for step, more in ((2, 0.0), (3, 0.1)):
        rows += [
            Row(step, step, f"restoration/{readout}_before", "", before + more, 10),
            Row(step, step, f"restoration/{readout}_after", "", after, 10),
        ]
        for name, values in (("gain", gain), ("random", random), ("loss", loss)):
            rows += [
                Row(step, step, f"restoration/{readout}_{name}", group, None if more and group == "stem" else value, 10)
                for group, value in zip(groups, values, strict=True)
            ]
    return rows


def kinds(axes):
    """What is drawn for each kind of swap."""
    return [kind for kind in axes.containers if isinstance(kind, BarContainer)]


def bars(axes):
    """The lengths of the bars of each kind."""
    return [[bar.get_width() for bar in kind] for kind in kinds(axes)]


def test_restoration_bars_are_means_in_points():
    figure = restoration_bars([swaps([0.2, 0.4], [0.1, 0.0], [0.05, -0.1])])
    (axes,) = figure.axes
    for found, wanted in zip(bars(axes), [[20, 40], [10, 0], [5, -10]], strict=True):
        assert found == pytest.approx(wanted)
    assert axes.lines[0].get_xdata() == pytest.approx([65, 65])
    assert axes.lines[0].get_linestyle() == "--"
    assert words(axes.get_yticklabels()) == ["stem", "head"]
    assert axes.yaxis_inverted()
    gain, _, loss = kinds(axes)
    assert gain.errorbar is None
    assert [to_hex(kind.patches[0].get_facecolor()).upper() for kind in (gain, loss)] == [*COLOURS[:2]]
    assert len(figure.legends[0].get_texts()) == 4


def test_restoration_over_runs_has_intervals():
    runs = [swaps([gain, 0.4], [0.1, 0.0], [0.0, 0.0], before=before) for gain, before in ((0.2, 0.8), (0.3, 0.6))]
    (axes,) = restoration_bars(runs).axes
    gains, *_ = bars(axes)
    assert gains == pytest.approx([25, 40])
    assert axes.lines[0].get_xdata()[0] == pytest.approx(45)
    (lines,) = kinds(axes)[0].errorbar.lines[2]
    ends = [segment[:, 0] for segment in lines.get_segments()]
    middle, half = mean_interval([20, 30])
    assert ends[0] == pytest.approx([middle - half, middle + half])
    assert ends[1] == pytest.approx([40, 40])
    assert axes.get_xlim()[1] < 60 < middle + half


def test_each_readout_has_its_own():
    rows = [*swaps([0.2, 0.4], [0, 0], [0, 0]), *swaps([0.6, 0.7], [0, 0], [0, 0], readout="task")]
    (axes,) = restoration_bars([rows], "task").axes
    assert bars(axes)[0] == pytest.approx([60, 70])
    assert "task" in axes.get_title()


def test_no_restoration_no_bars():
    assert restoration_bars([]) is None
    assert restoration_bars([[Row(0, 0, "class/accuracy", "e0", 0.5)]]) is None
    assert restoration_bars([swaps([0, 0], [0, 0], [0, 0])], "task") is None


def test_runs_of_other_networks_are_a_mistake():
    one, other = (swaps([0, 0], [0, 0], [0, 0], groups=groups) for groups in (("stem", "head"), ("fc1", "head")))
    with pytest.raises(Mistake, match="do not have the same module groups"):
        restoration_bars([one, other])
    with pytest.raises(Mistake, match="do not have the same module groups"):
        restoration_bars([one, []])


# Cost.


def write(root, strategy, accuracies, flops, **options):
    for seed, accuracy in enumerate(accuracies):
        spent = [Row(step, step, "cost/train_flops", "", flops * step / 2) for step in (1, 2) if flops]
        write_run(root, strategy, seed, rows=[*matrix_rows([[0.9], [accuracy, accuracy]]), *spent], **options)


def marks(figure):
    """The place of each mark, by its name in the legend."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    return {name: tuple(float(v[0]) for v in h.lines[0].get_data()) for name, h in zip(names, handles, strict=True)}


def test_cost_against_accuracy(tmp_path):
    write(tmp_path, "naive", [0.2, 0.3], 2e9)
    write(tmp_path, "er", [0.6, 0.8], 4e9)
    figure = cost(results.find(tmp_path))
    (axes,) = figure.axes
    assert marks(figure) == {"er": pytest.approx((4, 70)), "naive": pytest.approx((2, 25))}
    assert words(figure.legends[0].get_texts()) == ["er", "naive"]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlabel() == "training compute, GFLOP"
    assert "2 seeds" in figure.get_suptitle()
    (bar,) = axes.containers[0].lines[2]
    middle, half = mean_interval([60, 80])
    assert bar.get_segments()[0][:, 1] == pytest.approx([middle - half, middle + half])
    figure.savefig(tmp_path / "cost.png")


def test_cost_against_another_summary(tmp_path):
    """Whatever is better stands first; only shares are in percent."""
    write(tmp_path, "naive", [0.2], 2e9)
    write(tmp_path, "er", [0.6], 4e9)
    forgetting = cost(results.find(tmp_path), "class/forgetting")
    assert marks(forgetting) == {"er": pytest.approx((4, 30)), "naive": pytest.approx((2, 70))}
    assert words(forgetting.legends[0].get_texts()) == ["er", "naive"]
    assert forgetting.axes[0].get_ylabel() == "forgetting (class), %"
    spent = cost(results.find(tmp_path), "cost/train_flops")
    assert marks(spent) == {"naive": pytest.approx((2, 2e9)), "er": pytest.approx((4, 4e9))}
    with pytest.raises(Mistake, match="no summary named 'class/forgettin'"):
        cost(results.find(tmp_path), "class/forgettin")


def test_large_costs_are_in_teraflop(tmp_path):
    write(tmp_path, "naive", [0.2], 2e12)
    figure = cost(results.find(tmp_path))
    assert marks(figure) == {"naive": pytest.approx((2, 20))}
    assert figure.axes[0].get_xlabel() == "training compute, TFLOP"


def test_a_configuration_without_a_number_stands_in_the_legend(tmp_path):
    write(tmp_path, "naive", [0.2], 2e9)
    write(tmp_path, "er", [0.6], 0)
    figure = cost(results.find(tmp_path))
    assert words(figure.legends[0].get_texts()) == ["naive", "er (undefined)"]
    assert np.isnan(marks(figure)["er (undefined)"][0])


def test_many_configurations_have_marks_of_their_own(tmp_path):
    for memory in range(9):
        write(tmp_path, "er", [0.1 * memory], 2e9 + memory, hash=f"{memory}{HASH[1:]}", axes={"memory": memory})
    axes = cost(results.find(tmp_path)).axes[0]
    looks = {(mark.lines[0].get_color(), mark.lines[0].get_marker()) for mark in axes.containers}
    assert len(looks) == 9


def test_many_curves_have_looks_of_their_own_and_names_beneath(tmp_path):
    for memory in range(9):
        write(tmp_path, "er", [0.1 * memory], 2e9, hash=f"{memory}{HASH[1:]}", axes={"memory": memory})
    figure = curves(results.find(tmp_path))
    (axes,) = figure.axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 9
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 <= axes.get_window_extent().y0
    few = curves([result for result in results.find(tmp_path) if result.hash[0] in "012"]).axes[0]
    assert few.get_legend().get_window_extent().x0 < few.get_window_extent().x1


def test_a_curve_goes_from_look_to_look(tmp_path):
    """A stream that isn't looked at after each experience has no gaps in its line and band."""
    looked = [row for row in matrix_rows(FORGETS) if row.step in (0, 2, 4)]
    steps = [Row(step, step, "cost/train_flops", "", step) for step in range(1, 5)]
    for seed in range(2):
        write_run(tmp_path, "er", seed, rows=[*looked, *steps])
    (axes,) = curves(results.find(tmp_path)).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [2, 4]
    assert line.get_ydata() == pytest.approx([100 * np.mean(FORGETS[1]), 100 * np.mean(FORGETS[3])])
    (band,) = axes.collections
    assert np.unique(np.concatenate([path.vertices for path in band.get_paths()])[:, 0]).tolist() == [2, 4]


def test_what_no_figure_of_cost_can_show(tmp_path):
    write(tmp_path / "a", "er", [0.6], 0)
    with pytest.raises(Mistake, match=r"no configuration has both final accuracy \(class\) and training compute"):
        cost(results.find(tmp_path / "a"))
    write(tmp_path / "b", "er", [0.6], 1e9, state="failed")
    with pytest.raises(Mistake, match="no configuration has all its runs done"):
        cost(results.find(tmp_path / "b"))
    write(tmp_path / "c", "er", [0.6], 1e9)
    write(tmp_path / "c", "naive", [0.6], 1e9, protocol={"epochs": 7})
    with pytest.raises(Mistake, match="runs of one protocol"):
        cost(results.find(tmp_path / "c"))


# Confusion.


def test_a_confusion_map_has_a_line_for_what_was_asked():
    shares = {"1>1": 0.25, "1>3": 0.75, "3>1": 0.5, "3>3": 0.5}
    rows = [Row(3, 9, "confusion/share", subject, share, 8) for subject, share in shares.items()]
    axes, _ = confusion_map(rows[::-1]).axes
    assert axes.images[0].get_array().tolist() == [[0.25, 0.75], [0.5, 0.5]]
    assert words(axes.get_xticklabels()) == words(axes.get_yticklabels()) == ["1", "3"]
    assert confusion_map([]) is None
    assert confusion_map([Row(3, 9, "confusion/share", "", None, 0, "experiences share classes")]) is None


# Plasticity.


def test_plasticity_shows_the_rows_that_there_are(tmp_path):
    for seed in range(3):
        rows = [Row(step, step, "online/accuracy", "", 0.1 * step + 0.01 * seed, 10) for step in (1, 2, 3)]
        rows += [Row(step, step, "plasticity/weight_norm", group, 3.0 + (group == "head"), 5)
                 for step in range(4) for group in ("stem", "head")]  # fmt: skip
        rows += [Row(step, step, "plasticity/dormant", subject, 0.5, 9) for step in range(4) for subject in ("1", "2")]
        write_run(tmp_path, "naive", seed, rows=rows)
    left, right = plasticity(results.find(tmp_path)).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("online accuracy, %", "norm of all weights")
    assert left.lines[0].get_ydata().tolist() == pytest.approx([11, 21, 31])
    assert right.lines[0].get_ydata().tolist() == pytest.approx([5.0] * 4)
    assert len(left.collections) == 1


def test_no_plasticity_no_figure(tmp_path):
    write_run(tmp_path, "naive")
    with pytest.raises(Mistake, match="probes online and plasticity"):
        plasticity(results.find(tmp_path))
