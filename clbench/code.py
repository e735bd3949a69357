"""Source code as data: the functions of packages and their known calls, split by file and rid of what leaks.

Nothing is imported or executed (`clbench.callsites`). Code comes from the standard library, from installed
distributions, from folders, and from wheels that pip brings by pinned hashes. What is read is kept in a cache, by
content, with a manifest: what was read, which versions, and a SHA-256 of each.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import sysconfig
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from clbench.callsites import LEXEME, Function, functions
from clbench.datasets import checksum, root, sha256, whole
from clbench.errors import Mistake
from clbench.leaks import leaks
from clbench.prepare import beside, progress

VERSION = 1
"""raised when the same files give something else than before"""
INSTALLED = (
    "stdlib", "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "torch", "torchvision", "timm", "mlflow",
    "hydra-core", "pydantic", "rich", "safetensors", "pillow", "tabulate", "jinja2",
)  # fmt: skip
"""the standard library, and what clbench depends on"""
PINS = Path(__file__).with_name("pins")
SETS = {
    "installed": INSTALLED,
    "pinned": (str(PINS / "domains.txt"),),
    "releases": (str(PINS / "releases.txt"),),
}
"""packages by one word: those of this installation; wheels by their hashes, the same code on every machine; several
releases of some libraries, likewise"""
PLATFORM = (
    "--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64", "--python-version", "3.11",
    "--implementation", "cp", "--only-binary", ":all:",
)  # fmt: skip
"""for which compiled packages are fetched"""
SKIPPED = {
    "__pycache__", "_vendor", "extern", "idlelib", "lib2to3", "node_modules", "site-packages", "test", "tests",
    "third_party", "vendor", "vendored",
}  # fmt: skip
"""folders of tests, and of other packages' code"""


@dataclass(frozen=True)
class Origin:
    """A package, and how to read it."""

    name: str
    version: str
    key: str
    """differs where its files may"""
    files: Callable[[], Iterator[tuple[str, bytes]]] = field(repr=False)
    """paths, as a wheel has them, and contents"""


@dataclass(frozen=True, eq=False)
class Code:
    """Functions of some packages and their known calls, in the order of packages and paths."""

    card: dict[str, Any] = field(repr=False)
    """the manifest: `origins` (name, version, files, unread, functions, sites, sha256 of each), `files`, `apis`"""
    arrays: dict[str, np.ndarray] = field(repr=False)

    @property
    def origins(self) -> list[dict[str, Any]]:
        return self.card["origins"]

    @property
    def apis(self) -> list[str]:
        """The dotted names that are called."""
        return self.card["apis"]

    @property
    def sites(self) -> np.ndarray:
        """S x 7, int32: function, API, lexical tokens before the callee, and in bytes of the function's source: the
        callee's first and last, the call's first and last.
        """
        return self.arrays["sites"]

    @cached_property
    def origin(self) -> np.ndarray:
        """Of each function, the number of its package."""
        return np.array(self.card["file_origin"], np.int32)[self.arrays["file"]]

    @property
    def train(self) -> np.ndarray:
        """Which functions may be trained on (bool, F): of training files, no copies, nothing near a test function."""
        return self.arrays["train"]

    @property
    def test(self) -> np.ndarray:
        """Which functions stand in test files (bool, F); one body once."""
        return self.arrays["test"]

    def source(self, function: int) -> bytes:
        """The text of a function, without docstring and comments."""
        start, stop = self.arrays["text_at"][function : function + 2]
        return self.arrays["text"][start:stop].tobytes()

    def checksums(self) -> dict[str, str]:
        """The content of each package, as its number, name and version to sha256."""
        return {f"{n} {o['name']} {o['version']}".strip(): o["sha256"] for n, o in enumerate(self.origins)}

    def called(self) -> np.ndarray:
        """Of each API, the package that it is imported from, as a word."""
        return np.array([api.partition(".")[0] for api in self.apis])

    def names(self) -> np.ndarray:
        """Of each API, its last name."""
        return np.array([api.rpartition(".")[2] for api in self.apis])


def read(packages: str | Sequence[str], share: float = 0.1) -> Code:
    """The code of packages, from the cache where they were read before.

    Args:
        packages: one of SETS; or `stdlib`, names of installed distributions, folders, wheels, lists of wheels (`.txt`)
        share: of the files that are for tests, by their paths alone

    Raises:
        Mistake: one is not there.
    """
    return _read(SETS[packages] if isinstance(packages, str) else tuple(packages), share)


