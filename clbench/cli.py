"""The command line: `clbench run stream=cifar100 strategy=er seed=range(6)`, and what is asked of the results after.

Exit status: 0 done; 1 a run failed; 2 a mistake in what was given; 3 another process holds a run; 4 a run diverged.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.errors import Busy, Mistake, unknown

if TYPE_CHECKING:
    from clbench.show import Display
    from clbench.sweep import Task
    from clbench.words import Options

FIRST = ["stream=digits", "strategy=naive,er,kfpf,joint", "seed=range(6)"]
"""what `clbench run` does when it is told nothing"""

STATUS = {"failed": 1, "busy": 3, "diverged": 4}
"""exit status where a run ended so"""

EXAMPLES = """\
examples:
  clbench run                                            compare four strategies on real digits, over 6 seeds
  clbench run stream=cifar100 strategy=er,derpp 'seed=range(3)'
  clbench run stream=folder stream.data=~/photos strategy=er
  clbench tune stream=digits strategy=er learner.lr=0.03,0.1,0.3
  clbench leaderboard                                    every table, from the files
  clbench report                                         one page of tables and figures: results/report.html
  clbench show derpp                                     its paper, options and presets
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    words = sys.argv[1:] if words is None else list(words)
    if words[:1] in (["run"], ["validate"], ["manifest"]):
        words.sort(key=lambda word: word.startswith("-"))
    if words[:2] == ["data", "features"]:
        words[3:] = sorted(words[3:], key=lambda word: word.startswith("-") or "=" not in word)
    if words[:1] == ["tune"]:
        end = words.index("--judge") if "--judge" in words else len(words)
        words[1:end] = sorted(words[1:end], key=lambda word: word.startswith("-") or "=" not in word)
    given = _parser().parse_args(words)
    try:
        return given.do(given) or 0
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    except Busy as busy:
        print(busy, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "clbench",
        description="A benchmark harness for continual learning.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(do=lambda given: _version(parser, given))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def sentence(text: str) -> str:
        return text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")

    def command(name: str, do: Callable[[argparse.Namespace], int | None], help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help, description=sentence(help))
        found.set_defaults(do=do)
        return found

    settings = "path=value; A,B and range(N) sweep"
    run = command("run", _run, "teach streams to strategies; without words, the comparison on digits")
    run.add_argument("words", nargs="*", metavar="path=value", help=settings)
    run.add_argument("--json", action="store_true", help="print one JSON object a line, the last of a run its summary")
    run.add_argument("--again", action="store_true", help="run finished runs again, from nothing")

    validate = command(
        "validate", _validate, "check what `run` would be given: names, values, data; nothing is trained"
    )
    validate.add_argument("words", nargs="*", metavar="path=value", help=settings)

    tune = command("tune", _tune, "choose options by what is held out of training, never by an exam")
    tune.add_argument("words", nargs="*", metavar="path=value", help="what is swept over is tuned: learner.lr=0.01,0.1")
    tune.add_argument(
        "--protocol",
        default="whole",
        help="whole (the default): the whole stream; first: its first experience, with the word first=N its "
        "first N; transfer: as whole, and judged on another stream",
    )
    tune.add_argument("--metric", default="class/final_accuracy", help="a summary to select on (clbench list metrics)")
    tune.add_argument("--draws", type=int, metavar="N", help="try N random points of the grid, not all")
    tune.add_argument(
        "--to", type=Path, metavar="FILE", help="where the choice is written; in results/tuned if left out"
    )
    tune.add_argument(
        "--judge",
        nargs="*",
        metavar="path=value",
        help="then run what was chosen, on exams; stands last, with the stream (transfer) and the seeds (range(6))",
    )

    manifest = command(
        "manifest", _manifest, "digests of what a stream teaches and asks, to compare with another machine"
    )
    manifest.add_argument("words", nargs="*", metavar="path=value", help="stream, its options, recipe and seed")
    manifest.add_argument("--json", action="store_true", help="print one JSON object a stream and seed")

    listing = command("list", _list, "list what there is")
    listing.add_argument("kind", nargs="?", help="streams, strategies, metrics, models or data; all when left out")

    show = command("show", _show, "show one entry: its paper, options, presets")
    show.add_argument("name")

    data = command("data", _data, "list, prepare and verify data sets, and make features of them")
    data.add_argument("action", choices=["list", "prepare", "verify", "features"])
    data.add_argument("name", nargs="?", help="of the data set")
    data.add_argument(
        "words", nargs="*", metavar="path=value", help="features: model=vit_t6, options of model and learner"
    )
    data.add_argument("--from", dest="source", type=Path, help="a folder of images, an .npz, or a folder of raw files")
    data.add_argument("--resolution", type=int, help="pixels a side that images are brought to")
    data.add_argument(
        "--test-share", type=float, default=0.3, help="share of each class for test, where there is no split"
    )
    data.add_argument("--seed", type=int, default=0, help="of that split")
    data.add_argument("--to", metavar="NAME", help="of the features; DATASET.MODEL when left out")
    data.add_argument("--again", action="store_true", help="prepare it anew, in place of what is there")

    weights = command("pretrain", _pretrain, "learn weights for model=vit_t6 from a data set of colour images")
    weights.add_argument(
        "settings", nargs="*", metavar="name=value", help="data=NAME out=FILE, epochs=7, teacher=lite0, …"
    )

    board = command("leaderboard", _leaderboard, "rank what was run, within each protocol")
    board.add_argument("folder", nargs="?", type=Path, default=Path("results"))
    board.add_argument("--stream", help="of this stream only")
    board.add_argument("--metric", action="append", help="a column; repeat for more (clbench list metrics)")
    board.add_argument("--rank-by", metavar="METRIC")
    board.add_argument("--ranks", action="store_true", help="mean ranks over several streams instead, with uncertainty")
    board.add_argument(
        "--figure", type=Path, help="also draw accuracy over the stream into this file (.svg, .png, .pdf)"
    )
    board.add_argument(
        "--cost",
        type=Path,
        help="also draw the first --metric, or what is ranked by, against training compute, into this file",
    )
    board.add_argument("--format", choices=["terminal", "md", "csv", "latex"], default="terminal")

    pair = command("compare", _compare, "paired differences of two strategies over the seeds that both have")
    pair.add_argument("names", nargs="*", metavar="NAME", help="two: a strategy, stream/strategy, a hash, or a folder")
    pair.add_argument(
        "--against", metavar="NAME", help="all that was run under its protocol, or NAMEs, against this one"
    )
    pair.add_argument("--results", type=Path, default=Path("results"))
    pair.add_argument("--metric", action="append", help="repeat for more")
    pair.add_argument("--holm", action="store_true", help="correct each p for there being so many")
    pair.add_argument("--format", choices=["terminal", "md", "csv", "latex"], default="terminal")

    beside = command("reference", _reference, "a run against a reference: joint, cumulative or i.i.d. training")
    beside.add_argument("run", help="a strategy, stream/strategy, a hash, or a folder")
    beside.add_argument("reference", help="likewise; on the same network and exams")
    beside.add_argument("--results", type=Path, default=Path("results"))
    beside.add_argument("--figure", type=Path, help="also draw knowledge accumulation into this file")
    beside.add_argument("--format", choices=["terminal", "md", "latex"], default="terminal")

    report = command(
        "report", _report, "write one page of a folder of results: tables, figures, where each row comes from"
    )
    report.add_argument("folder", nargs="?", type=Path, default=Path("results"))
    report.add_argument("--to", type=Path, metavar="FILE", help="report.html in the folder when left out")
    report.add_argument("--title", help="its heading; the folder's name when left out")
    report.add_argument("--metric", action="append", help="a column; repeat for more")
    report.add_argument("--rank-by", metavar="METRIC")

    again = command(
        "reproduce", _reproduce, "run a stored configuration again: are its numbers inside their intervals?"
    )
    again.add_argument("row", help="the beginning of a hash, a strategy, stream/strategy, or a folder of runs")
    again.add_argument("--results", type=Path, help="where it lies; results/reference, then results, when left out")
    again.add_argument("--seeds", type=int, metavar="N", help="only the first N of its seeds")
    again.add_argument("--to", type=Path, default=Path("reproduced"), help="folder of what is run now")
    again.add_argument("--metric", action="append", help="repeat for more")
    again.add_argument("--workers", type=int, default=1, help="local processes that share the runs")
    again.add_argument("--again", action="store_true", help="run what was reproduced before once more, from nothing")

    keep = command(
        "archive", _archive, "keep finished runs with the sources: one small file, and the tables made from it"
    )
    keep.add_argument("folders", nargs="+", type=Path, help="of results")
    keep.add_argument("target", type=Path, help="results/reference/NAME; an archive that is there is replaced")
    keep.add_argument("--metric", action="append", help="a column of its tables, kept with it; repeat for more")
    keep.add_argument("--rank-by", metavar="METRIC", help="likewise the first column, by which they rank")

    tables = command("tables", _tables, "make the tables of all archives anew")
    tables.add_argument("folder", nargs="?", type=Path, default=Path("results/reference"))
    tables.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a table says another thing"
    )

    sync = command("sync", _sync, "bring MLflow up to the results; a second time changes nothing")
    sync.add_argument("folder", nargs="?", type=Path, default=Path("results"))
    sync.add_argument("--uri", help="MLflow's tracking URI; an SQLite file among the results when left out")
    return parser


