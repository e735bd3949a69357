import gzip
import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clbench import datasets, prepare
from clbench.datasets import available, checksum, load, open_dataset, root, split_by, verify
from clbench.downloads import SUPERCLASSES, TORCHVISION
from clbench.errors import Mistake

REAL = os.environ.get("CLBENCH_DATA")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


def written(folder, seed=0, **changes):
    """A prepared data set, written by hand: 3 classes, 2 domains, 12 + 6 images of 6 x 6 x 3."""
    rng, sums = np.random.default_rng(seed), {}
    folder.mkdir(parents=True)
    for split, n in (("train", 12), ("test", 6)):
        arrays = {
            "x": rng.integers(0, 256, (n, 6, 6, 3)).astype(np.uint8),
            "y": np.arange(n) % 3,
            "domain": np.arange(n) % 2,
        }
        for label, array in arrays.items():
            file = f"{split}_{label}.npy"
            np.save(folder / file, changes.get(file[:-4], array))
            sums[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    card = {
        "name": folder.name, "classes": ["a", "b", "c"], "fields": {"domain": ["photo", "sketch"]},
        "splits": {"train": 12, "test": 6}, "shape": [6, 6, 3], "source": "made up", "licence": "none", "sha256": sums,
    }  # fmt: skip
    card.update((key, value) for key, value in changes.items() if key in card)
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in card.items() if v is not None}))
    return folder


