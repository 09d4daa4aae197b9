"""Labels of models with latents: bounds and samples class by class, by exact evidences and by unlabelled models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from nelbo.diffusion.known import Known
from nelbo.models._imputation import impute, latent_space
from nelbo.models._labels import shown_labels
from nelbo.models.base import LikelihoodModel
from nelbo.models.hvae import HVAE, HVAEOptions
from nelbo.models.recipe import label_vectors
from nelbo.models.vae import VAE, VAEOptions
from nelbo.options import FamilyOptions
from nelbo.rng import Draws
from nelbo.theory.likelihoods import to_unit

CPU = torch.device("cpu")
SHAPE, LEVELS, CLASSES = (1, 5, 6), 5, ("low", "high")
X = torch.randint(0, LEVELS, (6, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
Y = ["low", "high", "high", "low", "high", "low"]


# A linear Gaussian model, whose evidence is known

WEIGHT, SPREAD = torch.tensor([0.5, -0.3, 0.8]), 0.4
MEANS = torch.tensor([[0.1, 0.0, 0.2], [-0.5, 0.3, 0.0], [0.4, 0.6, -0.2]])
"""The mean of images without a label, and of each class."""
VAR = 1 / (1 + float(WEIGHT.square().sum()) / SPREAD**2)
"""The variance of z given an image and its label."""


def mean_of(label: Tensor | None, n: int) -> Tensor:
    return MEANS[torch.zeros(n, dtype=torch.long) if label is None else label]


class Decoder(nn.Module):
    """z ↦ m_y + w z."""

    def forward(self, z: Tensor, *, label: Tensor | None = None) -> Tensor:
        return mean_of(label, len(z)) + z * WEIGHT


class Encoder(nn.Module):
    """The posterior N(VAR wᵀ(x − m_y)/SPREAD², VAR), with its mean off by a shift."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x_0: Tensor, *, label: Tensor | None = None) -> Tensor:
        mean = VAR * (x_0.flatten(1) - mean_of(label, len(x_0))) @ WEIGHT / SPREAD**2 + self.shift
        return torch.stack([mean, torch.full_like(mean, math.log(VAR))], 1)


class Density(NamedTuple):
    """The density of N(mean, SPREAD²) at levels on [−1, 1]."""

    mean: Tensor

    def log_prob(self, level: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean, SPREAD).log_prob(to_unit(level, LEVELS).flatten(1))

    def expectation(self) -> Tensor:
        return self.mean.reshape(-1, 1, 1, 3)


def linear(shift: float = 0.0) -> VAE:
    return VAE(Encoder(shift), Decoder(), (1, 1, 3), LEVELS, latent=1, likelihood=Density, classes=CLASSES).eval()


