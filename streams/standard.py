"""The standard streams by name, and the recipes by which they are run.

`house` is a protocol of ours that two cores run in minutes. The others are published ones, by their citation.
"""

from __future__ import annotations

import random

import numpy as np

from clbench.config import Recipe
from clbench.streams.borderless import Blurry, Turning
from clbench.streams.concepts import Concepts
from clbench.streams.fewshot import FewShot
from clbench.streams.fomo import Fomo
from clbench.streams.forgetting import Forgetting
from clbench.streams.incremental import ClassIncremental, DomainIncremental, Permuted, Rotated
from clbench.streams.recurring import Sampling, SCoLe, Slots

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
CIFAR100_17 = ClassIncremental(data="cifar100", experiences=17, take=85)
"""CIFAR-100, 17 experiences of 5 classes, 15 classes left out: as A-GEM is compared (Chaudhry et al. 2019)"""
PACS = DomainIncremental(
    data="pacs", resolution=64, order=["sketch", "cartoon", "art_painting", "photo"], crop=8, flip=True
)
"""PACS (Li et al. 2017): sketch, cartoon, art painting, photo, 7 classes in each"""
PERMUTED_MNIST = Permuted(data="mnist", normalise="unit")
"""MNIST, 20 orders of its pixels"""
PERMUTED_MNIST_LONG = Permuted(
    data="mnist", normalise="unit", tasks=800, samples=6000, exam_every=40, exam_samples=1000, look_every=40
)
"""MNIST, 800 orders of its pixels, to see whether a network goes on learning: an exam on every 40th"""
ROTATED_MNIST = Rotated(data="mnist", normalise="unit")
"""MNIST, turned by 20 angles"""
BLURRY_MNIST = Blurry(data="mnist")
"""MNIST, 5 experiences of 2 classes, a tenth of each class taught in the others"""
BLURRY_CIFAR10 = Blurry(data="cifar10", crop=4, flip=True)
"""CIFAR-10, 5 experiences of 2 classes, a tenth of each class taught in the others"""
BLURRY_CIFAR100 = Blurry(data="cifar100", experiences=10, crop=4, flip=True)
"""CIFAR-100, 10 experiences of 10 classes, a tenth of each class taught in the others"""
MNIST_360 = Turning(normalise="unit")
"""MNIST-360: two consecutive digits at a time while all digits turn; no task ever ends"""
SCOLE_MNIST = SCoLe(data="mnist", look_every=10)
"""SCoLe on MNIST: 500 experiences of 2 of 10 classes"""
SCOLE_FASHION = SCoLe(data="fashion_mnist", look_every=10)
"""SCoLe on Fashion-MNIST: 500 experiences of 2 of 10 classes"""
SCOLE_CIFAR10 = SCoLe(data="cifar10", experiences=1000, look_every=20)
"""SCoLe on CIFAR-10: 1,000 experiences of 2 of 10 classes"""
SCOLE_CIFAR100 = SCoLe(data="cifar100", experiences=1000, per_experience=10, look_every=20)
"""SCoLe on CIFAR-100: 1,000 experiences of 10 of 100 classes"""
CIR_CIFAR100 = Sampling(data="cifar100", look_every=10)
"""CIR by sampling on CIFAR-100: 500 experiences of 500 samples, a class comes back with a chance of 0.2"""
CIR_CIFAR100_SLOTS = Slots(data="cifar100", experiences=100, per_experience=20, look_every=5)
"""CIR by slots on CIFAR-100: 100 experiences of 20 of 100 classes, every sample taught once"""
FEWSHOT_CIFAR100 = FewShot(data="cifar100", crop=4, flip=True)
"""CIFAR-100, few-shot class-incremental (FSCIL): 60 classes with all samples, then 8 sessions of 5 classes, 5 shots"""
FEWTUNE_CIFAR100 = FewShot(data="cifar100", base=10, way=10, shots=10, base_shots=10, crop=4, flip=True)
"""CIFAR-100, few-shot class-incremental tuning (FSCIT): 10 sessions of 10 classes, 10 shots in each, the base too"""
FOMO = Fomo(
    sets=[
        Concepts("digits", "pretraining", "upright", "a {}."),
        Concepts("digits", "adapt", "left", "a {} turned left.", turn="left", year=1),
        Concepts("digits", "adapt", "over", "a {} upside down.", turn="over", year=2),
        Concepts("digits", "adapt", "negative", "a bright {}.", turn="negative", year=3),
        Concepts("digits", "eval", "mirrored", "a {} in the mirror.", turn="mirrored"),
    ],
    tasks=6,
    exam_samples=200,
)
"""FoMo-in-Flux over scikit-learn's digits: turned and bright ones come to a model that knows upright ones"""
FOMO_IMAGES = Fomo(
    sets=[
        Concepts("cifar100", "pretraining", "cifar_known", classes=(0, 60), year=2009),
        Concepts("cifar100", "adapt", "cifar_new", classes=(60, 80), year=2009),
        Concepts("pacs", "adapt", "art", "a painting of a {}.", where="domain=art_painting", year=2017),
        Concepts("pacs", "adapt", "cartoon", "a cartoon of a {}.", where="domain=cartoon", year=2017),
        Concepts("pacs", "adapt", "sketch", "a sketch of a {}.", where="domain=sketch", year=2017),
        Concepts("fashion_mnist", "adapt", "fashion", "a photo of clothing: {}.", year=2017),
        Concepts("mnist", "adapt", "mnist", "the handwritten digit {}.", year=1998),
        Concepts("cifar100", "eval", "cifar_unseen", classes=(80, 100)),
        Concepts("pacs", "eval", "photo", where="domain=photo"),
        Concepts("digits", "eval", "digits", "the scanned digit {}."),
    ],
    resolution=32,
    per_class=150,
    exam_samples=150,
    crop=4,
)
"""FoMo-in-Flux at a size for two cores: 61 concepts of CIFAR-100, PACS, Fashion-MNIST and MNIST to adapt to"""
FORGET_CIFAR100 = Forgetting(data="cifar100", order=1337, crop=4, flip=True)
"""CIFAR-100, all classes; then 4 requests to forget 20 classes each, with a tenth of the samples at hand"""
FORGET_FOLDER = Forgetting(data="")
"""a folder of images, a class a folder, all classes; then 4 requests to forget 20 classes each: stream.data=PATH"""
FORGET_DIGITS = Forgetting(requests=3, per_request=2)
"""scikit-learn's 8 x 8 digits, all classes; then 3 requests to forget 2 each, with a tenth of the samples at hand"""
FORGET_ORL = Forgetting(data="orl_faces", resolution=64, per_request=5, order=1337, shots=4, crop=4, flip=True)
"""ORL faces at 64 x 64, 40 persons; then 4 requests to forget 5 each, with 4 images of each person at hand"""

