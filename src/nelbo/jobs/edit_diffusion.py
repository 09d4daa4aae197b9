"""The verbs of ``nelbo edit`` for a diffusion model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from nelbo.diffusion.denoiser import NetworkDenoiser
from nelbo.diffusion.known import NOTHING, Known
from nelbo.diffusion.samplers import DDIM, State
from nelbo.diffusion.spacing import karras_steps
from nelbo.editing.clusters import cluster_law, noised_cluster_law
from nelbo.editing.constraints import Seen
from nelbo.editing.latents import from_latent, slerp, to_latent
from nelbo.editing.methods import Method, Numbers
from nelbo.editing.variation import lower_part, vary
from nelbo.jobs.edit_task import Drawing, Task, drawn_in_batches
from nelbo.models.diffusion import Diffusion
from nelbo.nn.clusters import drawn_by
from nelbo.rng import Stream
from nelbo.theory.likelihoods import to_levels

STEPS = 50


class DiffusionEditor:
    """Edits images with a diffusion model.

    Args:
        model: the model.
        steps: the number of steps; None for STEPS, or all steps of a shorter chain.
        clip: whether to clamp x̂_0 to [−1, 1], except in latents.
        known: the label of what is drawn; nothing for p(x).
        source: the label of the given images, for their latents.
    """

    def __init__(
        self, model: Diffusion, steps: int | None, clip: bool, known: Known = NOTHING, source: Known = NOTHING
    ) -> None:
        self.model, self.clip, self.known = model, clip, known
        self.source = source
        gammas = model.timeline.gammas
        self.steps = steps or (STEPS if gammas is None else min(STEPS, len(gammas) - 1))
        self.gammas = model.timeline.descending(self.steps)

    def conditioned(self, task: Task, method: Method) -> Drawing:
        """inpaint and upscale: images that fulfil the task's constraint."""
        seen, model = task.seen(self.model.device), self.model
        batch = max(1, task.batch // method.particles)
        law = None if model.clusters is None else cluster_law(model.clusters, seen, self.known.label)

        def steps(rows: Tensor, numbers: Numbers) -> Iterator[State]:
            some = Seen(seen.constraint, seen.known[rows])
            denoiser = self.told_clusters(None if law is None else law[rows], numbers, method.particles)
            return method.draw(denoiser, some, self.gammas, numbers, self.clip)

        done = drawn_in_batches(task, model, steps, self.steps, batch)
        return done._replace(evaluations=method.evaluations(self.steps))

    def told_clusters(self, law: Tensor | None, numbers: Numbers, copies: int = 1) -> NetworkDenoiser:
        """The denoiser, told a cluster of each image that is drawn from its law.

        Args:
            law: the probability of each cluster, of each image, shape (B, K); None for a model without clusters.
            numbers: the random numbers of the images.
            copies: the number of z of each image.
        """
        clusters = self.model.clusters
        if clusters is None or law is None:
            return self.told(self.known, None)
        drawn = drawn_by(law, numbers(0).uniform(Stream.EDIT_CLUSTER))
        pictures = clusters.picture(drawn).repeat_interleave(copies, 0)
        return self.told(self.known, pictures)

    def varied(self, task: Task, strength: float) -> tuple[Drawing, float]:
        """vary: images noised to t = S, and drawn again; and γ(S)."""
        gammas, x = lower_part(self.gammas, strength), task.x.to(self.model.device)
        clusters = self.model.clusters

        def steps(rows: Tensor, numbers: Numbers) -> Iterator[State]:
            def noise(number: int) -> Tensor:
                return numbers(number).normal(Stream.EDIT, self.model.shape)

            def informed(z: Tensor, gamma: Tensor) -> NetworkDenoiser:
                law = None if clusters is None else noised_cluster_law(clusters, x[rows], z, gamma, self.known.label)
                return self.told_clusters(law, numbers)

            return vary(DDIM(1.0), informed, x[rows], gammas, noise, self.clip)

        done = drawn_in_batches(task, self.model, steps, len(gammas) - 1, task.batch)
        return done._replace(evaluations=len(gammas) - 1), float(gammas[0])

    @property
    def flow_gammas(self) -> Tensor:
        """γ of the deterministic flow, with Karras's spacing."""
        return karras_steps(self.model.timeline.chain(), self.steps)

    def latents(self, task: Task) -> tuple[Tensor, Tensor]:
        """The latent of each image, and the image that it gives on [−1, 1], both of shape (M, C, H, W)."""
        pairs = []
        for x in torch.split(task.x.to(self.model.device), task.batch):
            z = to_latent(self.told(self.source, self.pictures(x, self.source)), x, self.flow_gammas)
            back = from_latent(self.told(self.known, self.pictures(x, self.known)), z, self.flow_gammas)
            pairs.append((z.cpu(), back.cpu()))
        z, back = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return z, back

    def told(self, known: Known, pictures: Tensor | None) -> NetworkDenoiser:
        """The denoiser, told this and the mean image of a cluster of each image; None for none."""
        return self.model.denoiser.given(replace(known, picture=pictures))

    def pictures(self, x: Tensor, known: Known) -> Tensor | None:
        """The mean of the cluster c(x, y) of each image in [−1, 1], or None for a model without clusters."""
        clusters = self.model.clusters
        return None if clusters is None else clusters.picture(clusters(x.to(self.model.device), known.label))

    def between(self, z: Tensor, pictures: Tensor | None, count: int, batch: int) -> Tensor:
        """Images on the way from one latent to another, as levels, shape (count, C, H, W).

        Args:
            z: two latents, shape (2, C, H, W).
            pictures: the means m of their clusters, of the same shape; at u the network sees (1 − u) m_1 + u m_2. None
                for a model without clusters.
            count: the number of images.
            batch: images at a time.
        """
        share = torch.linspace(0, 1, count, dtype=torch.float64)
        points = slerp(z[:1].expand(count, *z.shape[1:]), z[1:].expand(count, *z.shape[1:]), share)
        mixed, parts = None, []
        if pictures is not None:
            u = share.to(pictures)[:, None, None, None]
            mixed = (1 - u) * pictures[:1] + u * pictures[1:]
        for rows in torch.split(torch.arange(count), batch):
            denoiser = self.told(self.known, None if mixed is None else mixed[rows])
            parts.append(from_latent(denoiser, points[rows].to(self.model.device), self.flow_gammas))
        return to_levels(torch.cat(parts), self.model.levels).cpu()