@cache
def _read(packages: tuple[str, ...], share: float) -> Code:
    found = [origin for name in packages for origin in origins(name)]
    told = json.dumps([VERSION, share, sys.version_info[:2], [[o.name, o.version, o.key] for o in found]])
    folder = root() / ".cache" / f"code-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    try:
        return load(folder)
    except (OSError, ValueError, Mistake):
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder, replace=True) as new:
        _write(new, found, share)
    return load(folder)


def load(folder: Path) -> Code:
    """What was read before.

    Raises:
        OSError: it was not.
        Mistake: a file is damaged.
    """
    card = json.loads((folder / "dataset.json").read_text("utf-8"))
    whole(folder, card["sha256"])
    return Code(card, {name.removesuffix(".npy"): np.load(folder / name, mmap_mode="r") for name in card["sha256"]})


# Where code comes from.


def origins(name: str) -> list[Origin]:
    """The packages that a word stands for.

    Raises:
        Mistake: there is none.
    """
    path = Path(name).expanduser()
    if name == "stdlib":
        home = Path(sysconfig.get_paths()["stdlib"])
        return [_folder("stdlib", ".".join(map(str, sys.version_info[:3])), home, "")]
    if path.suffix == ".whl" and path.is_file():
        return [_wheel(path)]
    if path.suffix == ".txt" and path.is_file():
        return [_wheel(wheel) for wheel in _downloaded(path)]
    if "/" in name and path.is_dir():
        return [_folder(path.name, "", path, path.name if (path / "__init__.py").exists() else "")]
    try:
        return [_installed(distribution(name))]
    except PackageNotFoundError:
        raise Mistake(
            f"There is no code named '{name}': it is neither installed (pip install {name}), nor a folder, a wheel or "
            "a list of wheels (a path with a '/')."
        ) from None


def _wanted(path: str) -> bool:
    return path.endswith(".py") and not SKIPPED & set(path.split("/")[:-1]) and ".dist-info/" not in path


def _folder(name: str, version: str, home: Path, above: str) -> Origin:
    paths = {f"{above}/{p}" if above else p: home / p for p in _python(home)}
    stats = "\n".join(f"{p} {(s := file.stat()).st_size} {s.st_mtime_ns}" for p, file in paths.items())
    key = hashlib.sha256(stats.encode()).hexdigest()
    return Origin(name, version, key, lambda: ((path, file.read_bytes()) for path, file in paths.items()))


def _python(home: Path) -> list[str]:
    return sorted(p for file in home.rglob("*.py") if _wanted(p := file.relative_to(home).as_posix()))


def _installed(found: Distribution) -> Origin:
    paths = sorted(p for file in found.files or () if _wanted(p := file.as_posix()) and not p.startswith("../"))
    key = hashlib.sha256((found.read_text("RECORD") or "").encode()).hexdigest()

    def files() -> Iterator[tuple[str, bytes]]:
        for path in paths:
            yield path, Path(str(found.locate_file(path))).read_bytes()

    return Origin(found.metadata["Name"].lower(), found.version, key, files)


def _wheel(file: Path) -> Origin:
    name, version = file.name.split("-")[:2]

    def files() -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(file) as archive:
            for path in sorted(filter(_wanted, archive.namelist())):
                yield path, archive.read(path)

    return Origin(name.lower().replace("_", "-"), version, sha256(file), files)


def _downloaded(pins: Path) -> list[Path]:
    """The wheels of a list, brought by pip where they are not here, in the order of the list.

    A line is `name==version --hash=sha256:…`; each is fetched by itself, since pip takes one version of a name at a
    time. Compiled packages are fetched for one platform, so that every machine reads the same.
    """
    import subprocess

    home, found = root() / ".raw" / "wheels", []
    home.mkdir(parents=True, exist_ok=True)
    for line in pins.read_text("utf-8").splitlines():
        pin, _, digest = line.partition(" --hash=sha256:")
        if not digest:
            continue
        place = home / digest
        if not (wheel := next(place.glob("*.whl"), None)) or sha256(wheel) != digest:
            one = home / f"{digest}.txt"
            one.write_text(f"{line}\n", "utf-8")
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", *PLATFORM]
            done = subprocess.run([*command, "-r", str(one), "-d", str(place)], capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip() or "pip says nothing").splitlines()[-1]
                raise Mistake(f"{pin} could not be downloaded ({reason}).")
            wheel = next(place.glob("*.whl"))
        found.append(wheel)
    if not found:
        raise Mistake(f"{pins} pins no wheel; a line is: name==version --hash=sha256:…")
    return found