def _version(parser: argparse.ArgumentParser, given: argparse.Namespace) -> int:
    if given.version:
        from clbench import __version__

        print(__version__)
        return 0
    parser.print_help()
    return 0


def _run(given: argparse.Namespace) -> int:
    from clbench import config
    from clbench.words import Options

    words = list(given.words)
    options = {option.name for option in fields(Options)}
    if all(word.partition("=")[0] in options for word in words):
        words = [*FIRST, *words]
    plans, chosen = config.plans(words)
    from clbench import show, sweep

    results = Path(chosen.results).expanduser()
    work = sweep.tasks(plans, results, words)
    _writable(results)
    display = show.Lines(work) if given.json else show.display(work)
    return _teach(work, chosen, display, given.again)


def _teach(work: Sequence[Task], chosen: Options, display: Display, again: bool = False, table: bool = True) -> int:
    """Do the runs, and say what happens; returns the exit status."""
    from clbench import sweep
    from clbench.mirror import Mirror

    results = Path(chosen.results).expanduser()
    mirror = None
    if chosen.mlflow != "off":
        mirror = Mirror(results, "" if chosen.mlflow == "local" else chosen.mlflow)
    ends = {}

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "start" and mirror:
            mirror.add(Path(event["folder"]))
        if event["event"] == "end":
            ends[event["run"]] = event
        display.tell(event)

    busy = chosen.workers * max(task.plan.learner.threads for task in work)
    if chosen.workers > 1 and busy > (cores := os.cpu_count() or busy):
        print(
            f"{chosen.workers} workers use {busy} threads on {cores} cores; learner.threads=1 may be faster.",
            file=sys.stderr,
        )
    with display:
        if chosen.workers > 1:
            sweep.shared(work, chosen.workers, chosen.checkpoint, again, tell)
        else:
            sweep.in_turn(work, chosen.checkpoint, again, tell)
    if table:
        display.table()
    behind = mirror.close(wait=30.0) if mirror else None
    display.places(results, mirror.uri if mirror else "", behind)
    states = {event["status"] for event in ends.values()}
    return next((status for state, status in STATUS.items() if state in states), 0)


