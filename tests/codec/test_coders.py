"""Coders give back images and words, at the size that the model's own laws say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from coders_helpers import (
    MODELS,
    a_vae,
    a_vdm,
    coder_of,
    cost_in_bits,
    cost_of,
    images_of,
    net_size,
    random_words,
    standard,
)

from nelbo.codec.batches import BatchCoder, float64
from nelbo.codec.chain import ChainCoder
from nelbo.codec.coder import OutOfWordsError, coder_for
from nelbo.codec.golden import TOLERANCE, difference
from nelbo.codec.stack import Normals, Stack
from nelbo.diffusion.denoiser import NetworkDenoiser
from nelbo.errors import InputError
from nelbo.models.gan import GAN, GANOptions

every_model = pytest.mark.parametrize("name", list(MODELS))


@every_model
def test_images_and_words_come_back(name: str) -> None:
    model, coder = coder_of(name)
    images, words = images_of(7, model.levels), random_words(coder.initial_words())
    coded = coder.encode(images, words)
    again = coder_for(model, json.loads(json.dumps(coder.settings)))
    found, left = again.decode(coded, len(images))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(left, words)


def test_two_threads_code_one_after_another() -> None:
    """torch's default dtype is of the whole process: one that leaves float64 would take it from the other."""
    entered: list[torch.dtype] = []

    def second() -> None:
        with float64():
            entered.append(torch.get_default_dtype())

    other = threading.Thread(target=second)
    with float64(), float64():  # one thread may enter again
        other.start()
        time.sleep(0.2)
        assert entered == []
    other.join()
    assert entered == [torch.float64]
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", [name for name in MODELS if name != "vdm-v"])  # that one's latents are escapes
def test_the_size_is_the_cost_at_the_same_latents(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, coder = coder_of(name, in_flight=16)
    images = images_of(16, model.levels)
    size, z = net_size(coder, images, monkeypatch)
    assert size == pytest.approx(cost_in_bits(coder, images, z), rel=1e-3)


@pytest.mark.parametrize("name", ["vdm", "vae", "hvae", "hvae-bottom-up"])
@pytest.mark.parametrize("error", ["std", "mean"])
def test_a_wrong_law_of_q_shows_in_the_size(name: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong q, images and words come back all the same: only the size tells."""
    model, coder = coder_of(name, in_flight=16)
    images, make = images_of(16, model.levels), Normals.__init__

    def wrong(law: Normals, mean: np.ndarray, std: np.ndarray, escapes: bool = True) -> None:
        shift, times = (6.0, 1.0) if error == "mean" else (0.0, 2.0)
        make(law, mean + shift * (not escapes), std * (1.0 if escapes else times), escapes)

    monkeypatch.setattr(Normals, "__init__", wrong)
    assert_wrong_size(coder, images, monkeypatch)


def test_a_wrong_width_or_step_shows_in_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """δ of another latent in p, and p of the chain where q should be."""
    _, coder = coder_of("vdm", in_flight=16)
    below = ChainCoder.below
    with monkeypatch.context() as patch:
        patch.setattr(ChainCoder, "below", lambda self, k, *rest: below(self, max(0, k - 1), *rest))
        assert_wrong_size(coder, images_of(16), patch)
    with monkeypatch.context() as patch:
        patch.setattr(ChainCoder, "q", lambda self, k, before: Normals(0 * before, 0 * before + 3.0, escapes=False))
        assert_wrong_size(coder, images_of(16), patch)


def assert_wrong_size(coder: BatchCoder, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and words come back, but not with the cost at these latents."""
    words = random_words(4 * coder.initial_words())
    found, left = coder.decode(coder.encode(images, words), len(images))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(left, words)
    size, z = net_size(coder, images, monkeypatch)
    assert size != pytest.approx(cost_in_bits(coder, images, z), rel=1e-2)


def test_no_images_add_nothing() -> None:
    _, coder = coder_of("vdm")
    words = random_words(3)
    found, left = coder.decode(coder.encode(images_of(0), words), 0)
    assert found.shape == (0, 1, 6, 6)
    np.testing.assert_array_equal(left, words)


def test_words_may_end_in_zeros() -> None:
    _, coder = coder_of("vae")
    words = np.concatenate([random_words(coder.initial_words()), np.zeros(3, np.uint32)])
    assert (coder.decode(coder.encode(images_of(2), words), 2)[1] == words).all()


@pytest.mark.parametrize("name", ["vdm", "vae", "hvae"])
def test_too_few_words_are_refused(name: str) -> None:
    model, coder = coder_of(name)
    with pytest.raises(OutOfWordsError, match="1 words are too few"):
        coder.encode(images_of(3, model.levels), random_words(1))


def test_settings_of_the_file_win() -> None:
    """The batch of the settings decides, not the default."""
    model = a_vdm()
    coder = coder_for(model, {**coder_for(model).settings, "in_flight": 5})
    assert coder.in_flight == 5 == coder_for(a_vdm(), coder.settings).in_flight


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"in_flight": 0}, "in_flight"),
        ({"in_flight": 65}, "in_flight"),
        ({"steps": [{"gamma": 1.0, "width": 1e-300, "signal": 1.0, "std": 1.0}]}, "steps"),
        ({"steps": [{"gamma": float(k), "width": 1.0, "signal": 1.0, "std": 1.0} for k in range(1001)]}, "steps"),
        ({"coder": "zip"}, "coder"),
        ({"reverse_variance": "learned"}, "reverse_variance"),
        ({"steps": []}, "steps"),
        ({"width": 3}, "width"),
    ],
)
def test_damaged_settings_are_refused(change: dict[str, object], field: str) -> None:
    model, coder = coder_of("vdm")
    with pytest.raises(InputError, match=f"^{field}"):
        coder_for(model, {**coder.settings, **change})


