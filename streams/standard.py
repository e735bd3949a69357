"""The standard streams by name, and the recipes by which they are run.

`house` is a protocol of ours that two cores run in minutes. The others are published ones, by their citation.
"""

from __future__ import annotations

from clbench.config import Recipe
from clbench.streams.incremental import ClassIncremental, DomainIncremental, Permuted, Rotated

DIGITS = ClassIncremental()
"""scikit-learn's 8 x 8 digits, 5 experiences of 2 classes"""
FOLDER = ClassIncremental(data="")
"""a folder of images, a class a folder: stream.data=PATH"""
DOMAINS = DomainIncremental(data="")
"""a data set with a field that tells domains apart: stream.data=PATH, stream.domain=FIELD"""
MNIST = ClassIncremental(data="mnist")
"""MNIST, 5 experiences of 2 classes"""
FASHION_MNIST = ClassIncremental(data="fashion_mnist")
"""Fashion-MNIST, 5 experiences of 2 classes"""
CIFAR10 = ClassIncremental(data="cifar10", crop=4, flip=True)
"""CIFAR-10, 5 experiences of 2 classes"""
CIFAR100 = ClassIncremental(data="cifar100", experiences=10, crop=4, flip=True)
"""CIFAR-100, 10 experiences of 10 classes"""
CIFAR100_20 = ClassIncremental(data="cifar100", experiences=20, crop=4, flip=True)
"""CIFAR-100, 20 experiences of 5 classes"""
PACS = DomainIncremental(
    data="pacs", resolution=64, order=["sketch", "cartoon", "art_painting", "photo"], crop=8, flip=True
)
"""PACS (Li et al. 2017): sketch, cartoon, art painting, photo, 7 classes in each"""
PERMUTED_MNIST = Permuted(data="mnist", normalise="unit")
"""MNIST, 20 orders of its pixels"""
ROTATED_MNIST = Rotated(data="mnist", normalise="unit")
"""MNIST, turned by 20 angles"""

_HOUSE = "clbench's own, for two cores"
_DER = "Buzzega et al. 2020 (DER); Mammoth"
_XDER = "Boschini et al. 2022 (X-DER); Mammoth"

_SMALL = {"learner.threads": 1, "learner.eval_batch": 512}
_GREY = {"model": "cnn", "learner.batch": 32, "learner.lr": 0.1}
_COLOUR = {"model": "convbn", "learner.epochs": 3, "learner.batch": 32, "learner.lr": 0.1}
_TWENTY_TASKS = {**_SMALL, "model": "mlp", "learner.epochs": 1, "learner.batch": 128, "learner.lr": 0.2}
_RESNET = {"model": "resnet18", "learner.epochs": 50, "learner.batch": 32}

RECIPES = {
    "digits": {"house": Recipe({**_SMALL, "model": "mlp", "learner.epochs": 10, "learner.lr": 0.1}, _HOUSE)},
    "mnist": {
        "house": Recipe(_GREY, _HOUSE),
        "der2020": Recipe(
            {
                "model": "mlp",
                "stream.normalise": "unit",
                "learner.epochs": 1,
                "learner.batch": 10,
                "learner.threads": 1,
            },
            _DER,
        ),
    },
    "fashion_mnist": {"house": Recipe(_GREY, _HOUSE)},
    "cifar10": {"house": Recipe(_COLOUR, _HOUSE), "der2020": Recipe(_RESNET, _DER)},
    "cifar100": {
        "house": Recipe(_COLOUR, _HOUSE),
        "xder2022": Recipe(
            {**_RESNET, "learner.schedule": "multistep", "learner.milestones": (35.0, 45.0), "learner.gamma": 0.2},
            _XDER,
        ),
    },
    "cifar100_20": {"house": Recipe(_COLOUR, _HOUSE)},
    "pacs": {"house": Recipe(_COLOUR, _HOUSE)},
    "permuted_mnist": {
        "house": Recipe(_TWENTY_TASKS, "as der2020, which two cores run in minutes"),
        "der2020": Recipe(_TWENTY_TASKS, _DER),
    },
    "rotated_mnist": {
        "house": Recipe(_TWENTY_TASKS, "as der2020, which two cores run in minutes"),
        "der2020": Recipe(_TWENTY_TASKS, _DER),
    },
}