_HOUSE = "clbench's own, for two cores"
_DER = "Buzzega et al. 2020 (DER); Mammoth"
_LESORT = "Lesort et al. 2023 (SCoLe); its official code, SGD without masking"
_ON_FEWER = "as lesort2023, on fewer samples, which two cores run in minutes"
_AGEM = "Chaudhry et al. 2019 (A-GEM); the rate is ours, the best of three for naive, ewc and agem"
_ONE_PASS = "ours: one pass in batches of 10, as Chaudhry et al. 2019 (A-GEM), over all labels"
_UNTUNED = "ours, untuned: the embedded ViT, fine-tuned in whole or in part at 64 x 64"
_FOMO = "ours: optimiser, decay and clipping of Roth et al. 2024 (FoMo-in-Flux); the rate is untuned"
_SUN = "PILOT (Sun et al., LAMDA-PILOT): ViT-B/16 at 224 pixels in [0, 1]; it crops at random sizes, which is not here"
_ROY = "Roy et al. 2025 (CoACT); they crop at random sizes and jitter colours, which is not here"
_ZHAO = (
    "Zhao et al. 2024 (GS-LoRA), the authors' code for ImageNet100: order, share at hand, batch; timm's weights for "
    "torchvision's, and experience 0, which they have not, as PILOT fine-tunes"
)
_XDER = "Boschini et al. 2022 (X-DER); Mammoth"