def test_images_of_another_kind_are_refused() -> None:
    _, coder = coder_of("vae-binary")
    with pytest.raises(InputError, match="shape"):
        coder.encode(np.zeros((2, 1, 5, 6), np.uint8), random_words(99))
    with pytest.raises(InputError, match="a level 2"):
        coder.encode(np.full((2, 1, 6, 6), 2, np.uint8), random_words(99))


def test_families_without_a_law_are_refused() -> None:
    gan = GAN.from_options(GANOptions().resolved((1, 8, 8)), (1, 8, 8), 17)
    with pytest.raises(InputError, match="a gan has no p"):
        coder_for(gan)
    with pytest.raises(InputError, match="each"):
        coder_for(a_vdm(), each=True)


# Other machines


def test_golden_numbers_tell_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are off by 1e-12 decode; by 1e-6 they are refused, and would have been decoded wrongly."""
    _, coder = coder_of("vdm")
    images, words = images_of(6), random_words(coder.initial_words())
    golden, coded = coder.golden(), coder.encode(images, words)
    predict = NetworkDenoiser.predict
    for off, fine in [(1e-12, True), (1e-6, False)]:
        rng = np.random.default_rng(0)

        def noisy(self: NetworkDenoiser, *args: torch.Tensor, off: float = off, rng: object = rng) -> torch.Tensor:
            output = predict(self, *args)
            return output + off * torch.from_numpy(rng.uniform(-1, 1, output.shape))  # type: ignore[attr-defined]

        monkeypatch.setattr(NetworkDenoiser, "predict", noisy)
        assert (difference(coder.golden(), golden) <= TOLERANCE) is fine
        if fine:
            np.testing.assert_array_equal(coder.decode(coded, 6)[0], images)


@pytest.mark.parametrize("name", ["vae", "hvae", "ddpm"])
def test_golden_numbers_are_the_model(name: str) -> None:
    model, coder = coder_of(name)
    golden = coder.golden()
    assert golden.dtype == np.float64
    assert 50 <= len(golden) <= 300
    assert difference(coder_for(model, coder.settings).golden(), golden) == 0
    weights = dict(model.named_parameters())
    name, weight = max(weights.items(), key=lambda item: item[1].numel())
    with torch.no_grad():
        weight.mul_(1 + 1e-5)
    assert difference(coder_for(model, coder.settings).golden(), golden) > TOLERANCE, name


ELSEWHERE = """
import json, sys
import numpy as np, torch
from coders_helpers import MODELS
from nelbo.codec.coder import coder_for
torch.set_num_threads(2)
for name, given in torch.load(sys.argv[1]).items():
    model = MODELS[name]()
    model.load_state_dict(given["weights"])
    coder = coder_for(model, json.loads(given["settings"]))
    found, left = coder.decode(given["coded"].numpy(), 7)
    assert (found == given["images"].numpy()).all() and (left == given["words"].numpy()).all()
    print(np.abs(coder.golden() - given["golden"].numpy()).max())
