"""Data sets that torchvision downloads and checks, or finds as raw files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clbench.datasets import root
from clbench.draft import Draft, of_arrays
from clbench.errors import Mistake
from clbench.vision import torchvision

SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
"""the 20 superclasses of CIFAR-100 and their classes, in the order of their labels"""


class Recipe(NamedTuple):
    """A data set that torchvision can download."""

    maker: str
    """the class in torchvision.datasets"""
    source: str
    licence: str


TORCHVISION = {
    "mnist": Recipe("MNIST", "MNIST (LeCun, Cortes, Burges)", "CC BY-SA 3.0"),
    "fashion_mnist": Recipe("FashionMNIST", "Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017)", "MIT"),
    "kmnist": Recipe("KMNIST", "Kuzushiji-MNIST (Clanuwat et al., 2018)", "CC BY-SA 4.0"),
    "cifar10": Recipe("CIFAR10", "CIFAR-10 (Krizhevsky, 2009)", "none stated; research use"),
    "cifar100": Recipe("CIFAR100", "CIFAR-100 (Krizhevsky, 2009)", "none stated; research use"),
    "svhn": Recipe("SVHN", "SVHN (Netzer et al., 2011)", "non-commercial use only"),
}


def of_torchvision(name: str, source: Path | None, resolution: int | None) -> Draft:
    """A draft from the files that torchvision downloads and checks, or finds in `source`."""
    try:
        makers = torchvision().datasets
    except ImportError as error:
        raise Mistake(f"torchvision cannot be imported ({error}): install the build that matches torch's.") from error
    recipe = TORCHVISION[name]
    halves = _raw_halves(name, getattr(makers, recipe.maker), source)
    x, labels = {}, {}
    for split, half in halves.items():
        images = np.asarray(half.data)
        if hasattr(half, "labels"):
            images = images.transpose(0, 2, 3, 1)
        x[split] = images if images.ndim == 4 else images[..., None]
        labels[split] = {"y": np.asarray(half.labels if hasattr(half, "labels") else half.targets)}
    classes = [each.partition(" - ")[0] for each in getattr(halves["train"], "classes", "0123456789")]
    fields = {}
    if name == "cifar100":
        fields["coarse"] = list(SUPERCLASSES)
        above = {fine: i for i, group in enumerate(SUPERCLASSES.values()) for fine in group.split()}
        of_class = np.array([above[fine] for fine in classes])
        for half in labels.values():
            half["coarse"] = of_class[half["y"]]
    return of_arrays(name, classes, fields, x, labels, resolution, recipe.source, recipe.licence)


def _raw_halves(name: str, maker: Any, source: Path | None) -> dict[str, Any]:
    """Both halves of one of torchvision's data sets, downloaded where `source` is None."""
    home, wanted = source or root() / ".raw", _raw_files(maker)
    if source and _lacking(maker, home):
        raise Mistake(
            f"{source} has no images, and of {name}'s raw files it lacks {_and(_lacking(maker, home))}, "
            "or has them damaged."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            chosen = {"train": True, "test": False} if maker.__name__ != "SVHN" else {"train": "train", "test": "test"}
            return {split: maker(home, which, download=True) for split, which in chosen.items()}
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if not _lacking(maker, home):
            raise Mistake(
                f"The raw files of {name} in {home} are damaged ({reason}); delete them and begin again."
            ) from error
        site = next(iter(wanted.values()))[0].rpartition("/")[0]
        raise Mistake(
            f"{name} could not be downloaded ({reason}). By hand: put {_and(wanted)} from {site} into FOLDER, then "
            f"clbench data prepare {name} --from FOLDER"
        ) from error


def _raw_files(maker: Any) -> dict[str, tuple[str, str]]:
    """The files that torchvision fetches, where it puts them, with their address and MD5."""
    if hasattr(maker, "resources"):
        return {f"{maker.__name__}/raw/{file}": (maker.mirrors[0] + file, md5) for file, md5 in maker.resources}
    if hasattr(maker, "split_list"):
        return {file: (url, md5) for url, file, md5 in (maker.split_list[split] for split in ("train", "test"))}
    return {maker.filename: (maker.url, maker.tgz_md5)}


def _lacking(maker: Any, home: Path) -> list[str]:
    """Those of the files that `home` has neither unpacked nor whole."""
    check_integrity = torchvision().datasets.utils.check_integrity
    files = _raw_files(maker)
    if hasattr(maker, "resources"):
        unpacked = all((home / file).with_suffix("").is_file() for file in files)
    elif hasattr(maker, "base_folder"):
        inner = [*maker.train_list, *maker.test_list]
        unpacked = all(check_integrity(home / maker.base_folder / file, md5) for file, md5 in inner)
    else:
        unpacked = False
    return [] if unpacked else [file for file, (_, md5) in files.items() if not check_integrity(home / file, md5)]


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
