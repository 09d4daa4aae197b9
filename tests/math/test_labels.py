"""A diffusion model of labels: its bound class by class, guidance, its samples' law, and what its network is told."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from math_helpers import assert_bound_needs_its_cluster, one_step_evidence
from scipy import stats
from torch import Tensor, nn

from nelbo.diffusion.guidance import Guided
from nelbo.diffusion.known import Known
from nelbo.diffusion.process import rates
from nelbo.diffusion.schedules import BetaTable
from nelbo.errors import InputError
from nelbo.metrics import score_likelihood
from nelbo.models._diffusion_clusters import HIDDEN
from nelbo.models._labels import named_classes
from nelbo.models.diffusion import Diffusion, in_steps
from nelbo.models.gan import GAN, GANOptions
from nelbo.models.sampling import SampleSettings
from nelbo.nn.unet import UNet
from nelbo.rng import Draws
from nelbo.torch_settings import default_dtype

CPU = torch.device("cpu")
SHAPE, LEVELS, SPREAD = (1, 2, 2), 17, 0.15
CLASSES, OFFSETS, PRIOR = ("low", "middle", "high"), (-0.25, 0.0, 0.2), (0.5, 0.2, 0.3)
MEANS, SHARES = (-0.5, 0.5), (0.4, 0.6)
BY_LABEL = ((0.9, 0.1), (0.5, 0.5), (0.2, 0.8))
"""P(c|y) of every class."""


def log_joint(z: Tensor, gamma: Tensor, mean: Tensor) -> Tensor:
    """ln P(y) p(z|y) of x ~ N(mean + d_y, SPREAD² I) for every y, shape (B, 3)."""
    signal, noise = rates(gamma.double(), z)
    var = (SPREAD * signal).square() + noise.square()
    found = []
    for offset, share in zip(OFFSETS, PRIOR, strict=True):
        log_prob = -0.5 * ((z - signal * (mean + offset)).square() / var + torch.log(2 * math.pi * var))
        found.append(math.log(share) + log_prob.flatten(1).sum(1))
    return torch.stack(found, 1)


class Mixture(nn.Module):
    """E[x|z, y] of x ~ N(m + d_y, SPREAD² I), with y unknown E[x|z]; m is the picture, or 0. It records what it sees.

    Args:
        only: a class that takes the place of every label.
    """

    def __init__(self, only: int | None = None) -> None:
        super().__init__()
        self.only, self.scale = only, nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor | None, Tensor | None]] = []

    def forward(self, z: Tensor, gamma: Tensor, picture: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        self.seen.append((picture, label))
        mean = torch.zeros_like(z) if picture is None else picture
        weight = log_joint(z, gamma, mean).softmax(1).to(z)
        label = torch.zeros(len(z), dtype=torch.long) if label is None else label
        label = label if self.only is None else torch.full_like(label, 1 + self.only)
        told = nn.functional.one_hot((label - 1).clamp(min=0), len(OFFSETS)).to(z)
        weight = torch.where(label[:, None] > 0, told, weight)
        signal, noise = rates(gamma.double(), z)
        gain = SPREAD**2 * signal / ((SPREAD * signal).square() + noise.square())
        mean = mean + (weight @ torch.tensor(OFFSETS).to(z)).reshape(-1, 1, 1, 1)
        return self.scale * (mean + gain * (z - signal * mean))


class Decoded(Mixture):
    """The same, and a learned ln σ of a decoder."""

    def forward(self, z: Tensor, gamma: Tensor, picture: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        return torch.cat([super().forward(z, gamma, picture, label), torch.zeros_like(z)], 1)


def model_of(clusters: int = 0, network: nn.Module | None = None, labels: bool = True, **settings: Any) -> Diffusion:
    """A model of p(x|y), with two clusters of these means and shares in each class if it has any."""
    given: dict[str, Any] = {"predict": "x0", "timesteps": 8, "classes": CLASSES if labels else ()} | settings
    model = Diffusion(network or Mixture(), SHAPE, LEVELS, **given, clusters=clusters)
    if model.clusters is not None:
        model.clusters.centres[:2] = torch.tensor(MEANS)[:, None]
        model.clusters.shares[:2] = torch.tensor(SHARES)
        if labels:
            model.clusters.shares_by_label.zero_()
            model.clusters.shares_by_label[:, :2] = torch.tensor([SHARES, *BY_LABEL])
    return model.eval()


def images(n: int = 24) -> tuple[Tensor, list[str]]:
    """Images of all clusters and classes, and their labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    x_0 = rng.choice(MEANS, (n, 1, 1, 1)) + np.array(OFFSETS)[y].reshape(-1, 1, 1, 1)
    x_0 = x_0 + SPREAD * rng.standard_normal((n, *SHAPE))
    return torch.from_numpy(((x_0.clip(-1, 1) + 1) * 8).round().astype(np.uint8)), [CLASSES[k] for k in y]


