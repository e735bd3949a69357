"""Who may import whom, and what no file may do: read from the source, and from what a quick command has imported."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = ("streams", "strategies", "metrics")
FILES = sorted(path for name in ("clbench", *WINGS) for path in (ROOT / name).rglob("*.py"))
HEAVY = {
    "PIL", "avalanche", "hypothesis", "matplotlib", "mlflow", "pandas", "ray", "scipy", "sklearn", "timm", "torch",
    "torchvision", "transformers",
}  # fmt: skip
"""what a command that trains nothing has no use for"""
KEPT = {
    "avalanche": {"clbench/avalanche.py"},
    "hydra": {"clbench/words.py"},
    "matplotlib": {"clbench/figures.py"},
    "mlflow": {"clbench/mirror.py"},
    "pandas": {"clbench/result.py"},
    "ray": {"clbench/sweep.py"},
    "timm": {"clbench/models.py", "clbench/adapters.py", "clbench/pretrained.py", "clbench/backbones.py"},
    "tokenizers": {"clbench/code_tokens.py"},
    "torchvision": {"clbench/vision.py"},
    "transformers": {"clbench/captions.py", "clbench/code_pretraining.py", "clbench/code_tokens.py"},
}
"""packages that only these files may import, wherever in the file"""
SPEAKERS = {"clbench/cli.py", "clbench/show.py"}
"""files that may print"""
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module(path: Path) -> str:
    """The name under which a file is imported: streams/toy.py is clbench.streams.toy."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "clbench" else ("clbench", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports; `from a import b` may mean a.b, so both are named."""
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom(level=0):
            return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        case ast.ImportFrom():
            raise AssertionError("imports name their module in full")
    return []


def every_import(path: Path) -> set[str]:
    return {found for node in ast.walk(tree(path)) for found in imported(node)}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    """Every call in every file."""
    for path in FILES:
        yield from ((path, node) for node in ast.walk(tree(path)) if isinstance(node, ast.Call))


def imports_at_once(path: Path) -> set[str]:
    """What importing a file imports: neither what waits in a function nor what only a type checker reads."""

    def visit(body: Sequence[ast.AST]) -> Iterator[str]:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    continue
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    yield from visit(node.orelse)
                case _:
                    yield from imported(node)
                    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
                        yield from visit(getattr(node, field, []))

    return set(visit(tree(path).body))


def closure(*starts: str) -> dict[str, str]:
    """The modules of ours that importing these imports, each with the one that imports it."""
    assert set(starts) <= set(MODULES)
    found: dict[str, str] = {}
    waiting = [(start, "") for start in starts]
    while waiting:
        here, by = waiting.pop()
        if here in found or here not in MODULES:
            continue
        found[here] = by
        waiting += [(there, here) for there in imports_at_once(MODULES[here])]
        waiting.append((here.rpartition(".")[0], here))
    return found


def top(imports: set[str]) -> set[str]:
    return {found.partition(".")[0] for found in imports}


def test_imports_go_one_way():
    """A wing imports clbench and itself; clbench imports no wing; nothing is imported by a bare wing's name."""
    wrong = []
    for path in FILES:
        own = path.relative_to(ROOT).parts[0]
        others = tuple(f"clbench.{wing}" for wing in WINGS if wing != own)
        wrong += [(name(path), one) for one in every_import(path) if one.startswith(others) or top({one}) & set(WINGS)]
    assert not wrong


def test_what_is_kept_to_one_file_stays_there():
    wrong = [(name(path), package) for path in FILES for package in top(every_import(path)) & set(KEPT)]
    assert not [(file, package) for file, package in wrong if file not in KEPT[package]]


def test_what_is_kept_to_one_file_waits_there_in_a_function():
    assert not {name(path): found for path in FILES if (found := top(imports_at_once(path)) & set(KEPT))}


def test_what_answers_at_once_imports_nothing_heavy():
    """Everything that listing, showing and checking names needs, by the source."""
    quick = closure(
        "clbench.cli", "clbench.show", "clbench.catalogue", "clbench.config", "clbench.models", "clbench.datasets",
        "clbench.prepare", "clbench.downloads", "clbench.results", "clbench.figures", "clbench.mirror",
        "clbench.statistics",
        *(f"clbench.{wing}" for wing in WINGS),
    )  # fmt: skip
    assert {"clbench.errors", "clbench.metric", "clbench.tables", "clbench.metrics.summary"} <= set(quick)
    heavy = {one: top(imports_at_once(MODULES[one])) & HEAVY for one in quick}
    assert not {one: (found, f"imported by {quick[one]}") for one, found in heavy.items() if found}


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("--help", 0),
        ("--version", 0),
        ("list", 0),
        ("run strategy=erp", 2),
        ("run stream=cifar", 2),
        ("leaderboard nowhere", 2),
    ],
)
def test_a_quick_answer_has_imported_nothing_heavy(command, status, tmp_path):
    """The same by experiment, each command in a process of its own."""
    script = """
import json, sys
from clbench.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split()], capture_output=True, text=True, cwd=tmp_path
    )
    ended, modules = json.loads(done.stdout.splitlines()[-1])
    assert ended == status, done.stderr
    assert not set(modules) & HEAVY


def test_nothing_that_is_read_can_run():
    """No pickle, no array of objects, no archive unpacked on trust.

    torchvision unpickles CIFAR's files, once their MD5 is right; that is its code, called by clbench/downloads.py.
    """
    assert not [(name(path), found) for path in FILES if (found := top(every_import(path)) & UNPICKLERS)]
    wrong = []
    for path, call in calls():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        called = ast.unparse(call.func)
        if (
            called in ("eval", "exec")
            or (called == "torch.load" and given.get("weights_only") != "True")
            or given.get("allow_pickle", "False") != "False"
            or (called.endswith(".extractall") and "filter" not in given)
        ):
            wrong.append(f"{name(path)}:{call.lineno}: {ast.unparse(call)}")
    assert not wrong


def test_only_the_command_prints():
    speaks = [
        f"{name(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and node.id == "print" and name(path) not in SPEAKERS
    ]
    assert not speaks


def test_files_are_named_after_what_they_hold():
    assert not [name(path) for path in FILES if path.stem in ("base", "common", "helpers", "misc", "util", "utils")]


def test_the_checks_read_what_they_claim_to(tmp_path):
    """What the rules above rest on, on a file with a known answer."""
    file = tmp_path / "example.py"
    file.write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\n"
        "try:\n    import f\nexcept ImportError:\n    import g\nclass K:\n    import h\ndef later():\n    import i\n"
    )
    assert imports_at_once(file) == {"a.b", "c", "c.d", "f", "g", "h"}
    assert every_import(file) == {"a.b", "c", "c.d", "e", "f", "g", "h", "i"}