def mistake(call, *arguments, **options):
    with pytest.raises(Mistake) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flip(file):
    """Changes one byte and neither size nor time."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_digits_are_split_exactly():
    dataset = open_dataset("digits")
    train, test = dataset.splits["train"], dataset.splits["test"]
    of_class = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    in_test = [53, 55, 53, 55, 54, 55, 54, 54, 52, 54]
    assert np.bincount(test["y"]).tolist() == in_test
    assert np.bincount(train["y"]).tolist() == [all_ - held for all_, held in zip(of_class, in_test, strict=True)]
    assert train["x"].shape == (1258, 8, 8, 1)
    assert (train["x"].dtype, train["y"].dtype) == (np.uint8, np.int64)
    assert dataset.classes == list("0123456789")
    assert dataset.checksum == "bf5107bf46b31a9a204c6944bcecf3c399f2d5ddf7d45f5fb3e6ac1f75d5e5f2"


def test_digits_hold_every_sample_once():
    dataset = open_dataset("digits")
    spec = find_spec("sklearn")
    assert spec
    assert spec.origin
    file = Path(spec.origin).parent / "datasets/data/digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        rows = [[int(v) for v in line.split(",")] for line in lines]
    expected = sorted((row[64], bytes((v * 255 + 8) // 16 for v in row[:64])) for row in rows)
    halves = dataset.splits.values()
    assert (
        sorted((int(y), x.tobytes()) for half in halves for x, y in zip(half["x"], half["y"], strict=True)) == expected
    )


def test_digits_need_no_heavy_import():
    code = (
        "import sys; from clbench.datasets import available, open_dataset; open_dataset('digits'); available();"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'torchvision', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    assert "pip install scikit-learn" in mistake(open_dataset, "digits")


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(datasets, "split_by", lambda y: split_by(y, seed=1))
    assert "does not hold the digits" in mistake(verify, "digits")


def test_split_by_takes_a_share_of_each_group():
    groups = np.repeat([0, 1, 2, 3], [10, 100, 2, 1])
    test = split_by(groups, 0.3, 0)
    assert np.bincount(groups[test], minlength=4).tolist() == [3, 30, 1, 0]
    assert np.array_equal(test, split_by(groups, 0.3, 0))
    assert not np.array_equal(test, split_by(groups, 0.3, 1))
    assert np.bincount(groups[split_by(groups, 0.99)], minlength=4).tolist() == [9, 99, 1, 0]
    assert np.flatnonzero(split_by(np.zeros(10))).tolist() == [
        1,
        2,
        3,
    ]  # the three least of .637 .270 .041 .017 .813 .913 .607 .729 .544 .935


@pytest.mark.parametrize("by", ["name", "path", "text"])
def test_opens_by_name_and_by_path(home, by):
    folder = written(home / "tiny")
    dataset = open_dataset({"name": "tiny", "path": folder, "text": str(folder)}[by])
    assert (dataset.name, dataset.classes, dataset.shape) == ("tiny", ["a", "b", "c"], (6, 6, 3))
    assert dataset.fields == {"domain": ["photo", "sketch"]}
    assert set(dataset.splits["test"]) == {"x", "y", "domain"}
    assert np.array_equal(dataset.splits["train"]["x"], np.load(folder / "train_x.npy"))
    assert np.array_equal(dataset.splits["test"]["domain"], np.arange(6) % 2)
    assert isinstance(dataset.splits["train"]["x"], np.memmap)


def test_writing_to_the_images_changes_no_file(home):
    folder = written(home / "tiny")
    before = (folder / "train_x.npy").read_bytes()
    x = open_dataset("tiny").splits["train"]["x"]
    x[:] = 0
    assert isinstance(x, np.memmap)
    x.flush()
    assert (folder / "train_x.npy").read_bytes() == before


def test_the_checksum_names_the_content(home):
    one, other = written(home / "one"), written(home / "other", seed=1)
    copy = written(home / "deeper" / "copy")
    assert load(one).checksum == load(copy).checksum != load(other).checksum
    assert checksum({"b": "2", "a": "1"}) == checksum({"a": "1", "b": "2"})
    assert checksum({"a": "1"}) == hashlib.sha256(b"1  a\n").hexdigest()


def test_a_second_open_hashes_nothing(home, monkeypatch):
    folder, sha256 = written(home / "tiny"), datasets.sha256
    hashed: list[str] = []

    def counted(path):
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr(datasets, "sha256", counted)
    open_dataset("tiny")
    assert len(hashed) == 6
    open_dataset("tiny")
    open_dataset(folder)
    assert len(hashed) == 6
    os.utime(folder / "test_y.npy", ns=(1, 1))
    open_dataset("tiny")
    assert hashed[6:] == ["test_y.npy"]
    verify("tiny")
    assert len(hashed) == 13


@pytest.mark.parametrize("file", ["train_x", "test_y", "train_domain"])
def test_a_flipped_bit_names_its_file(home, file):
    folder = written(home / "tiny")
    flip(folder / f"{file}.npy")
    text = mistake(open_dataset, "tiny")
    assert text.startswith(f"{folder / file}.npy is damaged")
    assert text.endswith("clbench data prepare tiny --from FOLDER --again")


def test_only_verify_sees_damage_behind_an_unchanged_time(home):
    folder = written(home / "mnist")
    verify("mnist")
    flip(folder / "test_x.npy")
    open_dataset("mnist")
    text = mistake(verify, "mnist")
    assert text.startswith(f"{folder}/test_x.npy is damaged")
    assert text.endswith("Mend it: clbench data prepare mnist --again")


def test_damage_elsewhere_asks_for_a_good_copy(tmp_path):
    folder = written(tmp_path / "elsewhere")
    (folder / "test_y.npy").unlink()
    text = mistake(open_dataset, folder)
    assert text.startswith(f"{folder}/test_y.npy cannot be read (No such file")
    assert text.endswith("Put a good copy in its place.")


@pytest.mark.parametrize("content", ["{", "[]", "", "\udcff"])
def test_an_unreadable_card(home, content):
    folder = written(home / "tiny")
    (folder / "dataset.json").write_text(content, errors="surrogateescape")
    assert mistake(open_dataset, "tiny").startswith(f"{folder}/dataset.json ")
    assert available()["tiny"].startswith("damaged: ")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": None}, "'classes' is missing"),
        ({"classes": [1, 2, 3]}, "'classes' is no list of names"),
        ({"fields": {"domain": "photo"}}, "'domain' is no list of names"),
        ({"fields": {"../y": ["photo"]}}, "'../y' cannot be part of a file's name"),
        ({"fields": {"y": ["a", "b", "c"]}}, "cannot be named x or y"),
        ({"fields": {}}, "'sha256' must name test_x.npy, test_y.npy, train_x.npy, train_y.npy"),
        ({"splits": {"train": 12}}, "no train and test"),
        ({"splits": {"train": 12, "test": 0}}, "above 0"),
        ({"splits": {"train": 12, "test": "6"}}, "above 0"),
        ({"shape": [6, 6, 4]}, "1 or 3 channels"),
        ({"sha256": {}}, "'sha256' must name test_domain.npy, test_x.npy"),
    ],
)
def test_a_malformed_card(home, changes, says):
    folder = written(home / "tiny", **changes)
    text = mistake(open_dataset, "tiny")
    assert text.startswith(f"{folder}/dataset.json is malformed: ")
    assert says in text


@pytest.mark.parametrize(
    ("file", "array", "says"),
    [
        ("train_x", np.zeros((12, 6, 6, 3)), "holds float64 of shape (12, 6, 6, 3); dataset.json asks for uint8"),
        ("train_x", np.zeros((11, 6, 6, 3), np.uint8), "of shape (12, 6, 6, 3)"),
        ("test_y", np.zeros(6, np.int32), "holds int32"),
        ("test_y", np.array([0, 1, 2, 3, 0, 0]), "holds labels from 0 to 3; dataset.json names 3"),
        ("train_y", np.full(12, -1), "labels from -1 to -1"),
        ("test_domain", np.full(6, 2), "names 2, so they must be from 0 to 1"),
        ("train_y", np.array([None] * 12), "no array that numpy can read"),
    ],
)
def test_an_array_that_is_not_of_the_format(home, file, array, says):
    folder = written(home / "tiny", **{file: array})
    text = mistake(open_dataset, "tiny")
    assert text.startswith(f"{folder / file}.npy ")
    assert says in text


def test_what_is_not_there():
    assert mistake(open_dataset, "cifar100").startswith(
        "The data set 'cifar100' is not here: clbench data prepare cifar100 (looked for "
    )
    text = mistake(open_dataset, "cifar1000")
    assert "no data set named 'cifar1000'. Did you mean 'cifar100'? There are: cifar10, cifar100, digits," in text
    assert mistake(open_dataset, "./cifar10") == f"There is no folder or file {Path('cifar10').absolute()}."
    assert mistake(verify, "/nowhere/pets") == "There is no folder or file /nowhere/pets."
    assert "no folder or file" in mistake(open_dataset, "")
    assert "1 or more" in mistake(open_dataset, "digits", resolution=0)


def test_where_data_lie(monkeypatch, tmp_path):
    assert root() == tmp_path / "data"
    monkeypatch.setenv("CLBENCH_DATA", "~/sets")
    monkeypatch.setenv("HOME", "/home/someone")
    assert root() == Path("/home/someone/sets")
    monkeypatch.delenv("CLBENCH_DATA")
    assert root() == tmp_path / "cache/clbench/data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert root() == Path("/home/someone/.cache/clbench/data")


def test_available(home):
    written(home / "pets")
    written(home / "mnist")
    written(home / ".cache" / "hidden")
    states = available()
    assert states["digits"] == "embedded"
    assert states["pets"] == states["mnist"] == "prepared, 12 + 6 images 6 x 6 x 3"
    assert states["cifar10"] == "not here: clbench data prepare cifar10"
    assert set(states) == {"digits", "pets", *TORCHVISION}


def test_a_cache_that_cannot_be_used_is_done_without(home, tmp_path, monkeypatch):
    written(home / "tiny")
    (tmp_path / "cache" / "clbench").mkdir(parents=True)
    (tmp_path / "cache" / "clbench" / "verified.json").write_text("[broken")
    open_dataset("tiny")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    dataset = open_dataset("tiny")
    assert dataset.moments() == dataset.moments()


def test_moments_are_those_of_the_training_pixels(home, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (3000, 32, 32, 3)).astype(np.uint8)
    x[..., 1] //= 2
    x[..., 2] = 51
    written(home / "tiny", train_x=x, train_y=np.arange(3000) % 3, train_domain=np.arange(3000) % 2,
            test_x=x[:6], shape=[32, 32, 3], splits={"train": 3000, "test": 6})  # fmt: skip
    mean, std = open_dataset("tiny").moments()
    assert np.allclose(mean, (x / 255).mean((0, 1, 2)), rtol=1e-12)
    assert np.allclose(std, (x / 255).std((0, 1, 2)), rtol=1e-12)
    assert (mean[2], std[2]) == (0.2, 0.0)
    monkeypatch.setattr(datasets, "_moments", None)
    assert open_dataset("tiny").moments() == (mean, std)


def test_the_same_resolution_makes_no_copy(home):
    written(home / "tiny")
    x = open_dataset("tiny", 6).splits["train"]["x"]
    assert isinstance(x, np.memmap)
    assert x.filename == home / "tiny" / "train_x.npy"
    assert not (home / ".cache").exists()


@pytest.mark.parametrize("name", ["tiny", "digits"])
def test_another_resolution_is_made_once(home, monkeypatch, name):
    written(home / "tiny")
    dataset, small = open_dataset(name), open_dataset(name, 4)
    assert (small.name, small.classes, small.fields) == (dataset.name, dataset.classes, dataset.fields)
    assert small.shape == (4, 4, dataset.shape[2])
    assert small.checksum != dataset.checksum
    assert np.array_equal(small.splits["test"]["y"], dataset.splits["test"]["y"])
    image = Image.fromarray(dataset.splits["test"]["x"][3].squeeze()).resize((4, 4), Image.Resampling.LANCZOS)
    assert np.array_equal(small.splits["test"]["x"][3].squeeze(), np.asarray(image))
    monkeypatch.setattr(prepare, "write", None)
    assert open_dataset(name, 4).checksum == small.checksum


def test_a_damaged_cache_is_made_again(home):
    written(home / "tiny")
    small = open_dataset("tiny", 4)
    (folder,) = (home / ".cache").iterdir()
    (folder / "test_x.npy").write_bytes(b"")
    assert open_dataset("tiny", 4).checksum == small.checksum


def test_a_folder_of_images_opens_by_its_path(home, tmp_path, monkeypatch):
    pets = tmp_path / "pets"
    for klass in ("cat", "dog"):
        (pets / klass).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 10 * i).save(pets / klass / f"{i}.png")
    dataset = open_dataset(pets)
    assert (dataset.name, dataset.classes, dataset.shape) == ("pets", ["cat", "dog"], (8, 8, 1))
    assert open_dataset(pets, 4).shape == (4, 4, 1)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write", None)
        assert open_dataset("pets").checksum == dataset.checksum
        assert open_dataset("./pets", 4).shape == (4, 4, 1)
    Image.new("L", (8, 8), 200).save(pets / "cat" / "4.png")
    assert sum(len(half["y"]) for half in open_dataset(pets).splits.values()) == 9


def test_a_folder_may_have_any_name(tmp_path):
    for klass in ("cat", "dog"):
        (tmp_path / "my pets, v1.5" / klass).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (8, 8), i).save(tmp_path / "my pets, v1.5" / klass / f"{i}.png")
    assert open_dataset(tmp_path / "my pets, v1.5").name == "my pets, v1.5"
    assert open_dataset(written(tmp_path / "tiny", name="../../tiny"), 4).shape == (4, 4, 3)
    assert len(list((root() / ".cache").iterdir())) == 2


def test_a_name_wins_over_a_path(home, tmp_path, monkeypatch):
    written(home / "tiny")
    written(tmp_path / "tiny", seed=1)
    monkeypatch.chdir(tmp_path)
    assert open_dataset("tiny").checksum != open_dataset("./tiny").checksum


@pytest.mark.skipif(
    not REAL or not Path(REAL, "cifar100", "dataset.json").exists(), reason="CLBENCH_DATA names no folder with cifar100"
)
def test_cifar100_as_it_is_known(monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", REAL or "")
    dataset = open_dataset("cifar100")
    mean, std = dataset.moments()
    assert np.allclose(mean, (0.5071, 0.4865, 0.4409), atol=1e-4)
    assert np.allclose(std, (0.2673, 0.2564, 0.2762), atol=1e-4)
    assert dataset.fields["coarse"] == list(SUPERCLASSES)
    for half in dataset.splits.values():
        for fine, coarse in {(int(y), int(c)) for y, c in zip(half["y"], half["coarse"], strict=True)}:
            assert dataset.classes[fine] in SUPERCLASSES[dataset.fields["coarse"][coarse]].split()