_SMALL = {"learner.threads": 1, "learner.eval_batch": 512}
_GREY = {"model": "cnn", "learner.batch": 32, "learner.lr": 0.1}
_COLOUR = {"model": "convbn", "learner.epochs": 3, "learner.batch": 32, "learner.lr": 0.1}
_TWENTY_TASKS = {**_SMALL, "model": "mlp", "learner.epochs": 1, "learner.batch": 128, "learner.lr": 0.2}
_PROBES = {"probes": ["exams", "cost", "timing", "loss"]}
_ADAMW = {
    "learner.optimizer": "adamw",
    "learner.weight_decay": 0.2,
    "learner.clip": 1.0,
    "learner.lr": 1e-3,
    "learner.schedule": "cosine",
}
_REQUESTS = {"probes": ["exams", "cost", "timing", "loss", "recovery"]}
_FACES = {
    "model": "vit",
    "model.patch": 8,
    "stream.resolution": 32,
    "stream.crop": 2,
    "learner.epochs": 60,
    "learner.optimizer": "adamw",
    "learner.lr": 0.001,
    "learner.weight_decay": 0.05,
    "learner.schedule": "cosine",
}
_SCOLE = {
    **_PROBES,
    "learner.threads": 1,
    "learner.eval_batch": 512,
    "learner.epochs": 1,
    "learner.batch": 64,
    "learner.lr": 0.01,
    "learner.clip": 10.0,
    "learner.keep_optimizer": True,
}
_SCOLE_GREY = {**_SCOLE, "model": "cnn"}
_SCOLE_COLOUR = {**_SCOLE, "model": "resnet20"}
_ONLINE = {"model": "resnet18", "model.width": 20, "learner.epochs": 1, "learner.batch": 10, "learner.lr": 0.03}
_PRETRAINED = {
    "model": "vit_t6",
    "stream.resolution": 64,
    "stream.normalise": "unit",
    "stream.crop": 8,
    "stream.flip": True,
    "learner.epochs": 10,
    "learner.batch": 32,
    "learner.optimizer": "adamw",
    "learner.lr": 0.001,
    "learner.schedule": "cosine",
}
_PRETRAINED_GREY = {**_PRETRAINED, "stream.crop": 0, "stream.flip": False, "learner.threads": 1}
_VIT_B = {
    "model": "timm",
    "model.pretrained": True,
    "stream.resolution": 224,
    "stream.normalise": "unit",
    "stream.crop": 0,
    "learner.momentum": 0.9,
    "learner.schedule": "cosine",
}
_PILOT = {
    **_VIT_B,
    "model.name": "vit_base_patch16_224.augreg_in21k",
    "model.normalise": "none",
    "stream.order": np.random.RandomState(1993).permutation(100).tolist(),
}
_SHUFFLED = list(range(100))
random.Random(1337).shuffle(_SHUFFLED)
_IMAGENET100 = {
    **_VIT_B,
    **_PROBES,
    "model.name": "vit_base_patch16_224.augreg_in1k",
    "model.normalise": "own",
    "stream.order": _SHUFFLED,
    "stream.data_ratio": 0.05,
    "stream.flip": False,
    "learner.epochs": 20,
    "learner.batch": 48,
    "learner.lr": 0.001,
    "learner.weight_decay": 2e-4,
    "learner.schedule": "constant",
}
_COACT = {**_VIT_B, "model.name": "vit_base_patch16_224.orig_in21k", "model.normalise": "own"}
_RESNET = {"model": "resnet18", "learner.epochs": 50, "learner.batch": 32}

