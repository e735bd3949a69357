import json
import os
import pickle
import random

import pytest
import torch

from clbench import checkpoint
from clbench.checkpoint import load, save, write_atomically


def tensors(value):
    return {"a": torch.full((3,), float(value)), "b.c": torch.tensor(value), "empty": torch.zeros(0, 2)}


def saved(folder, *values):
    for value in values:
        save(folder, {"value": value, "nested": [None, {"x": 1.5}]}, tensors(value), {"step": 10 * value})


def loaded(folder):
    """(the number that was saved, or None; what was said)."""
    said: list[str] = []
    found = load(folder, said.append)
    if found is None:
        return None, said
    tree, held, files = found
    assert tree == {"value": tree["value"], "nested": [None, {"x": 1.5}]}
    assert files == {"step": 10 * tree["value"]}
    assert held.keys() == tensors(0).keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in tensors(tree["value"]).items())
    return tree["value"], said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    saved(tmp_path / "new" / "folder", 3)
    assert loaded(tmp_path / "new" / "folder") == (3, [])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.uint64]
)
def test_every_type_of_tensor(tmp_path, dtype):
    tensor = torch.tensor([0, 1, 1]).to(dtype)
    save(tmp_path, {}, {"x": tensor}, {})
    found = load(tmp_path, pytest.fail)[1]["x"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


def test_where_there_is_none(tmp_path):
    assert loaded(tmp_path / "nowhere") == (None, [])
    assert loaded(tmp_path) == (None, [])


def test_the_last_two_are_kept(tmp_path):
    saved(tmp_path, 1)
    assert len(names(tmp_path)) == 2
    saved(tmp_path, 2, 3, 4)
    assert len(names(tmp_path)) == 4
    assert loaded(tmp_path) == (4, [])
    (tmp_path / names(tmp_path)[-1]).unlink()
    assert loaded(tmp_path)[0] == 3


def damaged(path, how):
    content = bytearray(path.read_bytes())
    match how:
        case "cut":
            path.write_bytes(content[:-3])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "flipped":
            content[-1] ^= 1
            path.write_bytes(content)
        case "pickle":
            path.write_bytes(pickle.dumps({"tree": random.random}))


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped", "pickle"])
@pytest.mark.parametrize("kind", [".safetensors", ".json"])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path, kind, how):
    saved(tmp_path, 1, 2)
    newest = sorted(tmp_path.glob(f"*{kind}"))[-1]
    damaged(newest, how)
    value, said = loaded(tmp_path)
    assert value == 1
    assert len(said) == 1
    assert str(newest.with_suffix(".safetensors")) in said[0]
    assert said[0].endswith("going on from the one before it.")
    assert "\n" not in said[0]


def test_every_byte_counts(tmp_path):
    saved(tmp_path, 1, 2)
    newest = sorted(tmp_path.glob("*.safetensors"))[-1]
    whole = newest.read_bytes()
    for place in range(0, len(whole), 7):
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        assert loaded(tmp_path)[0] == 1
    newest.write_bytes(whole)
    assert loaded(tmp_path) == (2, [])


def test_where_none_is_whole_the_run_starts_over(tmp_path):
    saved(tmp_path, 1, 2)
    for path in tmp_path.glob("*.safetensors"):
        damaged(path, "flipped")
    value, said = loaded(tmp_path)
    assert value is None
    assert len(said) == 2
    assert said[1].endswith("there is none before it, so the run starts over.")


def test_a_manifest_of_another_checkpoint_does_not_count(tmp_path):
    saved(tmp_path, 1, 2)
    first, second = sorted(tmp_path.glob("*.json"))
    second.write_bytes(first.read_bytes())
    assert loaded(tmp_path)[0] == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": 5}', "null", "not json"])
def test_a_manifest_that_says_nothing(tmp_path, content):
    saved(tmp_path, 1, 2)
    sorted(tmp_path.glob("*.json"))[-1].write_text(content)
    value, said = loaded(tmp_path)
    assert (value, len(said)) == (1, 1)


class Killed(BaseException):
    """The process is gone."""


def killed_at(monkeypatch, function, call):
    """The process is killed when `os.function` is called for the n-th time."""
    real, calls = getattr(os, function), []

    def dies(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(checkpoint.os, function, dies)


@pytest.mark.parametrize(("function", "calls"), [("replace", 2), ("fsync", 4)])
def test_killed_at_any_point_of_saving_the_newest_whole_one_is_loaded(tmp_path, monkeypatch, function, calls):
    for call in range(1, calls + 1):
        folder = tmp_path / str(call)
        saved(folder, 1, 2)
        with monkeypatch.context() as patch:
            killed_at(patch, function, call)
            with pytest.raises(Killed):
                saved(folder, 3)
        assert loaded(folder)[0] in (2, 3)
        saved(folder, 4)
        assert loaded(folder) == (4, [])
        assert len(names(folder)) <= 5


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            killed_at(patch, function, 1)
            with pytest.raises(Killed):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_content_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    log: list[str] = []
    for function in ("fsync", "replace"):
        real = getattr(os, function)
        monkeypatch.setattr(checkpoint.os, function, lambda *a, f=function, r=real: (log.append(f), r(*a))[1])
    write_atomically(tmp_path / "file", b"content")
    assert log == ["fsync", "replace", "fsync"]


def test_the_manifest_comes_last_and_old_ones_go_after_it(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    written: list[str] = []
    real = os.replace

    def replace(source, target):
        written.append(target.suffix)
        assert len(list(tmp_path.glob("*.json"))) == 2
        real(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", replace)
    saved(tmp_path, 3)
    assert written == [".safetensors", ".json"]
    assert [json.loads(p.read_text()).keys() for p in tmp_path.glob("*.json")] == [{"sha256"}, {"sha256"}]
