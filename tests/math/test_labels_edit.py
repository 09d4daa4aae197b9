"""Edits given a label: the laws and the flow of Gaussian classes by exact denoisers, against their closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from math_helpers import assert_mean, gaussians, random_cov
from torch import Tensor, nn

from nelbo.check import checked
from nelbo.editing.constraints import BlockMeans, Constraint, Mask
from nelbo.errors import InputError
from nelbo.jobs.edit import Edited, edited, method_of, require_used
from nelbo.jobs.edit_task import Task
from nelbo.models.diffusion import Diffusion
from nelbo.options import EditOptions
from nelbo.theory.conditioning import MixtureData, conditional
from nelbo.theory.exact import GaussianData
from nelbo.theory.likelihoods import to_levels

SHAPE, D, LEVELS, N, STEPS = (1, 2, 2), 4, 256, 1000, 60
CLASSES = {
    "cat": GaussianData(torch.tensor([0.3, -0.2, 0.1, 0.25]), 0.01 * random_cov(D, seed=1)),
    "dog": GaussianData(torch.tensor([-0.1, 0.2, -0.3, -0.2]), 0.01 * random_cov(D, seed=2)),
}
BOTH = MixtureData(torch.tensor([0.5, 0.5]), list(CLASSES.values()))
X = torch.tensor([[160.0, 128.0, 115.0, 140.0]], dtype=torch.float64) * 2 / (LEVELS - 1) - 1
CONSTRAINTS: dict[str, Constraint] = {
    "inpaint": Mask(torch.tensor([[[True, True], [False, False]]])),
    "upscale": BlockMeans(2),
}
MEASURED = {"inpaint": torch.eye(D)[:2], "upscale": torch.full((1, D), 0.25)}
"""A of A x = y, for each verb with a constraint."""
BIAS = 0.005
"""The error of 60 steps, of moments of size 0.2, and of the rounding to 256 levels, 0.002."""


class Exact(nn.Module):
    """E[x|z, y] of Gaussian classes, and E[x|z] where y is unknown; all images of a batch have the same label."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, gamma: Tensor, label: Tensor | None = None) -> Tensor:
        (k,) = {0} if label is None else set(label.tolist())
        assert label is None or len(label) == len(z)
        return [BOTH, *CLASSES.values()][k].denoise(z.flatten(1), gamma.double()).reshape(z.shape).to(z)


def model() -> Diffusion:
    settings: Any = {"predict": "x0", "timesteps": 1000, "schedule": "cosine"}
    return Diffusion(Exact(), SHAPE, LEVELS, **settings, classes=tuple(CLASSES)).eval()


def edit(verb: str, x: Tensor, n: int = 1, steps: int = STEPS, batch: int = 1000, **settings: Any) -> Edited:
    """The verb with the exact model, from images on [−1, 1], without clipping."""
    options = checked(EditOptions, {"steps": steps, "clip": False, "batch_size": batch, **settings})
    task = Task(x.float().reshape(-1, *SHAPE), n, 0, options.batch_size, False, CONSTRAINTS.get(verb))
    if verb == "upscale":
        task = Task(BlockMeans(2).measure(task.x), n, 0, options.batch_size, False, CONSTRAINTS[verb])
    given = to_levels(x.float().reshape(-1, *SHAPE), LEVELS)
    return edited(model(), verb, task, given, options, method_of(options.method))


def values(levels: Tensor) -> Tensor:
    """Images on [−1, 1], shape (n, D)."""
    return levels.double().flatten(1) * 2 / (LEVELS - 1) - 1


def assert_law(rows: Tensor, mean: Tensor, cov: Tensor) -> None:
    """First and second moments, within four standard errors and BIAS."""
    assert_mean(rows, mean, 4, BIAS)
    away = rows - mean
    assert_mean((away[:, :, None] * away[:, None, :]).flatten(1), cov.flatten(), 4, BIAS)


@pytest.mark.parametrize(("verb", "label"), [("inpaint", "cat"), ("upscale", "dog")])
def test_what_is_drawn_has_the_conditional_law_of_the_class(verb: str, label: str) -> None:
    """x | A x = y, label: Gaussian conditioning of N(m_label, Σ_label), by matrices."""
    found = edit(verb, X, N, label=label, method="moments(iterations=2, sampler='ddim')")
    A, data = MEASURED[verb].double(), CLASSES[label]
    exact = conditional(data.mean, data.cov, A, A @ X[0])
    assert_law(values(found.images), exact.mean, exact.cov)
    assert f"given label {label}" in found.how
    other = next(data for name, data in CLASSES.items() if name != label)
    assert float((conditional(other.mean, other.cov, A, A @ X[0]).mean - exact.mean).norm()) > 0.1


