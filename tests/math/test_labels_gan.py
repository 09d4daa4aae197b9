"""Labels of a GAN: game and samples of each class are those of a GAN without labels that has only this class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nelbo.models._labels import shown_labels
from nelbo.models.gan import GAN, GANOptions
from nelbo.rng import Draws

CPU = torch.device("cpu")
SHAPE, LEVELS, CLASSES = (1, 5, 6), 5, ("low", "high")
CLUSTERS, BY_LABEL = 3, torch.tensor([[0.5, 0.3, 0.2], [0.05, 0.85, 0.1], [0.9, 0.05, 0.05]]).double()
X = torch.randint(0, LEVELS, (6, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def gan(labels: bool = True, random: bool = True, **settings: Any) -> GAN:
    """A small GAN with three clusters; ``random`` moves every weight away from where it starts."""
    fields = {"latent": 2, "widths": (8, 8), "clusters": CLUSTERS, "r1": 1.0, **settings}
    fields |= {"labels": True, "classes": CLASSES, "label_dropout": 0.4} if labels else {}
    torch.manual_seed(0)
    model = GAN.from_options(GANOptions.model_validate(fields).resolved(SHAPE), SHAPE, LEVELS)
    with torch.no_grad():
        for parameter in model.parameters() if random else ():
            parameter += 0.2 * torch.randn(parameter.shape)
    assert model.clusters is not None
    model.clusters.centres.copy_(torch.linspace(-1, 1, CLUSTERS)[:, None].expand_as(model.clusters.centres))
    model.clusters.shares.copy_(BY_LABEL[0])
    if labels:
        model.clusters.shares_by_label.copy_(BY_LABEL)
    return model.eval()


def only(k: int, **settings: Any) -> GAN:
    """The same model with what it has of one class in the place of what it has for an unknown label."""
    model: Any = gan(**settings)
    with torch.no_grad():
        model.generator.labels[0] = model.generator.labels[k]
        model.critic.labels.weight[0] = model.critic.labels.weight[k]
    model.clusters.shares.copy_(BY_LABEL[k])
    model.clusters.shares_by_label[0] = BY_LABEL[k]
    return model


@pytest.mark.parametrize("loss", ["non-saturating", "wgan-gp"])
def test_both_players_play_the_game_of_each_class(loss: str) -> None:
    """The loss with its penalty, of 0 where the label is hidden, with the same noise; to round-off."""
    model, y = gan(loss=loss), torch.tensor([1, 2, 1, 2, 1, 2])
    for step in range(0, 80, 4):  # steps with a penalty
        draws = Draws(0, step, range(6), 6, CPU, y)
        label = shown_labels(draws, 0.4).label
        assert label is not None
        if len(set(label.tolist())) == 3:
            break
    found = model.loss(X, draws)
    for k in range(3):
        assert bool((label == k).any())
        wanted = only(k, loss=loss).loss(X, Draws(0, step, range(6), 6, CPU))
        torch.testing.assert_close(found[label == k], wanted[label == k], rtol=1e-4, atol=1e-5)
    free = model.loss(X, Draws(0, step, range(6), 6, CPU))
    assert bool(((found - free).abs()[label > 0] > 1e-4).all())


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_of_a_label_are_those_of_a_gan_of_this_class(steps: int) -> None:
    """With c drawn from P(c|y), and in a chain whose discriminator is told y."""
    model = gan()
    drawn = model.sample(12, label="high,low", steps=steps)
    for k, rows in ((2, slice(0, None, 2)), (1, slice(1, None, 2))):
        assert torch.equal(drawn[rows], only(k).sample(12, steps=steps)[rows])
    assert not torch.equal(drawn, model.sample(12, steps=steps))
    assert torch.equal(model.sample(12, steps=steps), only(0).sample(12, steps=steps))


def test_the_networks_start_as_those_without_labels() -> None:
    """The same weights; what both have of labels is trained with their player."""
    plain, labelled = (gan(labels, random=False) for labels in (False, True))
    weights = labelled.state_dict()
    extra = {"generator.labels", "critic.labels.weight", "clusters.shares_by_label"}
    assert weights.keys() - plain.state_dict().keys() == extra
    for name, value in plain.state_dict().items():
        assert torch.equal(value, weights[name])
    for group, network in zip(labelled.recipe.groups, (labelled.generator, labelled.critic), strict=True):
        assert {id(p) for p in group.parameters} == {id(p) for p in network.parameters()}


def test_in_training_an_image_has_a_cluster_of_its_class() -> None:
    """The loss with the labels of a class is that of a GAN of this class, which has the other two clusters."""
    own = torch.tensor([[0.3, 0.3, 0.4], [0.5, 0.0, 0.5], [0.2, 0.0, 0.8]], dtype=torch.float64)
    model: Any = gan()
    model.label_dropout = 0.0
    model.clusters.shares_by_label.copy_(own)
    for k in (1, 2):
        alone: Any = only(k)
        alone.clusters.shares.copy_(own[k])
        assert not torch.equal(alone.cluster(X.float() / 2 - 1), model.cluster(X.float() / 2 - 1))
        found = model.loss(X, Draws(0, 4, range(6), 6, CPU, torch.full((6,), k)))
        torch.testing.assert_close(found, alone.loss(X, Draws(0, 4, range(6), 6, CPU)), rtol=1e-4, atol=1e-5)
