"""Operators that forge, photographs that are forged, and the stream of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from clbench.errors import Mistake
from clbench.forgeries import OPERATORS, WHOLE, Autoencoder, _poisson, bytes_of, jpeg, region
from clbench.forging import CAMERAS, REAL, Forging
from clbench.photographs import Photograph, alike, of_data, packaged, windows
from clbench.srm import SRM
from clbench.streams.forgery import CATEGORIES, LONG, TEN, Forgery

SIDE = 32


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A smooth random picture with some noise, uint8."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.random((side, side, 3)), (6, 6, 0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return bytes_of(0.1 + 0.8 * smooth + rng.normal(0, 0.02, smooth.shape))


IMAGE, DONOR = (scene(seed)[:SIDE, :SIDE] / 255 for seed in (0, 1))
ALL = {**OPERATORS, "autoencoder": Autoencoder.learned([scene(seed) / 255 for seed in range(2, 5)])}


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_operator_changes_what_its_mask_says_and_nothing_else(name):
    forged = ALL[name](IMAGE, DONOR, np.random.default_rng(3))
    again = ALL[name](IMAGE, DONOR, np.random.default_rng(3))
    assert (forged.image.tobytes(), forged.parameters) == (again.image.tobytes(), again.parameters)
    assert forged.image.shape == IMAGE.shape
    assert 0 <= forged.image.min() <= forged.image.max() <= 1
    outside = forged.mask == 0
    assert np.allclose(forged.image[outside], IMAGE[outside], atol=1e-12)
    assert (forged.mask.min() == 1) == (name in WHOLE)
    changed = np.abs(forged.image - IMAGE)[forged.mask > 0.5]
    assert name == "noop" or changed.mean() > 0.002
    assert name != "noop" or np.array_equal(forged.image, IMAGE)


def test_every_operator_is_in_the_long_stream():
    assert {*TEN, "noop"} == {*ALL} == {"noop", *LONG.increments}
    assert {name for names in CATEGORIES.values() for name in names} < {*TEN}


def test_what_poisson_fills():
    inside = region(np.random.default_rng(0), SIDE) > 0.5
    assert np.allclose(_poisson(IMAGE, inside, IMAGE), IMAGE, atol=1e-9), "its own gradients give the image back"
    ramp = np.repeat((np.add.outer(np.arange(SIDE), 2 * np.arange(SIDE)) / 100)[..., None], 3, 2)
    holed = np.where(inside[..., None], 0, ramp)
    assert np.allclose(_poisson(holed, inside, np.zeros_like(ramp)), ramp, atol=1e-9), "a plane is harmonic"


def test_an_autoencoder_of_all_components_without_noise_changes_nothing():
    whole = Autoencoder.learned([scene(seed) / 255 for seed in range(2, 6)], components=192)
    silent = Autoencoder(whole.mean, whole.basis, np.zeros(192))
    assert np.allclose(silent(IMAGE, DONOR, np.random.default_rng(0)).image, IMAGE, atol=1e-9)


def test_photographs_that_are_one():
    a, b, c = (scene(seed) for seed in (0, 1, 2))
    brighter = np.clip(a.astype(int) + 12, 0, 255).astype(np.uint8)
    assert alike([a, b, a[:, ::-1], np.rot90(b), brighter, c]).tolist() == [0, 1, 0, 1, 0, 2]


def test_windows_show_something_and_lie_inside():
    pixels = np.full((80, 120, 3), 90, np.uint8)
    pixels[:, 60:] = scene(0, 80)[:, :60]
    found = windows(pixels, 20, 12, np.random.default_rng(0))
    assert len(found) == 12
    for left, top, right, bottom in found:
        assert 0 <= left < right <= 120
        assert 0 <= top < bottom <= 80
        assert 20 <= right - left == bottom - top <= 40
        assert right > 60
    assert windows(pixels, 50, 12, np.random.default_rng(0)) == [(20, 0, 100, 80)]


@pytest.fixture
def forging(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    photographs = tuple(Photograph(f"p{n}", scene(n), n // 2) for n in range(10))
    increments = {"splice": ("splice",), "nothing": ("noop",), "two": ("resample", "autoencoder")}
    return Forging("ten", photographs, increments, shared=False, side=16, per_photograph=6, held_out=0.4, draw=1)


def test_what_is_forged_is_kept_and_can_be_made_again(forging, tmp_path):
    dataset = forging.open()
    sides = {split: {forging.photographs[p].group for p in at} for split, at in forging.split.items()}
    assert not sides["train"] & sides["test"]
    for split, arrays in dataset.splits.items():
        shots, masks = list(forging.shots(split)), forging.masks(split)
        (file,) = tmp_path.glob(f"data/.cache/*/{split}.parameters.jsonl")
        told = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(shots) == len(told) == len(arrays["x"]) == 2 * 6 * len(forging.split[split])
        groups = {f"p{n}": n // 2 for n in forging.split[split]}
        for place in (0, 7, len(shots) - 1):
            sample = forging.sample(split, shots[place])
            assert sample.image.tobytes() == arrays["x"][place].tobytes()
            assert sample.mask.tobytes() == masks[place].tobytes()
            assert sample.parameters == told[place]
        for place, (shot, about) in enumerate(zip(shots, told, strict=True)):
            low, high = CAMERAS[shot.camera].quality
            assert low <= about["quality"] <= high
            assert arrays["y"][place] == (shot.operator != REAL)
            if "donor" in about:
                other, mine = about["donor"].split("/")[0], about["window"].split("/")[0]
                assert groups[other] != groups[mine], "donors are others, of the same split"
        names = dataset.fields["increment"]
        seen = [{s.window + 100 * s.photograph for s in shots if s.increment == name} for name in names]
        assert not seen[0] & seen[1] | seen[1] & seen[2], "each increment has photographs of its own"
        real, fake = (arrays["y"] == kind for kind in (0, 1))
        assert masks[real].max() == 0
        untouched = fake & (arrays["operator"] == dataset.fields["operator"].index("noop"))
        assert masks[untouched].max() == 0
    assert forging.open().checksum == dataset.checksum


def test_nothing_is_done_by_the_chain_of_nothing(forging):
    shot = next(shot for shot in forging.shots("test") if shot.operator == "noop")
    sample = forging.sample("test", shot)
    seen = forging._seen(shot.photograph, shot.window, shot.camera)
    assert np.array_equal(sample.image, bytes_of(jpeg(seen, sample.parameters["quality"])))


def test_too_few_photographs(forging):
    one = Forging("one", forging.photographs[:2], {"noop": ("noop",)}, False, 16, 2, 0.4, 0)
    with pytest.raises(Mistake, match=r"^one has one photograph, or all are alike; training and exams need one each"):
        one.open()
    two = Forging("two", forging.photographs[:4], {"splice": ("splice",)}, False, 16, 2, 0.4, 0)
    for shot in two.shots("test"):
        donor = two.sample("test", shot).parameters.get("donor", f"p{shot.photograph}/0")
        assert donor.split("/")[0] in {f"p{n}" for n in two.split["test"]}


@pytest.fixture
def faces(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path / "data"))
    for number in range(12):
        folder = tmp_path / "faces" / ("real" if number % 4 else "drawn")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(number, 40)).save(folder / f"{number:02}.png")
    return str(tmp_path / "faces")


def test_what_is_held_out_is_held_out_with_all_that_was_made_of_it(faces):
    shared = {"data": faces, "resolution": 16, "take": ["real"], "increments": ["splice", "inpaint"], "reals": "shared"}
    stream = Forgery(**shared, validation=0.34, exam_on="validation")
    assert (stream.version, Forgery(**shared).version) == (2, 1)
    stream.open(0)
    of = stream._origins()
    taught = {window for experience in stream for window in of[experience.train.index].tolist()}
    asked = {window for exam in stream.exams() for window in of[exam.data.index].tolist()}
    assert (len(taught), len(asked), taught & asked) == (4, 2, set())
    assert all(exam.data.labels.tolist().count(0) == exam.data.labels.tolist().count(1) == 2 for exam in stream.exams())


def test_the_stream_over_a_folder_of_faces(faces):
    stream = Forgery(data=faces, resolution=16, take=["real"], increments=["splice", "inpaint"], reals="shared")
    stream.open(0)
    assert len(of_data(faces, ("real",), None)) == 9
    assert [len(experience.train) for experience in stream] == [12, 12]
    assert [exam.name for exam in stream.exams()] == ["splice", "inpaint"]
    for exam in stream.exams():
        labels, mask = exam.data.labels, exam.about["mask"]
        assert labels.tolist().count(1) == labels.tolist().count(0) == 3
        assert mask.shape == (6, 16, 16)
        assert mask[labels == 0].max() == 0
        assert (mask[labels == 1].amax((1, 2)) == 255).all()
    real = [set(e.train.index[e.train.labels == 0].tolist()) for e in stream]
    assert real[0] == real[1], "shared photographs are the same samples"
    with pytest.raises(Mistake, match=r"^There is no way to forge named 'splise'\. Did you mean 'splice'\?"):
        Forgery(increments=["splise"]).open(0)
    with pytest.raises(Mistake, match=r"^There is no class of .* named 'reel'"):
        Forgery(data=faces, take=["reel"]).open(0)


def test_photographs_come_with_what_is_installed():
    names = [photograph.name for photograph in packaged()]
    assert names[:3] == ["china", "flower", "grace_hopper"]
    assert all(p.pixels.shape[2] == 3 and min(p.pixels.shape[:2]) >= 300 for p in packaged())


def test_three_photographs_are_enough_to_begin_with(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBENCH_DATA", str(tmp_path))
    monkeypatch.setattr("clbench.streams.forgery.packaged", lambda: packaged()[:3])
    stream = Forgery(resolution=16, per_photograph=8)
    stream.open(0)
    assert [len(experience.train) for experience in stream] == [8] * 4
    assert {len(exam.data) for exam in stream.exams()} == {4}


def test_residuals_are_of_what_neighbours_do_not_predict():
    model = SRM(width=4).build((3, 32, 32), 2)
    ramp = torch.arange(32.0).expand(1, 3, 32, 32) / 32
    inside = model.body.residuals(ramp)[..., 2:-2, 2:-2]
    assert inside[:, :9].abs().max() < 1e-5, "a plane is predicted"
    assert torch.allclose(inside[:, 9:], torch.tensor(0.01).log() + 3, atol=1e-2)
    assert model(ramp).shape == (1, 2)
    assert not any("residuals" in name for name, _ in model.named_parameters())
