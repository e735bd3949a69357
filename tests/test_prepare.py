import gzip
import hashlib
import json
import os
import pickle
import shutil
import sys
import time
import types
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from clbench import image_folder
from clbench import prepare as module
from clbench.datasets import open_dataset, verify
from clbench.downloads import SUPERCLASSES, TORCHVISION
from clbench.errors import Mistake
from clbench.prepare import prepare
from clbench.vision import torchvision


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def raw():
    return torchvision().datasets


def mistake(call, *arguments, **options):
    with pytest.raises(Mistake) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def image(file, value=0, size=(8, 6), mode="RGB"):
    """An image of one colour; its red channel is `value`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 7, 9)).save(file)


def tree(folder, *places, count=4, **options):
    """`count` images in each of the places, whose values count up from 0."""
    for i, place in enumerate(places):
        for j in range(count):
            image(folder / place / f"{j}.png", count * i + j, **options)
    return folder


def reds(dataset, split):
    return dataset.splits[split]["x"][:, 0, 0, 0].tolist()


def left_over(home):
    return sorted(path.name for path in home.iterdir()) if home.exists() else []


def test_folder_of_classes_is_split_by_a_seed(home, tmp_path):
    source = tree(tmp_path / "pets", "dog", "cat", "train", count=10)
    assert prepare("pets", source) == home / "pets"
    dataset = open_dataset("pets")
    assert (dataset.name, dataset.classes, dataset.fields) == ("pets", ["cat", "dog", "train"], {})
    assert dataset.shape == (6, 8, 3)
    assert [np.bincount(dataset.splits[s]["y"]).tolist() for s in ("train", "test")] == [[7, 7, 7], [3, 3, 3]]
    assert sorted(reds(dataset, "train") + reds(dataset, "test")) == list(range(30))
    for split in ("train", "test"):
        klass = [dataset.classes.index(["dog", "cat", "train"][red // 10]) for red in reds(dataset, split)]
        assert klass == dataset.splits[split]["y"].tolist()
    assert dataset.source == f"{source}, 30 % of each class for test by seed 0"
    prepare("others", source, share=0.5, seed=3)
    assert len(reds(open_dataset("others"), "test")) == 15
    assert prepare("again", source, seed=0).exists()
    assert open_dataset("again").checksum == dataset.checksum


@pytest.mark.parametrize("held", ["test", "val", "valid"])
def test_folders_of_train_and_test(tmp_path, held):
    source = tree(tmp_path / "pets", "train/cat", "train/dog", f"{held}/cat", f"{held}/dog")
    prepare("pets", source)
    dataset = open_dataset("pets")
    assert dataset.classes == ["cat", "dog"]
    assert (reds(dataset, "train"), reds(dataset, "test")) == (list(range(8)), list(range(8, 16)))
    assert dataset.splits["test"]["y"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert dataset.source == str(source)


def test_of_test_and_val_test_is_taken_and_the_other_named(tmp_path):
    source = tree(tmp_path / "pets", "test/cat", "train/cat", "val/cat")
    image(source / "cover.png")
    prepare("pets", source)
    assert reds(open_dataset("pets"), "test") == [0, 1, 2, 3]
    assert open_dataset("pets").source == f"{source}, without its val"


def test_folders_of_domains_are_split_within_each(tmp_path):
    source = tree(tmp_path / "pets", "sketch/cat", "photo/cat", "photo/dog", count=10)
    prepare("pets", source)
    dataset = open_dataset("pets")
    assert (dataset.classes, dataset.fields) == (["cat", "dog"], {"domain": ["photo", "sketch"]})
    groups = [(half["domain"] * 2 + half["y"]).tolist() for half in dataset.splits.values()]
    assert [np.bincount(group).tolist() for group in groups] == [[7, 7, 7], [3, 3, 3]]
    assert [1 if red < 10 else 0 for red in reds(dataset, "train")] == dataset.splits["train"]["domain"].tolist()


def test_folders_of_train_and_test_and_domains(tmp_path):
    places = [f"{split}/{domain}/{klass}" for split in ("train", "val") for domain in "ab" for klass in ("cat", "dog")]
    prepare("pets", tree(tmp_path / "pets", *places, count=1))
    dataset = open_dataset("pets")
    assert dataset.fields == {"domain": ["a", "b"]}
    assert reds(dataset, "test") == [4, 5, 6, 7]
    assert dataset.splits["test"]["domain"].tolist() == [0, 0, 1, 1]
    assert dataset.splits["test"]["y"].tolist() == [0, 1, 0, 1]


def test_hidden_and_other_files_are_passed_over(tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    for name in (".hidden/x/a.png", "cat/.a.png", "__MACOSX/b.png", "cat/notes.txt", "README.md"):
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_text("no image")
    shutil.move(source / "cat/0.png", source / "cat/0.PNG")
    prepare("pets", source)
    assert sum(len(half["y"]) for half in open_dataset("pets").splits.values()) == 8


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (["train/cat", "train/dog"], "has train but no test, val, valid beside it; to split train by a seed, give"),
        (["test/cat"], "has test but no train beside it"),
        ([".", "cat"], "images lie in CLASS or in DOMAIN/CLASS, all alike"),
        (["cat", "photo/dog"], "there are cat/0.png and photo/dog/0.png"),
        (["a/b/c"], "there are a/b/c/0.png"),
        (["."], "there are 0.png"),
        (
            ["cat/monday", "dog/tuesday"],
            "the domain 'cat' has no class of the others (it has monday, they have tuesday)",
        ),
        (["train/cat", "train/dog", "test/cat"], "Class 'dog' has no test image"),
        (["train/cat", "test/dog", "test/cat"], "Class 'dog' has no train image"),
        ([], "holds no images (.bmp"),
    ],
)
def test_folders_that_cannot_be_read_as_a_data_set(home, tmp_path, places, says):
    (tmp_path / "pets").mkdir()
    text = mistake(prepare, "pets", tree(tmp_path / "pets", *places))
    assert says in text
    assert str(tmp_path / "pets") in text
    assert left_over(home) == []


def test_a_class_with_one_image_cannot_be_split(tmp_path):
    source = tree(tmp_path / "pets", "cat")
    image(source / "dog" / "0.png")
    assert mistake(prepare, "pets", source).startswith("Class 'dog' has no test image")


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_a_damaged_image_is_named(home, tmp_path, damage):
    source = tree(tmp_path / "pets", "cat", "dog", size=(40, 40))
    file = source / "dog" / "2.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes({"text": b"no image", "cut": file.read_bytes()[:2000], "empty": b""}[damage])
    text = mistake(prepare, "pets", source)
    assert text.startswith(f"{file} is no image that Pillow can read (")
    assert left_over(home) == []


def test_more_than_8_bits_are_refused(tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    Image.fromarray(np.full((6, 8), 3000, np.uint16)).save(source / "dog" / "1.png")
    assert mistake(prepare, "pets", source).startswith(f"{source}/dog/1.png has more than 8 bits a channel")


def test_different_sizes_need_a_resolution(home, tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog", size=(50, 40))
    image(source / "dog" / "9.png", 77, size=(64, 80))
    text = mistake(prepare, "pets", source)
    assert f"({source}/cat/0.png: 50 x 40, {source}/dog/9.png: 64 x 80): give a resolution, for instance 32." in text
    assert left_over(home) == []
    prepare("pets", source, resolution=32)
    dataset = open_dataset("pets")
    assert dataset.shape == (32, 32, 3)
    assert sorted(reds(dataset, "train") + reds(dataset, "test")) == [*range(8), 77]


def test_the_middle_square_is_kept(tmp_path):
    for klass in ("cat", "dog"):
        for i in range(2):
            image(tmp_path / "pets" / klass / f"{i}.png", size=(8, 4))
            stripes = np.zeros((4, 8), np.uint8)
            stripes[:, 2:6] = 200
            Image.fromarray(stripes).save(tmp_path / "pets" / klass / f"{i}.png")
    for side in (2, 4, 16):
        prepare(f"pets{side}", tmp_path / "pets", resolution=side)
        assert (open_dataset(f"pets{side}").splits["train"]["x"] == 200).all()


@pytest.mark.parametrize(("other", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3)])
def test_channels_are_one_where_all_are_grey(tmp_path, other, channels):
    source = tree(tmp_path / "pets", "cat", "dog", mode="L")
    suffix = "tif" if other == "CMYK" else "png"
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(other).save(source / "dog" / f"9.{suffix}")
    prepare("pets", source)
    dataset = open_dataset("pets")
    assert dataset.shape == (6, 8, channels)
    assert sorted(reds(dataset, "train") + reds(dataset, "test")) == [*range(8), 255]


def test_a_palette_with_transparency(tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    picture = Image.new("RGB", (8, 6), (200, 7, 9)).convert("P")
    picture.save(source / "dog" / "9.png", transparency=bytes(range(256)))
    prepare("pets", source)
    dataset = open_dataset("pets")
    assert max(reds(dataset, "train") + reds(dataset, "test")) in range(180, 220)


def test_the_card_is_that_of_the_format(home, tmp_path):
    folder = prepare("pets", tree(tmp_path / "pets", "a/cat", "b/cat"))
    card = json.loads((folder / "dataset.json").read_text())
    assert list(card) == ["name", "classes", "fields", "splits", "shape", "source", "licence", "sha256"]
    assert card["splits"] == {"train": 6, "test": 2}
    assert card["sha256"] == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.npy"))
    }
    for file in folder.glob("*.npy"):
        np.save(home / "copy.npy", np.load(file))
        assert (home / "copy.npy").read_bytes() == file.read_bytes()


def test_a_prepared_data_set_is_a_source(tmp_path):
    folder = prepare("pets", tree(tmp_path / "pets", "a/cat", "b/cat"))
    prepare("copy", folder)
    assert open_dataset("copy").checksum == open_dataset("pets").checksum
    assert open_dataset("copy").source == open_dataset("pets").source
    prepare("small", folder, resolution=4)
    assert open_dataset("small").shape == (4, 4, 3)


def test_what_is_there_stays_unless_again(home, tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    folder = prepare("pets", source)
    card = (folder / "dataset.json").stat().st_mtime_ns
    assert prepare("pets", source) == folder
    assert (folder / "dataset.json").stat().st_mtime_ns == card
    text = mistake(prepare, "pets", source, seed=1)
    assert text.endswith("30 % of each class for test by seed 0: --again replaces it, another name keeps both.")
    assert "is there already, 6 x 8 x 3" in mistake(prepare, "pets", source, resolution=4)
    checksum = open_dataset("pets").checksum
    prepare("pets", source, seed=1, again=True)
    assert open_dataset("pets").checksum != checksum
    assert left_over(home) == ["pets"]


def test_damage_is_mended_by_again(tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    folder = prepare("pets", source)
    checksum = open_dataset("pets").checksum
    (folder / "test_x.npy").write_bytes(b"")
    assert "--again" in mistake(prepare, "pets", source)
    prepare("pets", source, again=True)
    verify("pets")
    assert open_dataset("pets").checksum == checksum


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("no space left"), Mistake("no")])
def test_a_preparation_that_breaks_off_leaves_all_as_it_was(home, tmp_path, monkeypatch, failure):
    source = tree(tmp_path / "pets", "cat", "dog", count=100)
    prepare("pets", source)
    decode, calls = image_folder._decode, []

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == 150:
            raise failure
        return decode(*arguments)

    monkeypatch.setattr(image_folder, "_decode", breaking)
    for name in ("pets", "others"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else Mistake):
            prepare(name, source, again=True)
    assert left_over(home) == ["pets"]
    verify("pets")


def test_what_a_killed_preparation_left_goes_after_a_day(home, tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    for name, age in ((".pets.0123", 90_000), (".pets.4567", 100), (".cats.0123", 90_000)):
        (home / name / "new").mkdir(parents=True)
        os.utime(home / name, (time.time() - age,) * 2)
    prepare("pets", source)
    assert left_over(home) == [".cats.0123", ".pets.4567", "pets"]


def test_files_of_others_are_never_replaced(home, tmp_path):
    tree(home / "pets", "cat", "dog")
    assert f"{home / 'pets'} holds what is no prepared data set (cat)" in mistake(prepare, "pets", home / "pets")
    (home / "mine").write_text("")
    assert "(mine)" in mistake(prepare, "mine", home / "pets", again=True)
    folder = prepare("cats", home / "pets")
    (folder / "thesis.tex").write_text("")
    assert "(thesis.tex)" in mistake(prepare, "cats", home / "pets", again=True)
    (folder / "thesis.tex").unlink()
    (folder / "dataset.json").unlink()
    assert "(test_x.npy)" in mistake(prepare, "cats", home / "pets", again=True)


def test_another_process_may_be_first(home, tmp_path, monkeypatch):
    source = tree(tmp_path / "pets", "cat", "dog")
    fill = module._fill

    def overtaken(draft, folder):
        monkeypatch.setattr(module, "_fill", fill)
        prepare("pets", source)
        return fill(draft, folder)

    monkeypatch.setattr(module, "_fill", overtaken)
    prepare("pets", source)
    verify("pets")
    assert left_over(home) == ["pets"]


def test_places_that_cannot_be_written(home, tmp_path, monkeypatch):
    source = tree(tmp_path / "pets", "cat", "dog")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
        assert "needs 0.00 GB, 0.00 GB are free. CLBENCH_DATA can name" in mistake(prepare, "pets", source)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "file"))
    text = mistake(prepare, "pets", source)
    assert text.startswith(f"{tmp_path}/file/pets cannot be written (")
    assert "cannot be written" in mistake(open_dataset, source)


def test_arguments_that_make_no_sense(tmp_path):
    source = tree(tmp_path / "pets", "cat", "dog")
    assert "The digits are embedded" in mistake(prepare, "digits")
    assert "cannot be named '../pets'" in mistake(prepare, "../pets", source)
    assert "cannot be named '.raw'" in mistake(prepare, ".raw", source)
    assert "1 or more, not 0" in mistake(prepare, "pets", source, resolution=0)
    assert "between 0 and 1, not 30" in mistake(prepare, "pets", source, share=30)
    text = mistake(prepare, "cifar11")
    assert "no data set to download named 'cifar11'. Did you mean 'cifar10'?" in text
    assert text.endswith("For data of your own: --from FOLDER.")
    assert mistake(prepare, "pets", Path("/nowhere")) == "There is no folder or file /nowhere."
    (tmp_path / "a.csv").write_text("")
    assert mistake(prepare, "pets", tmp_path / "a.csv") == f"{tmp_path}/a.csv is neither a folder nor an .npz file."


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"


def images(n, *shape, first=0):
    return np.broadcast_to(np.arange(first, first + n, dtype=np.uint8).reshape(n, *[1] * len(shape)), (n, *shape))


@pytest.mark.parametrize("key", ["{label}_{split}", "{split}_{label}"])
def test_npz_with_a_split(tmp_path, key):
    arrays: dict[str, np.ndarray] = {}
    for split, n, first in (("train", 6, 0), ("test", 3, 6)):
        values = {
            "x": images(n, 4, 5, first=first),
            "y": np.arange(n)[:, None] % 3 + 1,
            "domain": np.array(["b", "a", "b"] * 2)[:n],
        }
        arrays |= {key.format(split=split, label=label): value for label, value in values.items()}
    prepare("mine", npz(tmp_path, **arrays, mean=np.zeros(3)))
    dataset = open_dataset("mine")
    assert (dataset.shape, dataset.classes) == ((4, 5, 1), ["1", "2", "3"])
    assert dataset.fields == {"domain": ["a", "b"]}
    assert (reds(dataset, "train"), reds(dataset, "test")) == ([0, 1, 2, 3, 4, 5], [6, 7, 8])
    assert dataset.splits["test"]["y"].tolist() == [0, 1, 2]
    assert dataset.splits["train"]["domain"].tolist() == [1, 0, 1, 1, 0, 1]


def test_npz_split_by_a_seed(tmp_path):
    y, corner = np.arange(20) % 2, np.arange(20) // 10
    file = npz(tmp_path, x=images(20, 4, 4, 3), y=y, corner=corner, classes=np.array(["cat", "dog"]))
    prepare("mine", file)
    dataset = open_dataset("mine")
    assert (dataset.shape, dataset.classes, dataset.fields) == ((4, 4, 3), ["cat", "dog"], {"corner": ["0", "1"]})
    assert np.bincount(dataset.splits["test"]["y"]).tolist() == [3, 3]
    for split in ("train", "test"):
        assert dataset.splits[split]["y"].tolist() == [red % 2 for red in reds(dataset, split)]
        assert dataset.splits[split]["corner"].tolist() == [red // 10 for red in reds(dataset, split)]
    assert open_dataset(file).checksum == dataset.checksum
    assert open_dataset(file).name == "arrays"
    assert open_dataset(file, 2).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": images(4, 3, 3) / 255.0}, "x is float64; images are uint8: (x * 255).round().astype('uint8') where"),
        ({"x": images(4, 3, 3).astype(np.int64)}, "x is int64; images are uint8: x.astype('uint8') where"),
        ({"x": images(4, 3, 8, 8)}, "has shape (4, 3, 8, 8); images are N x H x W or N x H x W x C"),
        ({"x": images(4, 3, 8, 8)}, "; x.transpose(0, 2, 3, 1) puts the channels last"),
        ({"x": images(4, 64)}, "has shape (4, 64)"),
        ({"x": images(0, 4, 4), "y": np.arange(0)}, "has shape (0, 4, 4, 1)"),
        ({"y": np.arange(4.0)}, "y is float64 of shape (4,); there must be 4 labels"),
        ({"y": np.arange(5)}, "y is int64 of shape (5,); there must be 4 labels"),
        ({"y": np.array([0, 0, -1, -1])}, "whole numbers from 0"),
        ({"age": np.zeros((4, 2))}, "age is float64"),
        ({"classes": np.array(["a"])}, "classes must hold a name for each number in y"),
        ({"classes": np.array(["a", "b", "c"])}, "Class 'c' has no train image"),
        ({"x": np.array([None] * 4)}, "cannot be read as an .npz of arrays"),
    ],
)
def test_npz_that_cannot_be_read(home, tmp_path, arrays, says):
    text = mistake(prepare, "mine", npz(tmp_path, **{"x": images(4, 3, 3), "y": np.array([0, 0, 1, 1]), **arrays}))
    assert says in text
    assert str(tmp_path / "arrays.npz") in text
    assert left_over(home) == []


def test_npz_with_halves_that_do_not_fit(tmp_path):
    whole = {"train_x": images(4, 3, 3), "train_y": np.arange(4), "test_x": images(4, 3, 3), "test_y": np.arange(4)}
    keys = "must hold train_x, train_y, test_x and test_y, or x and y; it holds"
    assert f"{keys} train_x." in mistake(prepare, "mine", npz(tmp_path, train_x=images(4, 3, 3)))
    assert f"{keys} nothing." in mistake(prepare, "mine", npz(tmp_path))
    text = mistake(prepare, "mine", npz(tmp_path, **whole, train_age=np.arange(4)))
    assert "train and test differ" in text
    assert "train and test differ" in mistake(prepare, "mine", npz(tmp_path, **{**whole, "test_x": images(4, 5, 5)}))
    assert "x of train is float64" in mistake(
        prepare, "mine", npz(tmp_path, **{**whole, "train_x": np.ones((4, 3, 3))})
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "array", "text"])
def test_npz_that_is_damaged(tmp_path, damage):
    file = tmp_path / "arrays.npz"
    noise = np.random.default_rng(0).integers(0, 9, (4, 20, 20)).astype(np.uint8)
    np.savez_compressed(file, x=noise, y=np.arange(4))
    content = bytearray(file.read_bytes())
    content[200:210] = bytes(10)
    if damage == "array":
        with file.open("wb") as handle:
            np.save(handle, np.arange(4))
    else:
        file.write_bytes({"cut": content[:500], "flipped": content, "text": b"no arrays"}[damage])
    assert mistake(prepare, "mine", file).startswith(f"{file} cannot be read as an .npz of arrays (")


def idx(file, array):
    """The format of the MNIST family."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    file.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def mnist(folder, maker="MNIST"):
    for name, n in (("train", 20), ("t10k", 10)):
        idx(folder / maker / "raw" / f"{name}-images-idx3-ubyte", images(n, 28, 28, first=n))
        idx(folder / maker / "raw" / f"{name}-labels-idx1-ubyte", np.arange(n) % 10)
    return folder


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "maker", "third"),
    [("mnist", "MNIST", "2"), ("fashion_mnist", "FashionMNIST", "Pullover"), ("kmnist", "KMNIST", "su")],
)
def test_mnist_and_its_kin_from_raw_files(raw, tmp_path, name, maker, third):
    prepare(name, mnist(tmp_path / "raw", maker))
    dataset = open_dataset(name)
    assert (dataset.shape, dataset.classes[2], len(dataset.classes)) == ((28, 28, 1), third, 10)
    assert (reds(dataset, "train"), reds(dataset, "test")) == (list(range(20, 40)), list(range(10, 20)))
    assert dataset.splits["train"]["y"].tolist() == [*range(10), *range(10)]
    assert dataset.source == TORCHVISION[name].source