def _tune(given: argparse.Namespace) -> int:
    from clbench import tuning

    search, chosen = tuning.search(given.words, given.protocol, given.metric, given.draws)
    results = Path(chosen.results).expanduser()
    file = given.to or tuning.usual_place(search, results)
    if file.is_dir():
        raise Mistake(f"--to {file} is a folder; name the file of the choice: {file / 'tuned.yaml'}.")
    commands = None if given.judge is None else tuning.judging(search, given.judge, str(file))
    if given.protocol == "transfer" and not given.judge:
        raise Mistake("--protocol transfer needs another stream to judge on: --judge stream=NAME.")
    from clbench import config, show, sweep
    from clbench.configurations import ranges
    from clbench.result import open_result

    work = sweep.tasks(search.plans, results, given.words)
    _writable(results)
    status = _teach(work, chosen, show.display(work), table=False)
    done = [open_result(task.folder) for task in work if (task.folder / "meta.json").exists()]
    if len(done) < len(work) or status == STATUS["busy"]:
        return status
    outcome = tuning.outcome(search, done)
    print(f"\n{tuning.render(outcome)}", end="")
    if outcome.chosen is None:
        print("No candidate has a mean, so none is chosen.")
        return status
    tuning.save(outcome, file)
    print(f"The choice is in {file}:\n\n{tuning.preset(outcome)}")
    if commands is None:
        print(f"To judge it on exams: {tuning.command(search, file)}")
        return 0
    work = [task for words in commands for task in sweep.tasks(config.plans(words)[0], results, words)]
    if both := sorted({task.plan.seed for task in work} & set(search.seeds)):
        print(f"Seeds that were tuned with are judged with, too: {ranges(both)}.")
    return _teach(work, chosen, show.display(work))