def evidence(x: Tensor, k: int) -> Tensor:
    """−ln N(x; m_k, w wᵀ + SPREAD² I), in nats."""
    cov = WEIGHT.outer(WEIGHT).double() + SPREAD**2 * torch.eye(3, dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(MEANS[k].double(), cov)
    return -law.log_prob(to_unit(x, LEVELS).double().flatten(1))


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("form", ["sampled", "iw"])
def test_with_the_exact_posterior_the_bound_is_the_evidence_of_the_class(form: str, k: int) -> None:
    """At every z, since p(x, z|y)/q(z|x, y) = p(x|y); 1e-4 is round-off. Class 0 is an unknown label."""
    x = torch.cartesian_prod(*[torch.arange(LEVELS)] * 3).reshape(-1, 1, 1, 3)
    found = linear().bound(x, form=form, k=3, labels=[CLASSES[k - 1]] * len(x) if k else None)
    torch.testing.assert_close(found.total.double(), evidence(x, k), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_with_another_posterior_the_bound_is_above_by_their_divergence(k: int) -> None:
    """KL(q ‖ posterior) = ½ shift²/VAR, within four standard errors of 20,000 draws."""
    x, shift = torch.tensor([1, 4, 2]).reshape(1, 1, 1, 3).expand(20_000, 1, 1, 3), 0.3
    found = linear(shift).bound(x, labels=[CLASSES[k - 1]] * len(x) if k else None).total.double()
    wanted = float(evidence(x[:1], k)) + 0.5 * shift**2 / VAR
    assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / math.sqrt(len(x))
    assert wanted - float(evidence(x[:1], k)) > 20 * float(found.std()) / math.sqrt(len(x))


# nelbo's networks

KINDS: dict[str, tuple[type[LikelihoodModel], type[FamilyOptions], dict[str, Any]]] = {
    "vae": (VAE, VAEOptions, {"latent": 2}),
    "top-down": (HVAE, HVAEOptions, {"latent": 2, "depth": 3}),
    "stream": (HVAE, HVAEOptions, {"latent": 2, "depth": 2, "stream": True}),
    "bottom-up": (HVAE, HVAEOptions, {"latent": 2, "depth": 2, "inference": "bottom-up"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind: str, labels: bool = True, random: bool = True) -> Any:
    """A small model; ``random`` moves every weight away from where it starts."""
    family, options, settings = KINDS[kind]
    settings = {**settings, "widths": (8, 8), **({"labels": True, "classes": CLASSES} if labels else {})}
    torch.manual_seed(0)
    model = family.from_options(options.model_validate(settings).resolved(SHAPE), SHAPE, LEVELS)
    with torch.no_grad():
        for parameter in model.parameters() if random else ():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def only(kind: str, name: str) -> Any:
    """The same model with the vectors of one class in the place of those of an unknown label."""
    model = model_of(kind)
    with torch.no_grad():
        for vectors in label_vectors(model.modules()):
            vectors[0] = vectors[1 + CLASSES.index(name)]
    return model


@every_kind
def test_the_bound_given_a_label_is_that_of_a_model_of_this_class(kind: str) -> None:
    """In every form and with the same noise; to round-off."""
    model = model_of(kind)
    for form in model.forms:
        found = model.bound(X, form=form, k=2, labels=Y)
        for name in CLASSES:
            rows = torch.tensor([y == name for y in Y])
            alone = only(kind, name).bound(X, form=form, k=2)
            for term, nats in alone.terms.items():
                torch.testing.assert_close(found.terms[term][rows], nats[rows], rtol=1e-5, atol=1e-4)
        free = model.bound(X, form=form, k=2).total
        assert bool(((found.total - free).abs() > 1e-3).all())


@every_kind
def test_samples_and_imputations_of_a_label_are_those_of_a_model_of_this_class(kind: str) -> None:
    model = model_of(kind)
    drawn = model.sample(6, label="high,low")
    for k, name in enumerate(("high", "low")):
        assert torch.equal(drawn[k::2], only(kind, name).sample(6)[k::2])
    seen = torch.arange(6) < 3

    def filled(model: Any, known: Known) -> Tensor:
        space = latent_space(model, known)
        assert space is not None
        *_, last = impute(space, X, seen, LEVELS, 2, lambda k: Draws(0, k, range(6), 6, CPU))
        return last

    with torch.no_grad():
        found = filled(model, Known(label=torch.tensor([2])))
        assert torch.equal(found, filled(only(kind, "high"), Known()))
        assert not torch.equal(found, filled(model, Known()))


@every_kind
def test_an_unknown_label_is_label_0(kind: str) -> None:
    """Beside images whose label is known, or of a batch without any; to round-off."""
    model, form = model_of(kind), next(iter(model_of(kind).forms))
    estimate: Callable[..., Any] = model.forms[form].estimate
    with torch.no_grad():
        free = estimate(X, Draws(0, 0, range(6), 6, CPU), 0)
        zeros = estimate(X, Draws(0, 0, range(6), 6, CPU, torch.tensor([0, 2, 0, 1, 0, 0])), 0)
    rows = torch.tensor([True, False, True, False, True, True])
    torch.testing.assert_close(zeros.total[rows], free.total[rows], rtol=1e-5, atol=1e-4)
    assert bool(((zeros.total - free.total).abs()[~rows] > 1e-3).all())


@every_kind
def test_the_networks_start_as_those_without_labels(kind: str) -> None:
    """The same weights, and the same bound for every label; the vectors are trained, without Muon."""
    plain, labelled = model_of(kind, labels=False, random=False), model_of(kind, random=False)
    weights = labelled.state_dict()
    extra = weights.keys() - plain.state_dict().keys()
    assert extra
    assert all(name.endswith("labels") and not bool(weights[name].any()) for name in extra)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, weights[name])
    assert torch.equal(plain.bound(X).total, labelled.bound(X, labels=Y).total)
    others, vectors = labelled.recipe.groups
    assert len(vectors.parameters) == len(extra)
    assert vectors.momentum is None
    assert len(others.parameters) == len(list(plain.parameters()))
    (group,) = plain.recipe.groups
    assert group.momentum is not None


def test_labels_are_hidden_at_random() -> None:
    """A binomial number of 8,000, four standard deviations; the others are the images' own."""
    y, share = 1 + torch.arange(4000) % 3, 0.3
    hidden = 0
    for step in range(2):
        label = shown_labels(Draws(0, step, range(4000), 4000, CPU, y), share).label
        assert label is not None
        assert torch.equal(label[label > 0], y[label > 0])
        hidden += int((label == 0).sum())
    assert abs(hidden - share * 8000) < 4 * math.sqrt(8000 * share * (1 - share))
    assert shown_labels(Draws(0, 0, range(4), 4, CPU), share).label is None


@every_kind
def test_training_tells_both_networks_the_same_label(kind: str) -> None:
    """The loss is that of each image's own label, or of 0 where it is hidden, with the same noise; to round-off."""
    model, share = model_of(kind), 0.4
    model.label_dropout = share
    y = torch.tensor([1 + CLASSES.index(name) for name in Y])
    for step in range(20):
        draws = Draws(0, step, range(6), 6, CPU, y)
        label = shown_labels(draws, share).label
        assert label is not None
        if len(set(label.tolist())) == 3:
            break
    with torch.no_grad():
        found = model.loss(X, draws)
        for k, alone in enumerate((model, only(kind, "low"), only(kind, "high"))):
            assert bool((label == k).any())
            wanted = alone.loss(X, Draws(0, step, range(6), 6, CPU))
            torch.testing.assert_close(found[label == k], wanted[label == k], rtol=1e-5, atol=1e-5)