def test_raw_files_may_be_packed(raw, tmp_path, monkeypatch):
    folder, packed = mnist(tmp_path / "raw") / "MNIST" / "raw", []
    for file in sorted(folder.iterdir()):
        archive = file.with_name(f"{file.name}.gz")
        archive.write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        packed.append((archive.name, md5(archive)))
    monkeypatch.setattr(raw.MNIST, "resources", packed)
    monkeypatch.setattr(urllib.request, "urlopen", None)
    prepare("mnist", tmp_path / "raw", resolution=32)
    assert open_dataset("mnist").shape == (32, 32, 1)
    (folder / packed[0][0]).write_bytes(b"cut")
    (folder / packed[0][0].removesuffix(".gz")).unlink()
    text = mistake(prepare, "mnist", tmp_path / "raw", again=True)
    assert f"of mnist's raw files it lacks MNIST/raw/{packed[0][0]}, or has them damaged" in text


def test_damaged_raw_files(raw, tmp_path):
    mnist(tmp_path / "raw")
    (tmp_path / "raw/MNIST/raw/train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0]))
    text = mistake(prepare, "mnist", tmp_path / "raw")
    assert text.startswith(f"The raw files of mnist in {tmp_path}/raw are damaged (")


def cifar(monkeypatch, maker, folder, labels, meta):
    """Raw files of CIFAR, whose checksums torchvision is told."""
    folder = folder / maker.base_folder
    folder.mkdir(parents=True)
    listed = {}
    for i, name in enumerate(name for name, _ in [*maker.train_list, *maker.test_list]):
        data = np.full((100, 3072), i, np.uint8)
        data[:, 1024:2048] = 50
        (folder / name).write_bytes(pickle.dumps({"data": data, **labels}))
        listed[name] = md5(folder / name)
    (folder / maker.meta["filename"]).write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(maker, "meta", {**maker.meta, "md5": md5(folder / maker.meta["filename"])})
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(maker, attribute, [[name, listed[name]] for name, _ in getattr(maker, attribute)])
    return folder.parent


def test_cifar10_from_raw_files(raw, tmp_path, monkeypatch):
    names = ["airplane", *"bcdefghij"]
    prepare(
        "cifar10",
        cifar(monkeypatch, raw.CIFAR10, tmp_path / "raw", {"labels": [*range(10)] * 10}, {"label_names": names}),
    )
    dataset = open_dataset("cifar10")
    assert (dataset.shape, dataset.classes) == ((32, 32, 3), names)
    assert dataset.splits["train"]["x"][450, 3, 5].tolist() == [4, 50, 4]
    assert dataset.splits["test"]["x"][0, 31, 0].tolist() == [5, 50, 5]
    assert (dataset.splits["train"]["y"][:3].tolist(), len(dataset.splits["train"]["y"])) == ([0, 1, 2], 500)


def test_cifar100_from_raw_files_has_its_superclasses(raw, tmp_path, monkeypatch):
    names = sorted(fine for group in SUPERCLASSES.values() for fine in group.split())
    assert (len(names), len(set(names)), len(SUPERCLASSES)) == (100, 100, 20)
    source = cifar(
        monkeypatch, raw.CIFAR100, tmp_path / "raw", {"fine_labels": [*range(100)]}, {"fine_label_names": names}
    )
    prepare("cifar100", source)
    dataset = open_dataset("cifar100")
    first_twenty = [4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11]
    assert dataset.splits["test"]["coarse"][:20].tolist() == first_twenty
    assert np.bincount(dataset.splits["train"]["coarse"]).tolist() == [5] * 20
    assert dataset.fields["coarse"][14] == "people"


def test_svhn_from_raw_files(raw, tmp_path, monkeypatch):
    from scipy.io import savemat

    (tmp_path / "raw").mkdir()
    listed = {}
    for split in ("train", "test"):
        file = tmp_path / "raw" / f"{split}_32x32.mat"
        x = np.zeros((32, 32, 3, 20), np.uint8)
        x[3, 5, 1] = np.arange(20)
        savemat(file, {"X": x, "y": (np.arange(20) % 10 + 1)[:, None]})
        listed[split] = ["http://nowhere.invalid/" + file.name, file.name, md5(file)]
    monkeypatch.setattr(raw.SVHN, "split_list", listed)
    prepare("svhn", tmp_path / "raw")
    dataset = open_dataset("svhn")
    assert dataset.classes == list("0123456789")
    assert dataset.splits["train"]["x"][7, 3, 5].tolist() == [0, 7, 0]
    assert dataset.splits["train"]["y"][:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.parametrize("name", list(TORCHVISION))
def test_without_a_network(raw, home, monkeypatch, name):
    def refuse(*arguments, **options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    text = mistake(prepare, name)
    assert text.startswith(f"{name} could not be downloaded (")
    assert "Name or service not known" in text
    assert text.endswith(f" into FOLDER, then clbench data prepare {name} --from FOLDER")
    assert left_over(home) in ([".raw"], [])


def test_images_may_bear_the_name_of_a_known_set(tmp_path):
    prepare("mnist", tree(tmp_path / "mnist", "0", "1"))
    assert open_dataset("mnist").classes == ["0", "1"]


def test_a_source_without_raw_files_or_images(raw, tmp_path):
    text = mistake(prepare, "cifar100", tmp_path)
    assert f"{tmp_path} has no images, and of cifar100's raw files it lacks cifar-100-python.tar.gz" in text


def test_a_torchvision_that_cannot_be_imported(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision cannot be imported" in mistake(prepare, "cifar100")