def _writable(folder: Path) -> None:
    """Make the folder where it is not there.

    Raises:
        Mistake: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Mistake(f"results={folder} can't be written to: {error.strerror}.") from None


def _validate(given: argparse.Namespace) -> int:
    from clbench import config

    plans, chosen = config.plans(given.words or FIRST)
    from clbench import sweep
    from clbench.tables import counted

    work = sweep.tasks(plans, Path(chosen.results).expanduser(), given.words)
    for task in work:
        print(task.folder)
    print(f"{counted(len(work), 'run')} can start.")
    return 0


def _manifest(given: argparse.Namespace) -> int:
    from clbench import config

    for word in given.words:
        root = word.partition("=")[0].partition(".")[0]
        if root in config.GROUPS and root not in ("stream", "recipe", "seed", "config"):
            raise Mistake(
                f"'{word}': a manifest is of a stream; beside it and its options only recipe and seed matter."
            )
    plans, _ = config.plans(given.words)
    from clbench import show

    for plan in plans:
        plan.stream.open(plan.seed)
        show.manifest(plan.stream, {"stream": plan.values["stream"], "seed": plan.seed}, given.json)
    return 0


def _list(given: argparse.Namespace) -> int:
    from clbench import show

    show.listing(given.kind)
    return 0


def _show(given: argparse.Namespace) -> int:
    from clbench import show

    show.entry(given.name)
    return 0


def _data(given: argparse.Namespace) -> int:
    from clbench import datasets, show

    if given.action == "list":
        show.listing("data")
        return 0
    if given.name is None:
        raise Mistake(f"clbench data {given.action} needs the name of a data set: clbench data list.")
    if given.action == "features":
        from clbench.features import features

        folder, made = features(given.name, given.words, given.resolution, given.to, given.again)
        print(f"{folder.name} {'is' if made else 'was already'} in {folder}; use it as stream.data={folder.name}.")
        return 0
    if given.words:
        raise Mistake(f"clbench data {given.action} takes no settings: '{given.words[0]}'.")
    if given.action == "verify":
        datasets.verify(given.name)
        print(f"{given.name} is as it was prepared.")
        return 0
    from clbench.prepare import prepare

    folder = prepare(given.name, given.source, given.again, given.resolution, given.test_share, given.seed)
    print(f"{given.name} is in {folder}; use it as stream.data={given.name}.")
    return 0


def _pretrain(given: argparse.Namespace) -> int:
    from clbench.pretraining import Pretraining
    from clbench.words import parse, typed

    points, options = parse(given.settings)
    if len(points) > 1 or options:
        raise Mistake("clbench pretrain takes settings of its own, one value each: data=NAME out=FILE epochs=7.")
    file = typed(Pretraining, points[0])(say=print)
    print(f"{file}, {file.stat().st_size / 1e6:.1f} MB; use it as model=vit_t6 model.weights={file}.")
    return 0


def _leaderboard(given: argparse.Namespace) -> int:
    from clbench import results
    from clbench.archive import columns

    found = [r for r in results.find(given.folder) if given.stream in (None, r.stream)]
    if not found:
        if given.stream:
            raise unknown(
                f"run in {given.folder} of a stream", given.stream, {r.stream for r in results.find(given.folder)}
            )
        raise Mistake(f"There is no run in {given.folder}: clbench run makes some.")
    first, *others = columns(given.folder)
    metrics, rank_by = given.metric or others, given.rank_by or first
    if given.ranks:
        if ignored := [o for o in ("figure", "cost", "metric") if getattr(given, o)]:
            raise Mistake(
                f"--ranks is a table of its own: --{ignored[0]} says nothing there; --rank-by METRIC chooses."
            )
        print(results.render_ranking(results.rank(found, rank_by), given.format), end="")
        return 0
    boards = results.leaderboard(found, metrics, rank_by)
    print(results.render(boards, given.format), end="")
    from clbench import figures

    if given.figure:
        _draw("figure", given.figure, figures.curves(found))
    if given.cost:
        _draw("cost", given.cost, figures.cost(found, (given.metric or [rank_by])[0]))
    return 0


def _draw(option: str, file: Path, figure: Any) -> None:
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise Mistake(f"--{option} {file} can't be written: {getattr(error, 'strerror', None) or error}.") from None


def _compare(given: argparse.Namespace) -> int:
    from clbench import results
    from clbench.archive import columns

    if given.against:
        reference = results.select(given.results, given.against)
        named = [results.select(given.results, name) for name in given.names]
        for group in named:
            results.comparable(group, reference)
        there = [run for group in named for run in group] or results.find(given.results)
        for metric in given.metric or columns(given.results)[:1]:
            found = results.paired(there, reference, metric, given.holm)
            print(results.render_paired(found, given.format), end="")
        return 0
    if len(given.names) != 2:
        raise Mistake("clbench compare takes two names, or --against one: clbench compare er naive.")
    a, b = (results.select(given.results, spec) for spec in given.names)
    comparison = results.compare(a, b, given.metric or columns(given.results), given.holm)
    print(results.render_comparison(comparison, given.format), end="")
    return 0


def _reference(given: argparse.Namespace) -> int:
    from clbench import reference, results, tables

    run, other = (results.select(given.results, spec) for spec in (given.run, given.reference))
    print(tables.write(reference.against(run, other), given.format), end="")
    if given.figure:
        from clbench.figures import accumulation

        _draw("figure", given.figure, accumulation(run, other))
    return 0


def _report(given: argparse.Namespace) -> int:
    from clbench import results
    from clbench.archive import columns
    from clbench.report import report
    from clbench.tables import counted

    found = results.find(given.folder)
    if not found:
        raise Mistake(f"There is no run in {given.folder}: clbench run makes some.")
    file, title = given.to or given.folder / "report.html", given.title or given.folder.resolve().name
    place = "" if given.folder == Path("results") else f" --results {shlex.quote(str(given.folder))}"
    first, *others = columns(given.folder)
    text = report(found, given.metric or others, given.rank_by or first, title, place)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Mistake(f"{file} can't be written: {error.strerror}.") from None
    print(f"{file}: {counted(len(found), 'run')}, {len(text.encode()) / 1e3:.0f} kB")
    return 0


def _reproduce(given: argparse.Namespace) -> int:
    from clbench import reproduction, results, show, sweep
    from clbench.configurations import matching
    from clbench.result import summaries, trouble

    summaries(given.metric)
    if given.workers < 1:
        raise Mistake(f"--workers {given.workers}: a number of processes, 1 or more.")
    roots = [root for root in (Path("results/reference"), Path("results")) if root.is_dir()]
    root = given.results or next((r for r in roots if matching(r, results.find(r), given.row)), Path("results"))
    group = results.select(root, given.row)
    work = reproduction.again(group, given.to, given.seeds)
    print(f"{group[0].stream}/{group[0].strategy} {group[0].hash}, from {root}, is run again in {given.to}.")
    changed = reproduction.changes(group[0], work[0].meta)
    print(
        f"Not as it was: {'; '.join(changed)}."
        if changed
        else "Versions, data, configuration and commit are as they were."
    )
    with show.display(work) as display:
        if given.workers > 1:
            sweep.shared(work, given.workers, 15.0, given.again, display.tell)
        else:
            sweep.in_turn(work, 15.0, given.again, display.tell)
    now = [results.open_result(task.folder) for task in work]
    if reason := trouble(now):
        print(f"What was stored is done; what was run now is not: {reason}.", file=sys.stderr)
        return 1
    inside, lines = reproduction.verdict(group, now, given.metric or results.DEFAULT)
    print(*lines, sep="\n")
    return 0 if inside else 1


def _archive(given: argparse.Namespace) -> int:
    from clbench import archive, results
    from clbench.tables import counted

    found = [result for folder in given.folders for result in results.find(folder)]
    columns: dict[str, None] = {}
    if given.metric or given.rank_by:
        columns = dict.fromkeys((given.rank_by or "class/final_accuracy", *(given.metric or results.DEFAULT)))
    file = archive.archive(found, given.target, list(columns))
    kept, size = len(results.find(file.parent)), file.stat().st_size / 1e3
    print(f"{file}: {counted(kept, 'run')}, {size:.0f} kB; README.md and table.csv beside it")
    return 0


def _tables(given: argparse.Namespace) -> int:
    from clbench import archive

    if given.check:
        wrong = [line for folder in archive.archives(given.folder) for line in archive.stale(folder)]
        print(*wrong, sep="\n", end="\n" * bool(wrong))
        return 1 if wrong else 0
    for folder in archive.archives(given.folder):
        archive.write_tables(folder)
        print(folder)
    return 0


def _sync(given: argparse.Namespace) -> int:
    from clbench import mirror, results

    report = mirror.sync(
        [r.folder for r in results.find(given.folder) if isinstance(r.folder, Path)], given.uri, given.folder
    )
    print(report)
    return 1 if report.behind else 0


if __name__ == "__main__":
    sys.exit(main())
