"""The command line: `clbench run stream=cifar100 strategy=er seed=range(6)`, and what is asked of the results after.

Exit status: 0 done; 1 a run failed; 2 a mistake in what was given; 3 another process holds a run; 4 a run diverged.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from clbench.errors import Busy, Mistake, unknown

FIRST = ["stream=digits", "strategy=naive,er,kfpf,joint", "seed=range(6)"]
"""what `clbench run` does when it is told nothing"""

STATUS = {"failed": 1, "busy": 3, "diverged": 4}
"""exit status where a run ended so"""

EXAMPLES = """\
examples:
  clbench run                                            compare four strategies on real digits, over 6 seeds
  clbench run stream=cifar100 strategy=er,derpp 'seed=range(3)'
  clbench run stream=folder stream.data=~/photos strategy=er
  clbench leaderboard                                    every table, from the files
  clbench show derpp                                     its paper, options and presets
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    words = sys.argv[1:] if words is None else list(words)
    if words[:1] in (["run"], ["validate"], ["manifest"]):
        words.sort(key=lambda word: word.startswith("-"))
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

    def command(name: str, do: Callable[[argparse.Namespace], int | None], help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
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

    manifest = command(
        "manifest", _manifest, "digests of what a stream teaches and asks, to compare with another machine"
    )
    manifest.add_argument("words", nargs="*", metavar="path=value", help="stream, its options, recipe and seed")
    manifest.add_argument("--json", action="store_true", help="print one JSON object a stream and seed")

    listing = command("list", _list, "list what there is")
    listing.add_argument("kind", nargs="?", help="streams, strategies, metrics, models or data; all when left out")

    show = command("show", _show, "show one entry: its paper, options, presets")
    show.add_argument("name")

    data = command("data", _data, "list, prepare and verify data sets")
    data.add_argument("action", choices=["list", "prepare", "verify"])
    data.add_argument("name", nargs="?", help="of the data set")
    data.add_argument("--from", dest="source", type=Path, help="a folder of images, an .npz, or a folder of raw files")
    data.add_argument("--resolution", type=int, help="pixels a side that images are brought to")
    data.add_argument(
        "--test-share", type=float, default=0.3, help="share of each class for test, where there is no split"
    )
    data.add_argument("--seed", type=int, default=0, help="of that split")
    data.add_argument("--again", action="store_true", help="prepare it anew, in place of what is there")

    board = command("leaderboard", _leaderboard, "rank what was run, within each protocol")
    board.add_argument("folder", nargs="?", type=Path, default=Path("results"))
    board.add_argument("--stream", help="of this stream only")
    board.add_argument("--metric", action="append", help="a column; repeat for more (clbench list metrics)")
    board.add_argument("--rank-by", default="class/final_accuracy", metavar="METRIC")
    board.add_argument(
        "--figure", type=Path, help="also draw accuracy over the stream into this file (.svg, .png, .pdf)"
    )
    board.add_argument("--cost", type=Path, help="also draw final accuracy against training compute into this file")
    board.add_argument("--format", choices=["terminal", "md", "csv", "html", "latex"], default="terminal")

    against = command("compare", _compare, "paired differences of two strategies over the seeds that both have")
    against.add_argument("a", help="a strategy, stream/strategy, a hash, or a folder")
    against.add_argument("b", help="likewise")
    against.add_argument("--results", type=Path, default=Path("results"))
    against.add_argument("--metric", action="append", help="repeat for more")

    beside = command("against", _against, "a run against a reference: joint, cumulative or i.i.d. training")
    beside.add_argument("run", help="a strategy, stream/strategy, a hash, or a folder")
    beside.add_argument("reference", help="likewise; on the same network and exams")
    beside.add_argument("--results", type=Path, default=Path("results"))
    beside.add_argument("--figure", type=Path, help="also draw knowledge accumulation into this file")
    beside.add_argument("--format", choices=["terminal", "md", "html", "latex"], default="terminal")

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

    words = list(given.words)
    options = {option.name for option in fields(config.Options)}
    if all(word.partition("=")[0] in options for word in words):
        words = [*FIRST, *words]
    plans, chosen = config.plans(words)
    from clbench import show, sweep

    results = Path(chosen.results).expanduser()
    work = sweep.tasks(plans, results, words)
    _writable(results)
    from clbench.mirror import Mirror

    mirror = None
    if chosen.mlflow != "off":
        mirror = Mirror(results, "" if chosen.mlflow == "local" else chosen.mlflow)
    display = show.Lines(work) if given.json else show.display(work)
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
            sweep.shared(work, chosen.workers, chosen.checkpoint, given.again, tell)
        else:
            sweep.in_turn(work, chosen.checkpoint, given.again, tell)
    display.table()
    behind = mirror.close(wait=30.0) if mirror else None
    display.places(results, mirror.uri if mirror else "", behind)
    states = {event["status"] for event in ends.values()}
    return next((status for state, status in STATUS.items() if state in states), 0)


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

    work = sweep.tasks(plans, Path(chosen.results).expanduser(), given.words)
    for task in work:
        print(task.folder)
    print(f"{len(work)} run{'s' if len(work) > 1 else ''} can start.")
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
    if given.action == "verify":
        datasets.verify(given.name)
        print(f"{given.name} is as it was prepared.")
        return 0
    from clbench.prepare import prepare

    folder = prepare(given.name, given.source, given.again, given.resolution, given.test_share, given.seed)
    print(f"{given.name} is in {folder}; use it as stream.data={given.name}.")
    return 0


def _leaderboard(given: argparse.Namespace) -> int:
    from clbench import results

    found = [r for r in results.find(given.folder) if given.stream in (None, r.stream)]
    if not found:
        if given.stream:
            raise unknown(
                f"run in {given.folder} of a stream", given.stream, {r.stream for r in results.find(given.folder)}
            )
        raise Mistake(f"There is no run in {given.folder}: clbench run makes some.")
    boards = results.leaderboard(found, given.metric or results.DEFAULT, given.rank_by)
    print(results.render(boards, given.format), end="")
    from clbench import figures

    for option, file, draw in (("figure", given.figure, figures.curves), ("cost", given.cost, figures.cost)):
        if file:
            _draw(option, file, draw(found))
    return 0


def _draw(option: str, file: Path, figure: Any) -> None:
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise Mistake(f"--{option} {file} can't be written: {error}.") from None


def _compare(given: argparse.Namespace) -> int:
    from clbench import results

    a, b = (results.select(given.results, spec) for spec in (given.a, given.b))
    print(results.render_comparison(results.compare(a, b, given.metric or results.DEFAULT)), end="")
    return 0


def _against(given: argparse.Namespace) -> int:
    from clbench import reference, results, tables

    run, other = (results.select(given.results, spec) for spec in (given.run, given.reference))
    print(tables.write(reference.against(run, other), given.format), end="")
    if given.figure:
        from clbench.figures import accumulation

        _draw("figure", given.figure, accumulation(run, other))
    return 0


def _sync(given: argparse.Namespace) -> int:
    from clbench import mirror, results

    report = mirror.sync([r.folder for r in results.find(given.folder)], given.uri, given.folder)
    print(report)
    return 1 if report.behind else 0


if __name__ == "__main__":
    sys.exit(main())
