"""Code as data: which calls are known, where they stand, and what may be trained on."""

import zipfile
from itertools import pairwise

import numpy as np
import pytest

from clbench.callsites import functions
from clbench.code import lexemes, origins, read
from clbench.errors import Mistake
from clbench.leaks import leaks, near, shingles

SOURCE = '''
import numpy as np, re
from os import path as p
from .shelf import take, put as place
def f(x, *, w):
    """doc # no"""
    # a comment "
    v = re.compile("ä # not one")  # one
    w = np.zeros(3); v.match(x).group()
    place(w)
    return p.join(take(w), v.match(x)), self.x(), x.y(), [np.ones(re) for re in x], re.sub(w)

class A:
    async def g(self, np):
        np.zeros(3)
        with open(a) as f, re.compile(1) as h:
            h.match(
               re.sub(1))

def short(): pass
'''.encode()


def test_calls_are_known_by_imports_and_by_one_step_of_assignment():
    first, second = functions(SOURCE, "box.lid")
    assert [s.api for s in first.sites] == [
        "re.compile", "numpy.zeros", "re.compile().match", "box.shelf.take", "re.compile().match", "os.path.join",
        "numpy.ones", "re.sub",
    ]  # fmt: skip
    assert [s.api for s in second.sites] == ["re.compile", "re.sub", "re.compile().match"]
    for function in (first, second):
        for s in function.sites:
            call = function.source[s.call : s.close].decode()
            assert function.source[s.start : s.end].decode() == s.api.rpartition(".")[2]
            assert call.endswith(")")
            assert call.count("(") == call.count(")")
    assert b"doc" not in first.source
    assert b"comment" not in first.source
    assert "ä # not one" in first.source.decode()


def test_digests_see_neither_layout_nor_the_one_of_shape_names():
    texts = ["def f(a):\n  b = a.x\n  return b", "def f(a):\n    'doc'\n    b = a.x  # c\n\n    return b"]
    texts += ["def g(b):\n  c = b.y\n  return c", "def f(a):\n  b = a.x()\n  return b"]
    exact, shape = zip(*((f.exact, f.shape) for text in texts for f in functions(text.encode(), "m")), strict=True)
    assert [one == exact[0] for one in exact] == [True, True, False, False]
    assert [one == shape[0] for one in shape] == [True, True, True, False]


def test_lexemes_leave_out_comments_and_what_strings_and_numbers_hold():
    words, starts = lexemes(b"x = rb'a' + \"b#\" * 3.5e1 # c\nreturn'd'")
    others, _ = lexemes(b"x = '''e''' + 'f' * 0\nreturn ''")
    assert words == others
    assert starts[:3] == [0, 2, 4]


def arrays(texts):
    found = [f for text in texts for f in functions(text.encode(), "m")]
    tokens = [lexemes(f.source)[0] for f in found]
    digests = np.frombuffer(b"".join(d for f in found for d in (f.exact, f.shape)), "S16").view("<u8").reshape(-1, 2, 2)
    at = np.cumsum([0, *map(len, tokens)])
    return {"digests": digests, "tokens": np.concatenate(tokens).astype(np.uint32), "token_at": at}


def test_no_test_function_has_a_copy_a_renamed_copy_or_a_near_copy_in_training():
    body = "".join(f"    a{i} = b{i}(c{i}, d{i})\n" for i in range(30))
    near_copy = body.replace("b7(", "b7[0](")
    far = "".join(f"    e{i} = g{i}[h{i}] + {i}\n" for i in range(30))
    texts = [
        f"def f():\n{body}",
        f"def f():\n\n{body}",
        f"def g():\n{body.replace('a', 'z')}",
        f"def f():\n{near_copy}",
        f"def h():\n{far}",
        f"def h():\n{far}",
    ]
    train, test = leaks(arrays(texts), np.array([True, False, False, False, False, False]))
    assert train.tolist() == [False, False, False, False, True, False]
    assert test.tolist() == [True, False, False, False, False, False]


def test_near_copies_are_those_with_a_jaccard_index_above_its_bound():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**32, 400, dtype=np.uint32)
    functions = [base]
    for changed in (5, 10, 20, 40, 80, 160):
        other = base.copy()
        other[rng.choice(396, changed, replace=False)] = rng.integers(0, 2**32, changed, dtype=np.uint32)
        functions.append(other)
    tokens, at = np.concatenate(functions), np.cumsum([0, *map(len, functions)])
    grams, cuts = shingles(tokens, at)
    sets = [set(grams[a:b].tolist()) for a, b in pairwise(cuts)]
    index = [len(sets[0] & other) / len(sets[0] | other) for other in sets[1:]]
    expected = [i for i, value in enumerate(index, 1) if value > 0.8]
    assert 0 < len(expected) < 6
    assert near(grams, cuts, np.arange(1, 7), np.array([0])).tolist() == expected


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package in a folder, and the same as a wheel."""
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = tmp_path / "box"
    (home / "tests").mkdir(parents=True)
    (home / "__init__.py").write_text("")
    (home / "tests" / "skipped.py").write_bytes(SOURCE)
    (home / "broken.py").write_text("def f(:\n")
    for number in range(20):
        text = SOURCE.decode().replace("def f(", f"def f{number}(").replace("zeros(3)", f"zeros({number}) + y{number}")
        (home / f"lid{number}.py").write_text(text)
    with zipfile.ZipFile(tmp_path / "box-1.0-py3-none-any.whl", "w") as wheel:
        for file in sorted(home.rglob("*.py")):
            wheel.write(file, f"box/{file.relative_to(home)}")
    return home


def test_code_is_read_once_alike_from_folder_and_wheel(folder):
    whole = read([str(folder)], 0.2)
    wheel = read([str(folder.parent / "box-1.0-py3-none-any.whl")], 0.2)
    [about], [other] = whole.origins, wheel.origins
    assert (about["files"], about["unread"], about["functions"], about["sites"]) == (22, 1, 40, 20 * 11)
    assert other["version"] == "1.0"
    assert about["sha256"] == other["sha256"]
    assert read([str(folder)], 0.2) is whole
    files = np.array(whole.card["files"])[whole.arrays["file"]]
    assert not set(files[whole.train]) & set(files[whole.test])
    assert whole.test.any()
    assert "def f" in whole.source(0).decode()
    function, api, before, start, end, *_ = whole.sites[0]
    assert whole.source(function)[start:end].decode() == whole.apis[api].rpartition(".")[2]
    assert lexemes(whole.source(function))[1][before] == start


def test_code_that_is_not_there():
    with pytest.raises(Mistake, match=r"^There is no code named 'nowhere': it is neither installed"):
        origins("nowhere")