RECIPES = {
    "digits": {
        "house": Recipe({**_SMALL, "model": "mlp", "learner.epochs": 10, "learner.lr": 0.1}, _HOUSE),
        "pretrained": Recipe(_PRETRAINED_GREY, _UNTUNED),
    },
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
    "cifar10": {
        "house": Recipe(_COLOUR, _HOUSE),
        "der2020": Recipe(_RESNET, _DER),
        "online": Recipe(_ONLINE, _ONE_PASS),
        "pretrained": Recipe(_PRETRAINED, _UNTUNED),
    },
    "cifar100": {
        "house": Recipe(_COLOUR, _HOUSE),
        "xder2022": Recipe(
            {**_RESNET, "learner.schedule": "multistep", "learner.milestones": (35.0, 45.0), "learner.gamma": 0.2},
            _XDER,
        ),
        "online": Recipe(_ONLINE, _ONE_PASS),
        "pretrained": Recipe(_PRETRAINED, _UNTUNED),
        "pilot": Recipe(_PILOT, _SUN),
    },
    "cifar100_17": {
        "house": Recipe({**_COLOUR, "stream.crop": 4, "stream.flip": True}, _HOUSE),
        "agem2019": Recipe({**_ONLINE, "learner.loss_mask": "experience"}, _AGEM),
    },
    "cifar100_20": {"house": Recipe(_COLOUR, _HOUSE), "online": Recipe(_ONLINE, _ONE_PASS)},
    "blurry_mnist": {"house": Recipe(_GREY, _HOUSE)},
    "blurry_cifar10": {"house": Recipe(_COLOUR, _HOUSE), "online": Recipe(_ONLINE, _ONE_PASS)},
    "blurry_cifar100": {"house": Recipe(_COLOUR, _HOUSE), "online": Recipe(_ONLINE, _ONE_PASS)},
    "mnist_360": {
        "house": Recipe(
            {
                **_SMALL,
                **_PROBES,
                "model": "mlp",
                "learner.epochs": 1,
                "learner.batch": 16,
                "learner.lr": 0.1,
                "learner.keep_optimizer": True,
            },
            _HOUSE,
        )
    },
    "scole_mnist": {
        "house": Recipe({**_SCOLE_GREY, "stream.samples": 1000}, _ON_FEWER),
        "lesort2023": Recipe(_SCOLE_GREY, _LESORT),
    },
    "scole_fashion": {
        "house": Recipe({**_SCOLE_GREY, "stream.samples": 1000}, _ON_FEWER),
        "lesort2023": Recipe(_SCOLE_GREY, _LESORT),
    },
    "scole_cifar10": {
        "house": Recipe({**_SCOLE_COLOUR, "stream.experiences": 300, "stream.samples": 128}, _ON_FEWER),
        "lesort2023": Recipe(_SCOLE_COLOUR, _LESORT),
    },
    "scole_cifar100": {
        "house": Recipe({**_SCOLE_COLOUR, "stream.experiences": 300, "stream.samples": 128}, _ON_FEWER),
        "lesort2023": Recipe(_SCOLE_COLOUR, _LESORT),
    },
    "cir_cifar100": {
        "house": Recipe({**_SCOLE_COLOUR, "stream.samples": 128}, "as the house recipe of scole_cifar100")
    },
    "cir_cifar100_slots": {"house": Recipe(_SCOLE_COLOUR, "as the house recipe of scole_cifar100, on all samples")},
    "fewshot_cifar100": {
        "house": Recipe(_COLOUR, _HOUSE),
        "pretrained": Recipe(_PRETRAINED, _UNTUNED),
        "coact2025": Recipe(_COACT, _ROY),
    },
    "fewtune_cifar100": {
        "house": Recipe(_COLOUR, _HOUSE),
        "pretrained": Recipe(_PRETRAINED, _UNTUNED),
        "coact2025": Recipe(_COACT, _ROY),
    },
    "forget_cifar100": {
        "house": Recipe({**_COLOUR, **_REQUESTS, "learner.epochs": 10}, _HOUSE),
        "pretrained": Recipe({**_PRETRAINED, **_REQUESTS}, _UNTUNED),
        "zhao2024": Recipe(_IMAGENET100, _ZHAO),
    },
    "forget_folder": {"zhao2024": Recipe(_IMAGENET100, _ZHAO)},
    "forget_digits": {
        "house": Recipe(
            {
                **_SMALL,
                **_REQUESTS,
                "model": "mlp",
                "learner.epochs": 20,
                "learner.lr": 0.1,
                "learner.schedule": "cosine",
            },
            _HOUSE,
        )
    },
    "forget_orl": {
        "house": Recipe({**_SMALL, **_REQUESTS, **_FACES}, _HOUSE),
        "pretrained": Recipe({**_PRETRAINED_GREY, **_REQUESTS}, _UNTUNED),
    },
    "fomo": {
        "house": Recipe(
            {
                **_SMALL,
                "model": "dual",
                "model.pretraining_epochs": 30,
                "learner.epochs": 6,
                "learner.batch": 48,
                **_ADAMW,
            },
            _FOMO,
        )
    },
    "fomo_images": {
        "house": Recipe(
            {
                **_SMALL,
                "model": "dual",
                "model.tower": "vit_t6",
                "model.text": "minilm",
                "model.pretraining_epochs": 4,
                "model.pretraining_rate": 3e-4,
                "learner.epochs": 2,
                "learner.batch": 48,
                **_ADAMW,
                "learner.lr": 1e-4,
            },
            _FOMO,
        )
    },
    "pacs": {"house": Recipe(_COLOUR, _HOUSE), "pretrained": Recipe(_PRETRAINED, _UNTUNED)},
    "permuted_mnist": {
        "house": Recipe(_TWENTY_TASKS, "as der2020, which two cores run in minutes"),
        "der2020": Recipe(_TWENTY_TASKS, _DER),
    },
    "permuted_mnist_long": {
        "house": Recipe({**_TWENTY_TASKS, **_PROBES, "learner.batch": 32, "learner.lr": 0.1}, _HOUSE)
    },
    "rotated_mnist": {
        "house": Recipe(_TWENTY_TASKS, "as der2020, which two cores run in minutes"),
        "der2020": Recipe(_TWENTY_TASKS, _DER),
    },
}