def rows_of(labels: list[str], k: int) -> Tensor:
    """Which images are of class k."""
    return torch.tensor([name == CLASSES[k] for name in labels])


@pytest.mark.parametrize("clusters", [0, 3])
@pytest.mark.parametrize("form", ["denoising", "consistency", "trajectory", "iw", "entropy", "ode"])
def test_the_bound_given_a_label_is_that_of_a_model_of_this_class(form: str, clusters: int) -> None:
    """A model without labels that knows only this class, with P(c|y) for P(c), and the same noise; to round-off.

    The solver of ode chooses its steps for the whole batch, so that its own error, 0.01 nats, differs.
    """
    x, labels = images()
    error = 0.01 if form == "ode" else 1e-4
    found = model_of(clusters).bound(x, form=form, k=2, labels=labels)
    for k in range(3):
        alone, rows = model_of(clusters, Mixture(only=k), labels=False), rows_of(labels, k)
        if alone.clusters is not None:
            alone.clusters.shares[:2] = torch.tensor(BY_LABEL[k])
        wanted = alone.bound(x, form=form, k=2)
        assert set(found.terms) == set(wanted.terms)
        for name, nats in wanted.terms.items():
            torch.testing.assert_close(found.terms[name][rows], nats[rows], rtol=1e-5, atol=error)