# Writing it down.


def _write(folder: Path, found: Sequence[Origin], share: float) -> None:
    """Reads all packages, and writes arrays and manifest."""
    apis: dict[str, int] = {}
    draft = _Draft(apis)
    card: dict[str, Any] = {"name": "code", "test share": share, "origins": [], "files": [], "file_origin": []}
    with progress("reading code", len(found)) as advance:
        for number, origin in enumerate(found):
            about: dict[str, Any] = {"name": origin.name, "version": origin.version, "files": 0, "unread": 0}
            before, digest = (draft.count, len(draft.sites)), hashlib.sha256()
            for path, content in origin.files():
                about["files"] += 1
                try:
                    for function in _functions(path, content):
                        digest.update(f"{path}\0{function.name}\0".encode() + function.source + b"\0")
                        draft.add(function, len(card["files"]))
                except (SyntaxError, ValueError, RecursionError):
                    about["unread"] += 1
                card["files"].append(f"{origin.name}/{path}")
                card["file_origin"].append(number)
            about |= {"functions": draft.count - before[0], "sites": len(draft.sites) - before[1]}
            card["origins"].append(about | {"sha256": digest.hexdigest()})
            advance(1)
    arrays = draft.arrays()
    in_test = np.array([among(file, share) for file in card["files"]], bool)[arrays["file"]]
    arrays["train"], arrays["test"] = leaks(arrays, in_test)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    card["apis"] = list(apis)
    card["sha256"] = {file.name: sha256(file) for file in sorted(folder.glob("*.npy"))}
    card["content"] = checksum({str(n): o["sha256"] for n, o in enumerate(card["origins"])})
    (folder / "dataset.json").write_text(json.dumps(card), "utf-8")


def _functions(path: str, content: bytes) -> Iterable[Function]:
    parts = path.removesuffix(".py").split("/")
    package = parts[-1] == "__init__"
    return list(functions(content, ".".join(parts[:-1] if package else parts), package))


def among(name: str, share: float) -> bool:
    """Whether a name is among a share of all names: by its hash, so for ever. Of files, package and path: in every
    release.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < share * 2**64


class _Draft:
    """Arrays that grow."""

    def __init__(self, apis: dict[str, int]) -> None:
        self.apis, self.count = apis, 0
        self.text, self.text_at = bytearray(), [0]
        self.tokens: list[np.ndarray] = []
        self.token_at, self.file, self.digests = [0], list[int](), list[bytes]()
        self.sites: list[tuple[int, ...]] = []

    def add(self, function: Function, file: int) -> None:
        tokens, starts = lexemes(function.source)
        for s in function.sites:
            api = self.apis.setdefault(s.api, len(self.apis))
            self.sites.append((self.count, api, bisect_left(starts, s.start), s.start, s.end, s.call, s.close))
        self.count += 1
        self.file.append(file)
        self.digests += [function.exact, function.shape]
        self.text += function.source
        self.text_at.append(len(self.text))
        self.tokens.append(np.array(tokens, np.uint32))
        self.token_at.append(self.token_at[-1] + len(tokens))

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "text": np.frombuffer(bytes(self.text), np.uint8),
            "text_at": np.array(self.text_at, np.int64),
            "tokens": np.concatenate([np.empty(0, np.uint32), *self.tokens]),
            "token_at": np.array(self.token_at, np.int64),
            "file": np.array(self.file, np.int32),
            "digests": np.frombuffer(b"".join(self.digests), "S16").reshape(-1, 2).view("<u8").reshape(-1, 2, 2),
            "sites": np.array(self.sites, np.int32).reshape(-1, 7),
        }


def lexemes(source: bytes) -> tuple[list[int], list[int]]:
    """The lexical tokens of Python source as 32-bit numbers, and the byte at which each begins. A name stands for
    itself; all numbers are one token, and so are all strings; space and comments are none.
    """
    tokens, starts = [], []
    for match in LEXEME.finditer(source.decode("latin-1")):
        kind = match.lastgroup
        if kind == "comment":
            continue
        tokens.append(_number({"string": '""', "number": "0"}.get(str(kind), match[0])))
        starts.append(match.start())
    return tokens, starts


@cache
def _number(word: str) -> int:
    return crc32(word.encode("latin-1"))