def test_a_variation_has_the_law_of_the_class_given_z() -> None:
    """z ~ q(z|x) at t = S, then x_0 ~ p(x_0|z, label), whatever the class of x."""
    label = "dog"
    found = edit("vary", X, N, label=label, strength=0.6)
    gamma = model().timeline.descending(STEPS)[STEPS - round(0.6 * STEPS)]
    signal, data = torch.sigmoid(-gamma), CLASSES[label]
    one = torch.eye(D, dtype=torch.float64)
    given = torch.linalg.inv(torch.linalg.inv(data.cov) + signal / (1 - signal) * one)
    gain = signal.sqrt() * data.cov @ torch.linalg.inv(signal * data.cov + (1 - signal) * one)
    mean = data.mean + signal.sqrt() * gain @ (X[0] - data.mean)
    assert_law(values(found.images), mean, given + (1 - signal) * gain @ gain.T)


def flow(x: Tensor, data: GaussianData, gammas: tuple[float, float]) -> Tensor:
    """The flow of a Gaussian between two γ: (z − √ᾱ m)/√(ᾱ λ + 1 − ᾱ) is constant in each eigendirection."""
    begin, end = (torch.sigmoid(-torch.tensor(gamma, dtype=torch.float64)) for gamma in gammas)
    ratio = ((end * data.eigenvalues + 1 - end) / (begin * data.eigenvalues + 1 - begin)).sqrt()
    return end.sqrt() * data.mean + ((x - begin.sqrt() * data.mean) @ data.basis * ratio) @ data.basis.T


def before(x: Tensor, data: GaussianData, gamma: float) -> Tensor:
    """The z at γ whose E[x_0|z] is x, of a Gaussian: z = √ᾱ m + (x − m)(ᾱ λ + 1 − ᾱ)/(√ᾱ λ) in each eigendirection."""
    signal = torch.sigmoid(-torch.tensor(gamma, dtype=torch.float64))
    gain = signal.sqrt() * data.eigenvalues / (signal * data.eigenvalues + 1 - signal)
    return signal.sqrt() * data.mean + (data.coordinates(x) / gain) @ data.basis.T


def test_an_inversion_with_two_labels_changes_the_class() -> None:
    """Up by the flow of one Gaussian, down by that of the other, so that images of one class become those of the other.

    The step between the image and γ_1 is x = E[x_0|z_1]. Heun's method in 200 steps has an error below 0.02 of z, whose
    spread is 1, and an image has that of its rounding to a level, 0.004, and of its own flow, 0.002.
    """
    x = CLASSES["cat"].sample(gaussians(20, D, seed=3)).clamp(-1, 1)
    found = edit("invert", x, steps=200, label="dog", source_label="cat")
    first, top = (float(gamma) for gamma in model().timeline.chain()[[1, -1]])
    assert found.latents is not None
    z = flow(before(x, CLASSES["cat"], first), CLASSES["cat"], (first, top))
    torch.testing.assert_close(found.latents.flatten(1).double(), z, atol=0.02, rtol=0)
    z_1 = flow(z, CLASSES["dog"], (top, first))
    y = CLASSES["dog"].denoise(z_1, torch.full((len(x),), first))
    torch.testing.assert_close(values(found.images), y.clamp(-1, 1), atol=0.01, rtol=0)
    assert "given label dog from label cat" in found.how
    assert "root mean square change" in found.how


def test_with_one_label_there_and_back_an_image_stays() -> None:
    """And the latent of an image whose label is unknown is that of p(x)."""
    x = CLASSES["dog"].sample(gaussians(5, D, seed=4))
    same = edit("invert", x, label="dog", source_label="dog")
    assert same.error is not None
    assert float(same.error.max()) < 0.03  # of 60 steps
    assert "root mean square error" in same.how
    free, new = edit("invert", x), edit("invert", x, label="cat")
    assert free.latents is not None
    assert new.latents is not None
    assert torch.equal(free.latents, new.latents)
    assert not torch.equal(free.images, new.images)
    way = edit("interpolate", x[:2], frames=3, label="dog")
    assert torch.equal(way.images[[0, -1]], same.images[:2])


def test_an_edit_does_not_depend_on_its_batches() -> None:
    many, few = (edit("vary", X.expand(3, D), 2, 5, batch=batch, label="dog").images for batch in (6, 4))
    assert torch.equal(many, few)


@pytest.mark.parametrize(
    ("verb", "settings", "field"),
    [
        ("vary", {"label": "cow"}, "label"),
        ("invert", {"label": "cat", "source_label": "cow"}, "source_label"),
    ],
)
def test_an_unknown_class_is_refused(verb: str, settings: dict[str, str], field: str) -> None:
    with pytest.raises(InputError, match="classes") as error:
        edit(verb, X, steps=2, **settings)
    assert error.value.where == field


def test_a_source_has_a_target_and_only_invert_has_a_source() -> None:
    for verb, named in (("invert", {"source_label"}), ("vary", {"label", "source_label"})):
        with pytest.raises(InputError) as error:
            require_used(verb, named)
        assert error.value.where == "source_label"