@pytest.mark.parametrize("k", range(3))
def test_a_label_has_the_nearest_of_its_own_clusters(k: int) -> None:
    """The same, where each class has two of three clusters, and the nearest of all is often the third."""
    own = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.2, 0.0, 0.8]], dtype=torch.float64)
    x, _ = images()
    labelled, alone = model_of(3), model_of(3, Mixture(only=k), labels=False)
    for model in (labelled, alone):
        assert model.clusters is not None
        model.clusters.centres.copy_(torch.tensor([*MEANS, 0.0])[:, None])
    assert labelled.clusters is not None
    assert alone.clusters is not None
    labelled.clusters.shares_by_label[1:] = own
    alone.clusters.shares.copy_(own[k])
    found, wanted = labelled.bound(x, labels=[CLASSES[k]] * len(x)), alone.bound(x)
    assert set(found.terms) == set(wanted.terms)
    for name, nats in wanted.terms.items():
        torch.testing.assert_close(found.terms[name], nats, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("clusters", [0, 3])
def test_without_labels_the_bound_is_that_of_a_model_without(clusters: int) -> None:
    x, _ = images()
    found, wanted = model_of(clusters).bound(x), model_of(clusters, labels=False).bound(x)
    for name, nats in wanted.terms.items():
        assert torch.equal(found.terms[name], nats)


def test_in_continuous_time_and_in_other_steps_too() -> None:
    x, labels = images()
    for change in (lambda model: model, lambda model: in_steps(model, 3)):
        found = change(model_of(3, timesteps=None)).bound(x, labels=labels).total
        alone = change(model_of(0, Mixture(only=2), labels=False, timesteps=None))
        picture = model_of(3, Mixture(only=2), labels=False, timesteps=None)
        assert picture.clusters is not None
        picture.clusters.shares[:2] = torch.tensor(BY_LABEL[2])
        rows = rows_of(labels, 2)
        torch.testing.assert_close(found[rows], change(picture).bound(x).total[rows], rtol=1e-5, atol=1e-4)
        assert not torch.allclose(found[rows], alone.bound(x).total[rows], rtol=1e-3, atol=0)


@pytest.mark.parametrize("k", range(3))
def test_the_bound_holds(k: int) -> None:
    """E[bound] ≥ −ln Σ_c P(c|y) p(x|c, y) for every level, by quadrature over z_1 of a chain of one step, β_1 = 0.9."""
    model = Diffusion(
        Mixture(),
        (1, 1, 1),
        LEVELS,
        predict="x0",
        schedule=BetaTable((0.9,)),
        timesteps=1,
        clusters=2,
        classes=CLASSES,
    )
    model.eval()
    assert model.clusters is not None
    model.clusters.centres.copy_(torch.tensor(MEANS)[:, None])
    model.clusters.shares.copy_(torch.tensor(SHARES))
    model.clusters.shares_by_label.copy_(torch.tensor([SHARES, *BY_LABEL]))
    x = torch.arange(LEVELS, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    found = model.bound(x, replicates=400, labels=[CLASSES[k]] * LEVELS)
    parts = [
        (share, lambda z, m=mean: Known(torch.full_like(z, m), torch.full((len(z),), k + 1)))
        for mean, share in zip(MEANS, BY_LABEL[k], strict=True)
    ]
    assert_bound_needs_its_cluster(found, one_step_evidence(model, parts))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_the_guided_field_is_a_combination_of_scores(scale: float) -> None:
    """ε̂ = −√(1 − ᾱ) ∇ ln [p(z)^{1 − g} p(z|y)^g], by gradients of exact densities; of p(z|y) outside the interval."""
    model, n = model_of().double(), 200
    z = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    gamma = torch.linspace(-6, 6, n, dtype=torch.float64)
    label = torch.arange(n) % 3 + 1
    guided = Guided(model.denoiser.given(Known(label=label)), scale, (-3.0, 2.0))
    with torch.no_grad(), default_dtype(torch.float64):
        found = guided(z, gamma)
    joint = log_joint(z, gamma, torch.zeros_like(z))
    inside = (gamma >= -3) & (gamma <= 2)
    g = torch.where(inside, scale, 1.0)
    of_class = joint.gather(1, label[:, None] - 1)[:, 0]
    ((1 - g) * joint.logsumexp(1) + g * of_class).sum().backward()
    assert z.grad is not None
    signal, noise = rates(gamma, z)
    torch.testing.assert_close(found.eps, -noise * z.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(signal * found.x_0 + noise * found.eps, z.detach(), rtol=1e-12, atol=1e-12)
    assert 0 < int(inside.sum()) < n


def test_guidance_away_from_a_weaker_model_is_a_combination_of_both_scores() -> None:
    """ε̂ = −√(1 − ᾱ) ∇ ln [p′(z|y)^{1 − g} p(z|y)^g], where p′ is the density of the labels in another order."""
    model, n, scale = model_of().double(), 200, 3.0
    z = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    gamma, label = torch.linspace(-6, 6, n, dtype=torch.float64), torch.arange(n) % 3 + 1
    other = label % 3 + 1
    away_from = model.denoiser.given(Known(label=other))
    with torch.no_grad(), default_dtype(torch.float64):
        found = Guided(model.denoiser.given(Known(label=label)), scale, away_from=away_from)(z, gamma)
    joint = log_joint(z, gamma, torch.zeros_like(z))
    (scale * joint.gather(1, label[:, None] - 1) + (1 - scale) * joint.gather(1, other[:, None] - 1)).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(found.eps, -rates(gamma, z)[1] * z.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clusters", [0, 3])
def test_a_weaker_model_is_told_the_same(clusters: int) -> None:
    network, weak = Mixture(), Mixture()
    model, weaker = model_of(clusters, network), model_of(clusters, weak)
    model.sample(6, label="all", guidance=2.0, weaker=weaker, sampler="ancestral")
    assert len(network.seen) == len(weak.seen) == 9
    for strong, other in zip(network.seen, weak.seen, strict=True):
        for one, two in zip(strong, other, strict=True):
            assert (one is None) == (two is None)
            assert one is None or torch.equal(one, two)


def test_a_weaker_model_that_is_the_same_changes_nothing() -> None:
    """ε̂ + g (ε̂ − ε̂) = ε̂; and it needs neither a label nor a cluster."""
    model, how = model_of(), {"steps": 5}
    alone = model.sample(4, **how)
    assert torch.equal(model.sample(4, weaker=copy.deepcopy(model), guidance=7.0, **how), alone)
    assert torch.equal(model.sample(4, weaker=copy.deepcopy(model), **how), alone)


def test_a_weaker_model_of_other_images_is_refused() -> None:
    model, other = model_of(), model_of()
    other.levels = 3
    with pytest.raises(InputError, match="weaker: must be a diffusion of images of the same shape"):
        model.sample(2, weaker=other)


@pytest.mark.parametrize("label", [None, "all"])
def test_guidance_is_away_from_images_of_which_nothing_is_known(label: str | None) -> None:
    network = Mixture()
    model = model_of(3, network)
    model.sample(6, label=label, guidance=2.0, sampler="ancestral")
    told, free = network.seen[0::2], network.seen[1::2]
    assert len(told) == len(free) == 9  # of 8 steps between latents, and the decoder
    for (picture, known), nothing in zip(told, free, strict=True):
        assert picture is not None
        assert nothing == (None, None)
        assert known is None if label is None else known.tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++", "unipc", "heun"])
def test_without_an_effect_guidance_changes_nothing(sampler: str) -> None:
    """g = 1 is p(x|y), g = 0 with unknown clusters p(x); an interval without any γ is no guidance; 2 is the default."""
    model, how = model_of(), {"sampler": sampler, "steps": 5}
    labelled, free = model.sample(9, label="high", guidance=1.0, **how), model.sample(9, **how)
    assert torch.equal(model.sample(9, label="high", guidance=0.0, **how), free)
    outside = {"guidance": 5.0, "guidance_interval": (100.0, 200.0)}
    assert torch.equal(model.sample(9, label="high", **outside, **how), labelled)
    guided = model.sample(9, label="high", guidance=2.0, **how)
    assert not torch.equal(guided, labelled)
    assert torch.equal(model.sample(9, label="high", **how), guided)


@pytest.mark.parametrize("clusters", [0, 3])
@pytest.mark.parametrize(("T", "objective"), [(8, "bound"), (8, "simple"), (None, "bound")])
def test_training_tells_the_network_the_images_own_label(T: int | None, objective: str, clusters: int) -> None:
    """Or 0, for label_dropout of the images with a picture, and half of those without; rows for the decoder as their
    images. The counts are binomial: four standard deviations."""
    network, share = Decoded(), 0.25
    settings = {"timesteps": T, "objective": objective, "label_dropout": share, "decoder": "learned_gaussian"}
    model = model_of(clusters, network, **settings).train()
    x, names = images(64)
    y = torch.tensor([CLASSES.index(name) + 1 for name in names])
    hidden = n = alone = 0
    for step in range(60):
        network.seen.clear()
        model.loss(x, Draws(0, step, range(64), 64, CPU, y))
        ((picture, label),) = network.seen
        assert label is not None
        of = torch.cat([torch.arange(64), torch.arange(0, 64, 32)])[: 64 if T else 66]  # one in 32 also at t = 0
        assert len(label) == len(of)
        assert torch.equal(label[64:], label[of[64:]])
        assert torch.equal(label[label > 0], y[of][label > 0])
        seen = torch.ones(64, dtype=torch.bool)
        if picture is not None:
            seen = ~(picture == 0).flatten(1).all(1)[:64]
            alone += int((label[:64][~seen] == 0).sum())
        hidden, n = hidden + int((label[:64][seen] == 0).sum()), n + int(seen.sum())
    assert abs(hidden - share * n) < 4 * math.sqrt(n * share * (1 - share))
    whole = 60 * 64 * (1 - HIDDEN if clusters else 1)
    assert abs(n - whole) < 4 * math.sqrt(whole * HIDDEN) * bool(clusters) + 0.5
    without = 60 * 64 - n
    assert abs(alone - without / 2) <= 4 * math.sqrt(without / 4)


def test_samples_of_a_label_follow_its_law() -> None:
    """c by P(c|y), by χ²; each pixel then N(m_c + d_y, SPREAD²), by KS; image i is of class i mod 3."""
    model = model_of(3, timesteps=200, schedule="cosine")
    settings = SampleSettings(sampler="ancestral", clip=False, label="all", guidance=1.0)
    with torch.no_grad():
        *_, last = model.frames(range(3000), 3, settings)
    value = last.x.double().numpy().reshape(1000, 3, -1)
    for k, offset in enumerate(OFFSETS):
        mine = value[:, k]
        nearest = (np.abs(mine.mean(1)[:, None] - offset - np.array(MEANS))).argmin(1)
        counts = np.bincount(nearest, minlength=2)
        assert stats.chisquare(counts, 1000 * np.array(BY_LABEL[k])).pvalue > 0.005
        for c, mean in enumerate(MEANS):
            assert stats.kstest(mine[nearest == c][:, 0], stats.norm(mean + offset, SPREAD).cdf).pvalue > 0.001


def test_samples_without_a_label_follow_the_mixture_of_classes() -> None:
    model = model_of(timesteps=200, schedule="cosine")
    with torch.no_grad():
        *_, last = model.frames(range(2000), 4, SampleSettings(sampler="ancestral", clip=False))
    pixel = last.x.double().numpy().reshape(2000, -1)[:, 0]

    def cdf(v: np.ndarray) -> np.ndarray:
        return sum(share * stats.norm(d, SPREAD).cdf(v) for share, d in zip(PRIOR, OFFSETS, strict=True))

    assert stats.kstest(pixel, cdf).pvalue > 0.001


def test_an_image_of_a_seed_and_labels_does_not_depend_on_the_others() -> None:
    model = model_of(3)
    together = model.sample(7, seed=5, label="low,high")
    assert torch.equal(together[4:6], model.sample(2, seed=5, start=4, batch=1, label=("low", "high")))


def test_labels_of_a_score_belong_to_their_images() -> None:
    """Any batch size and rows give the bound of each image with its own label and noise."""
    x, labels = images(10)
    model, y = model_of(3), torch.tensor([CLASSES.index(name) + 1 for name in labels])
    whole = score_likelihood(model, x, labels=y)
    parts = [score_likelihood(model, x, labels=y, batch=3, rows=rows) for rows in (range(0, 4), range(4, 10))]
    together = torch.cat([part.estimates() for part in parts])
    torch.testing.assert_close(together, whole.estimates(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(whole.estimates()[:, 0], model.bound(x, labels=labels).total.double(), rtol=1e-5, atol=0)


def test_the_u_net_of_labels_starts_as_one_without() -> None:
    """The same weights and outputs with all labels; then the vector of a class acts on its images alone."""

    def unet(classes: int) -> UNet:
        torch.manual_seed(0)
        network = UNet(1, 1, widths=(8, 8), blocks=1, attention=(), dropout=0.0, classes=classes)
        torch.nn.init.normal_(network.head[-1].weight)
        torch.nn.init.normal_(network.up[0].blocks[0].conv_2.weight)
        return network

    plain, labelled = unet(0), unet(3)
    assert labelled.state_dict().keys() - plain.state_dict().keys() == {"labels"}
    z, time, label = torch.randn(4, 1, 6, 5), torch.rand(4), torch.tensor([0, 1, 3, 1])
    assert torch.equal(plain(z, time), labelled(z, time, None, None, label))
    with torch.no_grad():
        assert labelled.labels is not None
        labelled.labels[3] = 1.0
    found = labelled(z, time, None, None, label)
    changed = (found != plain(z, time)).flatten(1).any(1)
    assert changed.tolist() == [False, False, True, False]
    found.sum().backward()
    assert (labelled.labels.grad != 0).any(1).tolist() == [True, True, False, True]
    with torch.no_grad():
        labelled.labels[0] = 0.5
    unknown = labelled(z, time, None, None, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(labelled(z, time), unknown, rtol=1e-6, atol=1e-6)


def test_names_of_classes() -> None:
    classes = ("cat", "dog", "cat, small")
    assert named_classes(classes, "all") == list(classes)
    assert named_classes(classes, "dog, cat") == ["dog", "cat"]
    assert named_classes(classes, "cat, small") == ["cat, small"]
    assert named_classes(classes, ("cat, small", "dog")) == ["cat, small", "dog"]
    assert named_classes(("all", "none"), "all") == ["all"]
    for label in ("dgo", "", "cat,", "Cat", ()):
        with pytest.raises(InputError, match="label"):
            named_classes(classes, label)
    with pytest.raises(InputError, match="did you mean 'dog'"):
        named_classes(classes, "dgo")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"label": "hihg"}, "label"),
        ({"guidance": 2.0}, "guidance"),
        ({"label": "high", "guidance": -1.0}, "guidance"),
        ({"label": "high", "guidance": math.inf}, "guidance"),
        ({"label": "high", "guidance": 1e308}, "guidance"),
        ({"label": "high", "guidance": math.nan}, "guidance"),
        ({"guidance_interval": (0.0, 1.0)}, "guidance_interval"),
        ({"label": "high", "guidance": 2.0, "guidance_interval": (1.0, 0.0)}, "guidance_interval"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        model_of().sample(1, **settings)
    assert error.value.where == field


def test_a_model_without_labels_refuses_them() -> None:
    x, labels = images(3)
    plain = model_of(labels=False)
    gan = GAN.from_options(GANOptions().resolved((1, 8, 8)), (1, 8, 8), 17)
    for call in (
        lambda: plain.sample(1, label="high"),
        lambda: plain.bound(x, labels=labels),
        lambda: gan.sample(1, label="high"),
        lambda: model_of().bound(x, labels=labels[:2]),
        lambda: model_of().bound(x, labels=["high", "low", "hgih"]),
        lambda: model_of(classes=("a", "a")),
        lambda: model_of(classes="ab"),
        lambda: model_of(label_dropout=0.0),
    ):
        with pytest.raises(InputError, match=r"label|classes"):
            call()
