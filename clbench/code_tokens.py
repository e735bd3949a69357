"""Code as the tokens of a language model: a byte-level BPE learned from the code that no domain touches, or another's.

The in-distribution pool is the training functions that call no API of any domain, so whoever learns from it meets the
domains of a stream for the first time (Weyssow et al. 2023 pretrain on what calls none of their APIs).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clbench.code import Code, read
from clbench.datasets import root, sha256, whole
from clbench.errors import Mistake
from clbench.prepare import beside
from clbench.transform import Transform

DOMAINS = {
    "language": (
        "abc", "ast", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "heapq", "inspect",
        "itertools", "json", "math", "operator", "random", "re", "string", "textwrap", "traceback", "types", "weakref",
    ),
    "system": (
        "argparse", "ctypes", "datetime", "fcntl", "glob", "importlib", "io", "logging", "multiprocessing", "os",
        "pathlib", "pickle", "platform", "posixpath", "shlex", "shutil", "signal", "stat", "struct", "subprocess",
        "sys", "tarfile", "tempfile", "threading", "time", "zipfile",
    ),
    "numeric": ("numpy", "scipy"),
    "tensors": ("torch", "torchvision", "triton"),
    "services": (
        "aiohttp", "alembic", "asyncio", "base64", "click", "cryptography", "django", "email", "fastapi", "flask",
        "hashlib", "hmac", "html", "http", "opentelemetry", "pydantic", "requests", "secrets", "socket", "sqlalchemy",
        "sqlite3", "ssl", "starlette", "urllib", "uuid", "werkzeug", "xml",
    ),
    "frames": ("matplotlib", "PIL", "pandas", "pyarrow", "skimage", "sklearn", "statsmodels"),
    "symbolic": ("mpmath", "networkx", "sympy"),
}  # fmt: skip
"""the packages whose APIs make up a domain, as they are imported; no package is in two"""
END = 0
"""the token between functions"""
LEARNED_FROM = 20_000
"""functions of the pool that the vocabulary is learned from, at the most"""


def domains_of(code: Code) -> np.ndarray:
    """Of each call, the number of its domain; -1: none."""
    number = {package: n for n, packages in enumerate(DOMAINS.values()) for package in packages}
    return np.array([number.get(package, -1) for package in code.called().tolist()], np.int64)[code.sites[:, 1]]


def pool_of(code: Code) -> np.ndarray:
    """The training functions that call no API of any domain."""
    free = code.train.copy()
    free[code.sites[domains_of(code) >= 0, 0]] = False
    return np.flatnonzero(free)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer, and how to use it on code."""

    tokenizer: Any
    size: int
    """tokens in all; token 0 of ours ends a function"""
    content: str
    """SHA-256 that names it"""

    def encode(self, sources: Sequence[bytes]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text its tokens, and the byte at which each ends (n, int64)."""
        texts = [source.decode("utf-8", "replace") for source in sources]
        found = []
        for text, one in zip(texts, self.tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            ends = np.array([stop for _, stop in one.offsets], np.int64)
            if not text.isascii():
                width = np.cumsum([0, *(len(letter.encode()) for letter in text)])
                ends = width[ends]
            found.append((np.array(one.ids, np.int64), ends))
        return found

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode([t for t in tokens if t != END], skip_special_tokens=False)


@dataclass
class TokenTransform(Transform):
    """Tokens as a network takes them, and in words."""

    vocabulary: Vocabulary

    def text(self, tokens: Sequence[int]) -> str:
        return self.vocabulary.text(tokens)


def tokenizers() -> Any:
    """The package, imported.

    Raises:
        Mistake: it is not installed.
    """
    if find_spec("tokenizers") is None:
        raise Mistake("Code as tokens (stream.form=code) needs the package tokenizers: pip install 'clbench[code]'.")
    import tokenizers

    return tokenizers


def vocabulary(packages: str | Sequence[str], share: float, size: int) -> Vocabulary:
    """The byte-level BPE of so many tokens of the pool of some packages, made once and kept by content.

    Args:
        packages: as `clbench.code.read` takes them
        share: of the files that are for tests, likewise

    Raises:
        Mistake: tokenizers is not installed.
    """
    tokenizers()
    return _opened(pool(packages, share, size))


@cache
def _opened(folder: Path) -> Vocabulary:
    tokenizer = tokenizers().Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Vocabulary(tokenizer, tokenizer.get_vocab_size(), sha256(folder / "tokenizer.json"))


def pool(packages: str | Sequence[str], share: float, size: int) -> Path:
    """The folder of a vocabulary and of the pool in its tokens: `tokenizer.json`, `pool.npy` (uint16)."""
    return _pool(packages if isinstance(packages, str) else tuple(packages), share, size)


@cache
def _pool(packages: str | tuple[str, ...], share: float, size: int) -> Path:
    code = read(packages, share)
    told = json.dumps([code.card["content"], code.card["sha256"]["train.npy"], size, DOMAINS])
    folder = root() / ".cache" / f"pool-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    if (folder / "dataset.json").exists():
        whole(folder, json.loads((folder / "dataset.json").read_text("utf-8"))["sha256"])
        return folder
    library, functions = tokenizers(), pool_of(code)
    if not len(functions):
        raise Mistake("Every function of the code calls an API of some domain: there is nothing to pretrain on.")
    tokenizer = library.ByteLevelBPETokenizer()
    some = functions[np.linspace(0, len(functions) - 1, min(len(functions), LEARNED_FROM)).astype(int)]
    texts = (code.source(one).decode("utf-8", "replace") for one in some)
    tokenizer.train_from_iterator(texts, size, min_frequency=2, show_progress=False, special_tokens=["<|end|>"])
    with beside(folder, replace=True) as new:
        tokenizer.save(str(new / "tokenizer.json"))
        words = Vocabulary(tokenizer, size, "")
        tokens = [np.append(ids, END) for ids, _ in words.encode([code.source(one) for one in functions])]
        np.save(new / "pool.npy", np.concatenate(tokens).astype(np.uint16))
        sums = {file.name: sha256(file) for file in sorted(new.iterdir())}
        card = {"name": "pool", "functions": len(functions), "size": size, "sha256": sums}
        (new / "dataset.json").write_text(json.dumps(card), "utf-8")
    return folder


def blocks(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens cut into blocks: what is seen (n x length) and what comes next at each place; what is left over goes."""
    count = (len(tokens) - 1) // length
    return tokens[: count * length].reshape(count, length), tokens[1 : count * length + 1].reshape(count, length)


@cache
def published(name: str) -> Vocabulary:
    """The tokens of a Hugging Face model, by its name or folder.

    Raises:
        Mistake: transformers is not installed, or the tokenizer can't be had.
    """
    if find_spec("transformers") is None:
        raise Mistake(f"stream.tokenizer={name} needs the package transformers: pip install 'clbench[code]'.")
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError) as error:
        raise Mistake(f"The tokenizer '{name}' can't be had: {str(error).splitlines()[0]}") from None
    content = hashlib.sha256(fast.backend_tokenizer.to_str().encode()).hexdigest()
    return Vocabulary(fast.backend_tokenizer, len(fast), content)