print("decoded")
"""


def test_another_process_decodes(tmp_path: Path) -> None:
    """With two threads and other instructions, whose golden numbers are off by less than a hundredth of what may be."""
    given = {}
    for name in ("vdm-clusters", "ddpm", "ddpm-moments", "vae", "hvae"):
        model, coder = coder_of(name)
        images, words = images_of(7, model.levels), random_words(coder.initial_words())
        arrays = {"images": images, "words": words, "coded": coder.encode(images, words), "golden": coder.golden()}
        given[name] = {key: torch.from_numpy(value) for key, value in arrays.items()}
        given[name] |= {"weights": model.state_dict(), "settings": json.dumps(coder.settings)}
    torch.save(given, tmp_path / "given.pt")
    others = {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    others |= {
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "SANDYBRIDGE",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    made = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "given.pt")],
        env=os.environ | others,
        capture_output=True,
        text=True,
        check=False,
    )
    *off, last = made.stdout.split() or [""]
    assert last == "decoded", made.stderr
    assert max(map(float, off)) < TOLERANCE / 100


# Each image alone


@pytest.mark.parametrize("options", [{}, {"decoder": "normal"}, {"levels": 2}])
def test_each_image_comes_back_alone(options: dict[str, object]) -> None:
    model = a_vae(**options)  # type: ignore[arg-type]
    images = images_of(9, model.levels)
    coder = coder_for(model, images=images, each=True)
    coder = coder_for(model, {**coder.settings, "in_flight": 4})
    codes = coder.encode_each(images)
    np.testing.assert_array_equal(coder.decode_each(codes), images)
    np.testing.assert_array_equal(coder.decode_each([codes[7], codes[2]]), images[[7, 2]])
    assert coder.decode_each([]).shape == (0, 1, 6, 6)


def test_each_image_has_the_size_of_its_laws() -> None:
    """−ln p(x|z) − ln P(z) at the rounded mean, up to a byte, and to the flat laws that give a number of digits."""
    model = a_vae()
    images = images_of(40)
    coder = coder_for(model, images=images, each=True)
    sizes = np.array([8 * len(code) for code in coder.encode_each(images)])
    laws = coder.laws
    with float64():
        x = torch.from_numpy(images)
        z = torch.from_numpy(np.rint(laws.q(images[:40]).mean.numpy() / laws.widths) * laws.widths)
        bits = laws.model._reconstruction(x, z).numpy() / np.log(2)
        bits += [cost_of(standard(row), row, laws.widths) / np.log(2) for row in z]
    assert np.abs(sizes - bits).max() < 8 + 8
    assert 0 < (sizes - bits).mean() < 8


def test_stacks_say_what_is_left() -> None:
    stack = Stack(random_words(5), sealed=False)
    stack.push_uniform(np.array([3]), 4)
    with pytest.raises(ValueError, match="not those of an encoder"):
        stack.unsealed()


@pytest.mark.parametrize("name", ["ddpm", "ddpm-moments"])
def test_a_chain_finds_its_own_steps(name: str) -> None:
    """Settings whose γ have seven digits are those of the chain; others are refused."""
    model, coder = coder_of(name)
    steps = [{key: float(f"{value:.7g}") for key, value in step.items()} for step in coder.settings["steps"]]
    again = coder_for(model, {**coder.settings, "steps": steps})
    assert torch.equal(again.gammas, model.timeline.chain()[1:])  # type: ignore[union-attr]
    assert difference(again.golden(), coder.golden()) < 1e-6  # at latents of another width
    steps[3]["gamma"] += 1e-3
    with pytest.raises(InputError, match="none of the model's chain"):
        coder_for(model, {**coder.settings, "steps": steps})
