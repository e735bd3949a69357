"""What is installed is what stands here: one package over four folders, as a wheel and in place."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WINGS = ("streams", "strategies", "metrics")


def modules(root: Path) -> set[str]:
    """The files of the package under `root`, by the path at which they are installed."""
    parts = [("clbench", root / "clbench"), *((f"clbench/{wing}", root / wing) for wing in WINGS)]
    return {f"{name}/{file.relative_to(folder).as_posix()}" for name, folder in parts for file in folder.rglob("*.py")}


def run(*words: object, cwd: Path | None = None, **variables: str) -> list[str]:
    """The lines that a command prints, with these environment variables beside the others."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=cwd, env=os.environ | variables)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The project as git has it: nothing that is only on this disk."""
    folder = tmp_path_factory.mktemp("source")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no checkout of git, so nothing says which files belong to the project")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def pip():
    """Begins a pip command that builds without fetching anything."""
    [needed] = PROJECT["build-system"]["requires"]
    least = int(needed.removeprefix("setuptools>="))
    try:
        enough = int(version("setuptools").partition(".")[0]) >= least
    except PackageNotFoundError:
        enough = False
    if not enough:
        pytest.skip(f"to build without the network, {needed} must be in this environment")
    return sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"


@pytest.fixture(scope="module")
def wheel(source, pip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    [file] = folder.glob("*.whl")
    return file


def test_every_folder_with_code_is_a_listed_package():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    places = PROJECT["tool"]["setuptools"]["package-dir"]
    assert {path.rpartition("/")[0].replace("/", ".") for path in modules(ROOT)} == listed
    assert places == {f"clbench.{wing}": wing for wing in WINGS}
    for package in listed:
        assert (ROOT / places.get(package, package.replace(".", "/")) / "__init__.py").exists()


def test_the_version_is_the_same_everywhere():
    stated = PROJECT["project"]["version"]
    assert f"\nversion: {stated}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert version("clbench") == stated


def test_the_wheel_holds_every_module_and_nothing_else(source, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
    folders = (ROOT / "clbench" / kind for kind in ("pins", "weights"))
    beside = {f"clbench/{folder.name}/{file.name}" for folder in folders for file in folder.iterdir()}
    assert names == modules(source) | {"clbench/py.typed", "clbench/report.html"} | beside
    assert len(licences) == 1


def test_the_wheel_runs_from_another_directory(wheel, pip, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(*pip, "install", "--no-deps", "--target", site, wheel)

    def python(script: str) -> list[str]:
        return run(sys.executable, "-c", script, cwd=elsewhere, PYTHONPATH=str(site))

    assert python("import clbench; print(clbench.__file__)") == [str(site / "clbench" / "__init__.py")]
    command = "import sys; from clbench.cli import main; sys.exit(main({!r}.split()))"
    listed = python(command.format("list"))
    assert listed[0] == "streams"
    assert any(line.split()[:1] == ["derpp"] for line in listed)
    lines = python(command.format("run stream=toy stream.samples=8 strategy=er mlflow=off"))
    assert "toy er seed 0: final accuracy" in lines[0]
    assert (elsewhere / "results" / "toy").is_dir()


def test_installed_in_place_the_wings_are_where_they_stand(source, pip, tmp_path):
    """Not every build backend keeps the mapping of the wings when the install is editable."""
    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--no-build-isolation", "--target", site, "--editable", source)
    script = f"import site; site.addsitedir({str(site)!r})"
    script += "".join(f"; import clbench.{wing}; print(clbench.{wing}.__file__)" for wing in WINGS)
    found = run(sys.executable, "-S", "-c", script, cwd=tmp_path)
    assert found == [str(source / wing / "__init__.py") for wing in WINGS]


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_by_its_bare_name_says_how_it_is_imported(wing):
    done = subprocess.run([sys.executable, "-c", f"import {wing}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert f"ImportError: Import clbench.{wing}, not {wing}; install the project first: pip install -e ." in done.stderr
