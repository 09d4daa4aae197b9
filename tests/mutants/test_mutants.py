"""Planted errors that tools for bits/dim have had, one at a time, and the tests that detect each.

A row is one error. The package is copied, the error is written into the copy, and the named tests run on it in their
own process: every test must fail by its own assertion. Without an error all of them pass.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from mutants_helpers import ENVIRONMENT, PRELOADED, SEEN, Answer, Mutant, copied, run_tests

KINDS = (
    "constant dropped",
    "hack constant",
    "entropy left out",
    "wrong Jacobian",
    "clipped prediction",
    "padded dimensions",
    "reversed integral",
    "wrong variance",
    "consistency KL of the notes",
    "wrong weight",
    "wrong standard error",
    "wrong divergence",
    "wrong player",
    "biased",
    "wrong order",
    "wrong noise",
)

MUTANTS = [
    Mutant(
        "constant dropped",
        "ln 2π of every density",
        "theory/normal.py",
        "(2 * math.pi * self.var).log()",
        "self.var.log()",
        ("test_forms.py::test_log_prob_of_a_gaussian_is_torchs",),
    ),
    Mutant(
        "constant dropped",
        "p(x_T) of the trajectory",
        "diffusion/trajectory.py",
        '"prior": -walk.log_p[-1]',
        '"prior": 0.0 * walk.log_p[-1]',
        ("test_forms.py::test_short_trajectories_are_their_densities[2]",),
    ),
    Mutant(
        "constant dropped",
        "(D/2)(β̃/σ² − 1 + ln(σ²/β̃))",
        "diffusion/variances.py",
        "return (weight * error + 0.5 * kl_of_variances(exact, var)).flatten(1).sum(1)",
        "return (weight * error).flatten(1).sum(1)",
        (
            "test_bounds.py::test_diffusion_term_is_the_divergence_it_stands_for[shape0-beta-linear]",
            "test_ddpm.py::test_every_term_is_its_integral[4-beta-beta_1]",
        ),
    ),
    Mutant(
        "constant dropped",
        "(D/2) ln(1 + α β/β) of the consistency form",
        "diffusion/consistency.py",
        "- per_image(known, x_prev))",
        ")",
        (
            "test_forms.py::test_the_summand_integrates_the_log_ratio[beta-linear]",
            "test_forms.py::test_the_forms_of_a_network_agree[v-beta_1-beta]",
        ),
    ),
    Mutant(
        "constant dropped",
        "1/k of the mean of k trajectories",
        "theory/importance.py",
        "math.log(len(costs)) - torch",
        "-torch",
        ("test_importance.py::test_it_lies_between_the_bound_and_the_likelihood",),
    ),
    Mutant(
        "hack constant",
        "the volume of a bin of 256 levels, whatever the levels",
        "diffusion/flow.py",
        "math.log(step)",
        "math.log(1 / 128)",
        ("test_flow.py::test_uniformly_dequantised_levels_have_the_mass_of_their_bins",),
    ),
    Mutant(
        "hack constant",
        "7 bits more, whatever the scale of the data",
        "units.py",
        "return nats / (LN_2 * dims)",
        "return nats / (LN_2 * dims) + 7.0",
        ("test_units.py::test_bits_per_dim_is_the_entropy_in_base_2[1-17]",),
    ),
    Mutant(
        "entropy left out",
        "H_q(X_1|X_0)",
        "diffusion/entropy.py",
        '- entropy_terms(gammas, x_0)["edge"]',
        "- 0.0",
        ("test_forms.py::test_the_entropy_form_and_its_difference_are_the_bound",),
    ),
    Mutant(
        "entropy left out",
        "H_q(X_T|X_0)",
        "diffusion/entropy.py",
        "- entropy_normal(var[-1])",
        "- 0.0",
        ("test_forms.py::test_the_entropies_are_those_of_the_process[linear-50]",),
    ),
    Mutant(
        "entropy left out",
        "ln q(x_t|x_{t−1}) of the trajectory",
        "diffusion/trajectory.py",
        "walk.log_q.sum(0) - walk.log_p[:-1].sum(0)",
        "-walk.log_p[:-1].sum(0)",
        ("test_forms.py::test_short_trajectories_are_their_densities[1]",),
    ),
    Mutant(
        "entropy left out",
        "ln q(z|x) of the dequantising noise",
        "diffusion/flow.py",
        '"dequantisation": log_density(',
        '"dequantisation": 0.0 * log_density(',
        ("test_flow.py::test_the_first_noise_gives_the_law_of_the_levels_at_every_z[-9.0]",),
    ),
    Mutant(
        "wrong Jacobian",
        "levels 2/L apart, not 2/(L − 1)",
        "theory/likelihoods.py",
        "(2.0 / (L - 1)) - 1.0",
        "(2.0 / L) - 1.0",
        ("test_likelihoods.py::test_levels_survive_the_way_to_the_unit_interval_and_back[17]",),
    ),
    Mutant(
        "wrong Jacobian",
        "bins of width 2/L, not 2/(L − 1)",
        "theory/likelihoods.py",
        "half = 1.0 / (self.levels - 1)",
        "half = 1.0 / self.levels",
        (
            "test_likelihoods.py::test_matches_differences_of_scipys_cdf[0.1-17]",
            "test_ddpm.py::test_every_term_is_its_integral[4-beta_tilde-beta_1]",
        ),
    ),
    Mutant(
        "wrong Jacobian",
        "the outermost bins closed",
        "theory/likelihoods.py",
        "torch.where(open_below, below, torch.where(open_above, above, inside))",
        "inside",
        ("test_likelihoods.py::test_probabilities_sum_to_one[0.1-17]",),
    ),
    Mutant(
        "wrong Jacobian",
        "levels 2/L apart in VDM's decoder",
        "diffusion/levels.py",
        "dtype=self.y.dtype) * (2.0 / (self.L - 1))",
        "dtype=self.y.dtype) * (2.0 / self.L)",
        ("test_vdm.py::test_the_posterior_is_the_law_over_all_levels[-5.0-17]",),
    ),
    Mutant(
        "constant dropped",
        "a density taken for the probability of a level in VDM's head",
        "diffusion/levels.py",
        "functools.reduce(torch.logaddexp, parts) + math.log(2.0 / (L - 1))",
        "functools.reduce(torch.logaddexp, parts)",
        ("test_vdm.py::test_the_posterior_is_the_law_over_all_levels[-5.0-17]",),
    ),
    Mutant(
        "wrong weight",
        "a decoder at every t counts without its λ",
        "models/_diffusion_loss.py",
        "loss + model.every_decoder * denoised.law.nll(x)",
        "loss + denoised.law.nll(x)",
        ("test_vdm.py::test_a_decoder_at_every_t_is_added_to_the_loss",),
    ),
    Mutant(
        "wrong Jacobian",
        "nats taken for bits",
        "units.py",
        "LN_2 = math.log(2.0)",
        "LN_2 = 1.0",
        ("test_units.py::test_bits_per_dim_is_the_entropy_in_base_2[1-17]",),
    ),
    Mutant(
        "wrong Jacobian",
        "√ᾱ of z = √ᾱ x",
        "diffusion/flow.py",
        "(signal.flatten().log() + math.log(step))",
        "math.log(step) * torch.ones(len(x_0))",
        ("test_flow.py::test_uniform_dequantisation_is_the_density_of_x_times_the_volume",),
    ),
    Mutant(
        "wrong Jacobian",
        "the flow's divergence subtracted",
        "diffusion/flow.py",
        "+ dims * gain[:, 0]",
        "- dims * gain[:, 0]",
        ("test_flow.py::test_the_likelihood_of_gaussian_data_is_exact[1]",),
    ),
    Mutant(
        "clipped prediction",
        "DDPM: the decoder's mean",
        "diffusion/decoders.py",
        "-DiscretizedNormal(denoised.x_0, log_std",
        "-DiscretizedNormal(denoised.x_0.clamp(-1, 1), log_std",
        ("test_ddpm.py::test_every_term_is_its_integral[4-beta_tilde-beta_1]",),
    ),
    Mutant(
        "clipped prediction",
        "DDPM: x̂_0 and not ε̂",
        "diffusion/denoiser.py",
        "return self.prediction.denoised(first, z, gamma)._replace(**extras)",
        "found = self.prediction.denoised(first, z, gamma)._replace(**extras)\n"
        "        return found._replace(x_0=found.x_0.clamp(-1, 1))",
        ("test_ddpm.py::test_every_term_is_its_integral[4-beta_tilde-beta_1]",),
    ),
    Mutant(
        "clipped prediction",
        "x̂_0, and ε̂ with it",
        "diffusion/denoiser.py",
        "return Denoised(x_0, eps)",
        "y = x_0.clamp(-1, 1)\n"
        "        return Denoised(y, eps + per_image(signal_rate(gamma) / noise_rate(gamma), z) * (x_0 - y))",
        ("test_predictions.py::test_the_target_gives_back_image_and_noise[dtype0-eps-linear]",),
    ),
    Mutant(
        "clipped prediction",
        "VDM: x̂_0, and ε̂ with it",
        "diffusion/denoiser.py",
        "return self.to_denoised(self.predict(z, gamma), z, gamma)",
        "return clipped(self.to_denoised(self.predict(z, gamma), z, gamma), z, gamma)",
        ("test_vdm.py::test_every_term_is_its_integral_and_nothing_is_clipped[6]",),
    ),
    Mutant(
        "clipped prediction",
        "VDM: only while scoring",
        "diffusion/bound.py",
        "found = self.denoiser(to_default_dtype(z), gamma)",
        "from nelbo.diffusion.denoiser import clipped\n"
        "        found = clipped(self.denoiser(to_default_dtype(z), gamma), to_default_dtype(z), gamma)",
        ("test_vdm.py::test_every_term_is_its_integral_and_nothing_is_clipped[0]",),
    ),
    Mutant(
        "clipped prediction",
        "probabilities at 1e-12",
        "theory/likelihoods.py",
        "torch.where(open_above, above, inside))",
        "torch.where(open_above, above, inside)).clamp(min=-27.6)",
        ("test_likelihoods.py::test_logarithms_match_50_digits_into_the_tails[0.0-0.01-256]",),
    ),
    Mutant(
        "padded dimensions",
        "D of the network's padded size",
        "models/base.py",
        "self.dims = math.prod(shape)",
        "self.dims = shape[0] * (shape[1] + shape[1] % 2) * (shape[2] + shape[2] % 2)",
        ("test_ddpm.py::test_bits_are_per_true_pixel_and_channel[shape0-35]",),
    ),
    Mutant(
        "padded dimensions",
        "D of pixels, not of channels",
        "models/base.py",
        "self.dims = math.prod(shape)",
        "self.dims = math.prod(shape[1:])",
        ("test_ddpm.py::test_bits_are_per_true_pixel_and_channel[shape1-18]",),
    ),
    Mutant(
        "padded dimensions",
        "D of a multiple of 4 in a term",
        "diffusion/entropy.py",
        "x_0[0].numel()",
        "4 * ((x_0[0].numel() + 3) // 4)",
        ("test_forms.py::test_the_entropies_are_those_of_the_process[linear-50]",),
    ),
    Mutant(
        "reversed integral",
        "γ run backwards",
        "diffusion/schedules.py",
        "return self.ends[0] + span * t, span",
        "return self.ends[1] - span * t, span",
        ("test_vdm.py::test_every_term_is_its_integral_and_nothing_is_clipped[0]",),
    ),
    Mutant(
        "reversed integral",
        "1 − SNR(t)/SNR(s) for SNR(s)/SNR(t) − 1",
        "diffusion/variances.py",
        "torch.expm1(gamma_t.double() - gamma_s.double())",
        "-torch.expm1(gamma_s.double() - gamma_t.double())",
        ("test_vdm.py::test_the_discrete_weight_is_ddpms_for_beta_tilde[linear]",),
    ),
    Mutant(
        "reversed integral",
        "the sum at s, not at t",
        "diffusion/bound.py",
        "return Place(here, lambda d, eps",
        "return Place(before, lambda d, eps",
        ("test_vdm.py::test_every_term_is_its_integral_and_nothing_is_clipped[6]",),
    ),
    Mutant(
        "reversed integral",
        "the step after t, not before",
        "diffusion/bound.py",
        "diffusion_term(d, eps, before, here))",
        "diffusion_term(d, eps, here, self.gamma((t + 1).clamp(max=self.T))))",
        ("test_vdm.py::test_in_steps_the_bound_is_ddpms_term_by_term[learned]",),
    ),
    Mutant(
        "reversed integral",
        "t from 1 to T − 1",
        "diffusion/bound.py",
        "zip((index + 2).unbind(1)",
        "zip((index + 1).unbind(1)",
        ("test_ddpm.py::test_every_term_is_its_integral[29-beta_tilde-beta_1]",),
    ),
    Mutant(
        "reversed integral",
        "t from 2 to T − 1",
        "diffusion/bound.py",
        "harmonic(2, self.T)",
        "harmonic(2, self.T - 1)",
        ("test_forms.py::test_the_forms_of_a_network_agree[v-beta_1-beta]",),
    ),
    Mutant(
        "reversed integral",
        "the weights of the reversed t",
        "diffusion/bound.py",
        "zip((index + 2).unbind(1), weight.unbind(1)",
        "zip((self.T - index).unbind(1), weight.unbind(1)",
        ("test_ddpm.py::test_every_term_is_its_integral[4-beta_tilde-beta_1]",),
    ),
    Mutant(
        "reversed integral",
        "the flow from γ_max to γ_min",
        "diffusion/flow.py",
        "ends.flip(0) if down else ends",
        "ends if down else ends.flip(0)",
        ("test_flow.py::test_the_likelihood_of_gaussian_data_is_exact[1]",),
    ),
    Mutant(
        "wrong variance",
        "β for β̃",
        "diffusion/variances.py",
        "return per_image(posterior_var(gamma_s, gamma_t), denoised.x_0)",
        "return per_image(step_var(gamma_s, gamma_t), denoised.x_0)",
        ("test_ddpm.py::test_every_term_is_its_integral[29-beta_tilde-beta_1]",),
    ),
    Mutant(
        "wrong variance",
        "σ for σ²",
        "diffusion/variances.py",
        "eps) * (exact / var)",
        "eps) * (exact / var).sqrt()",
        ("test_bounds.py::test_weight_is_the_papers[beta-linear-50]",),
    ),
    Mutant(
        "wrong variance",
        "β̃ with ᾱ_t for ᾱ_{t−1}",
        "diffusion/process.py",
        "return noise_var(gamma_s) * step_share(gamma_s, gamma_t)",
        "return noise_var(gamma_t) * step_share(gamma_s, gamma_t)",
        ("test_process.py::test_posterior_is_the_papers_formula[linear-50]",),
    ),
    Mutant(
        "wrong variance",
        "learned between β̃ and β the wrong way round",
        "diffusion/variances.py",
        "v * log_high + (1 - v) * log_low",
        "v * log_low + (1 - v) * log_high",
        ("test_objectives.py::test_between_them_it_is_geometric[linear]",),
    ),
    Mutant(
        "wrong variance",
        "the posterior's β for β̃",
        "diffusion/process.py",
        "per_image(posterior_var(gamma_s, gamma_t), z_t))",
        "per_image(step_var(gamma_s, gamma_t), z_t))",
        ("test_process.py::test_posterior_is_the_papers_formula[linear-50]",),
    ),
    Mutant(
        "wrong variance",
        "σ² for σ in the decoder",
        "diffusion/decoders.py",
        "DiscretizedNormal(denoised.x_0, log_std.exp()",
        "DiscretizedNormal(denoised.x_0, (2 * log_std).exp()",
        ("test_ddpm.py::test_every_term_is_its_integral[4-beta_tilde-beta_1]",),
    ),
    Mutant(
        "wrong variance",
        "ᾱ for √ᾱ",
        "diffusion/process.py",
        "return (0.5 * F.logsigmoid(-gamma.double())).exp()",
        "return F.logsigmoid(-gamma.double()).exp()",
        ("test_vdm.py::test_rates_are_the_schedules",),
    ),
    Mutant(
        "consistency KL of the notes",
        "KL(q(x_t|x_{t−1}) ‖ p(x_t|x_{t+1}))",
        "diffusion/consistency.py",
        "q, p = bridge(x_prev, x_next, *gamma), reverse",
        "q, p = transition(x_prev, gamma.prev, gamma.here), reverse\n"
        "    return kl_normal(q.mean, q.var, p.mean, p.var).flatten(1).sum(1)",
        (
            "test_forms.py::test_the_summand_integrates_the_log_ratio[beta-linear]",
            "test_forms.py::test_the_forms_of_a_network_agree[v-beta_1-beta]",
        ),
    ),
    Mutant(
        "consistency KL of the notes",
        "KL(q(x_T|x_0) ‖ p(x_T)) for its prior",
        "diffusion/bound.py",
        "prior = consistency_prior_term(self.gammas, x_0)",
        "prior = prior_term(x_0, self.gammas[-1])",
        ("test_forms.py::test_the_consistency_form_pays_for_a_narrow_end",),
    ),
    Mutant(
        "wrong weight",
        "½ of VDM (14)",
        "diffusion/variances.py",
        "0.5 * torch.expm1",
        "torch.expm1",
        ("test_vdm.py::test_the_discrete_weight_is_ddpms_for_beta_tilde[linear]",),
    ),
    Mutant(
        "wrong weight",
        "½ of VDM (17)",
        "diffusion/bound.py",
        "share * 0.5 * slope",
        "share * slope",
        ("test_vdm.py::test_every_term_is_its_integral_and_nothing_is_clipped[0]",),
    ),
    Mutant(
        "wrong weight",
        "½ of DDPM (12)",
        "diffusion/variances.py",
        "weight = per_image(step_weight",
        "weight = 2.0 * per_image(step_weight",
        ("test_bounds.py::test_weight_is_the_papers[beta-linear-50]",),
    ),
    Mutant(
        "wrong weight",
        "1/K of K strata",
        "diffusion/timesteps.py",
        "1.0 / (strata * p[index])",
        "1.0 / p[index]",
        ("test_timesteps.py::test_stratified_is_unbiased_exactly",),
    ),
    Mutant(
        "wrong weight",
        "1/(T p) of the loss profile",
        "diffusion/timesteps.py",
        "width[bins] / (self.T * p[bins]), place",
        "torch.ones_like(p[bins]), place",
        ("test_timesteps.py::test_the_profiles_draw_is_unbiased[taught-30]",),
    ),
    Mutant(
        "wrong weight",
        "1/p of t in VDM's score",
        "diffusion/bound.py",
        "u[:, :, 1], share * width",
        "u[:, :, 1], share / len(width)",
        ("test_vdm.py::test_every_term_is_its_integral_and_nothing_is_clipped[0]",),
    ),
    Mutant(
        "wrong weight",
        "1/p of t in VDM's loss",
        "models/_diffusion_loss.py",
        "loss = loss * importance\n",
        "loss = loss\n",
        ("test_vdm.py::test_the_loss_is_the_diffusion_term_where_the_profile_draws_unevenly",),
    ),
    Mutant(
        "wrong weight",
        "1/p of t in DDPM's loss",
        "models/_diffusion_loss.py",
        " * importance.to(loss.dtype)",
        "",
        ("test_ddpm.py::test_the_bounds_loss_is_an_unbiased_estimate_of_the_score[True-beta_tilde-beta_1]",),
    ),
    Mutant(
        "wrong weight",
        "the mean of logarithms for the logarithm of the mean",
        "theory/importance.py",
        "math.log(len(costs)) - torch.logsumexp(-costs, 0)",
        "costs.mean(0)",
        ("test_importance.py::test_it_lies_between_the_bound_and_the_likelihood",),
    ),
    Mutant(
        "wrong standard error",
        "s² not divided by R",
        "metrics/likelihood.py",
        "/ replicates) / n",
        ") / n",
        ("test_ddpm.py::test_standard_errors_are_their_formulas",),
    ),
    Mutant(
        "wrong standard error",
        "every replicate an image of its own",
        "metrics/likelihood.py",
        "stderr_of_mean(self.estimates(name).mean(1), self.copies)",
        "stderr_of_mean(self.estimates(name).flatten())",
        ("test_ddpm.py::test_standard_errors_are_their_formulas",),
    ),
    Mutant(
        "wrong standard error",
        "not divided by n",
        "metrics/likelihood.py",
        ".square().sum())) / len(y)",
        ".square().sum()))",
        ("test_ddpm.py::test_standard_errors_are_their_formulas",),
    ),
    Mutant(
        "entropy left out",
        "ln q(z_t|z_{t−1}) of a hierarchy",
        "theory/hierarchy.py",
        "log_q.append(total(law.log_prob(above)))",
        "log_q.append(0.0 * total(law.log_prob(above)))",
        ("test_hvae.py::test_the_terms_are_those_of_a_law[bottom-up]",),
    ),
    Mutant(
        "wrong divergence",
        "KL(p‖q) of a level for KL(q‖p)",
        "theory/hierarchy.py",
        "kl_normal(q.mean, q.var, p.mean, p.var)",
        "kl_normal(p.mean, p.var, q.mean, q.var)",
        ("test_hvae.py::test_top_down_levels_are_divergences",),
    ),
    Mutant(
        "wrong variance",
        "σ_q² = σ_p² e^δ for e^{2δ}",
        "models/_latent.py",
        "p.var * (2 * log_times).exp()",
        "p.var * log_times.exp()",
        ("test_hvae.py::test_a_shift_and_a_factor_make_q",),
    ),
    Mutant(
        "wrong player",
        "the generator's loss trains the discriminator",
        "models/gan.py",
        "p.requires_grad_(False)",
        "p.requires_grad_(True)",
        ("test_gan.py::test_each_player_has_the_gradient_of_its_own_loss[non-saturating-0]",),
    ),
    Mutant(
        "wrong player",
        "the discriminator's loss trains the generator",
        "models/gan.py",
        "torch.cat([x_0, drawn.detach()])",
        "torch.cat([x_0, drawn])",
        ("test_gan.py::test_each_player_has_the_gradient_of_its_own_loss[hinge-3]",),
    ),
    Mutant(
        "wrong player",
        "what D proves, told the cluster that a sample was drawn from and not the one that it falls in",
        "models/_gan_inspector.py",
        "model._judge(part, model.cluster(part))",
        "model._judge(part, model.cluster(x_0))",
        ("test_gan.py::test_what_is_proven_is_of_the_image_and_its_own_cluster",),
    ),
    Mutant(
        "constant dropped",
        "½ ‖m_k‖² of the distance to a centre",
        "nn/clusters.py",
        " - 0.5 * self.centres.square().sum(1)",
        "",
        ("test_clusters.py::test_the_centres_are_those_of_k_means",),
    ),
    Mutant(
        "constant dropped",
        "1/√d of q's gradient in attention in pieces",
        "nn/attention.py",
        "(dq, q.shape[-1] ** -0.5)",
        "(dq, 1.0)",
        ("test_attention.py::test_pieces_change_nothing[2-1.0]",),
    ),
    Mutant(
        "constant dropped",
        "the row's largest that is taken off in attention in pieces, where scores are large",
        "nn/attention.py",
        "        out -= out.amax(-1, keepdim=True)\n",
        "        pass\n",
        ("test_attention.py::test_scores_up_to_the_bound_are_neither_lost_nor_infinite[1-2.4]",),
    ),
    Mutant(
        "wrong weight",
        "the share of the teacher's step in σ and not in ρ",
        "models/_distilled.py",
        "((-0.5 * gamma).exp() for",
        "((0.5 * gamma).exp() for",
        (
            "test_distillation.py::test_a_student_that_leads_where_the_walk_does_is_its_own_target[0]",
            "test_distillation.py::test_what_a_wrong_student_says_counts_by_its_share",
        ),
    ),
    Mutant(
        "wrong order",
        "a target from where the student steps to, and not the teacher",
        "models/_distilled.py",
        "z_s = DDIM().step(z_t, taught,",
        "z_s = DDIM().step(z_t, student(z_t, gamma_t),",
        ("test_distillation.py::test_the_loss_is_its_definition",),
    ),
    Mutant(
        "wrong weight",
        "SNR for max(SNR, 1)",
        "models/_distilled.py",
        ".exp().clamp(1.0, LARGEST_WEIGHT)",
        ".exp().clamp(0.0, LARGEST_WEIGHT)",
        ("test_distillation.py::test_the_loss_is_its_definition",),
    ),
    Mutant(
        "wrong order",
        "a corrector that does not look at the new x̂_0",
        "diffusion/samplers.py",
        "[Before(gamma_t, denoised), before, before.earlier]",
        "[before, before.earlier]",
        ("test_samplers.py::test_the_declared_order_is_the_measured_one[unipc-linear]",),
    ),
    Mutant(
        "wrong weight",
        "a lazy penalty that counts once",
        "models/gan.py",
        "PENALTY_EVERY * self._penalty(",
        "self._penalty(",
        ("test_gan.py::test_a_lazy_penalty_counts_for_the_steps_between",),
    ),
    Mutant(
        "biased",
        "pairs of a point with itself in KD",
        "metrics/distances.py",
        "in_x.sum(1) - in_x.diagonal()",
        "in_x.sum(1)",
        ("test_distances.py::test_kernel_distance_is_its_definition_and_its_error_the_jackknifes[7-12]",),
    ),
    Mutant(
        "wrong divergence",
        "tr (S R)^{1/2} once in FD",
        "metrics/distances.py",
        "+ traces - 2 * cross",
        "+ traces - cross",
        ("test_distances.py::test_frechet_of_axis_aligned_gaussians",),
    ),
    Mutant(
        "wrong noise",
        "nine rounds of Philox",
        "rng.py",
        "ROUNDS = 10",
        "ROUNDS = 9",
        ("test_rng.py::test_the_words_are_those_of_whole_numbers_without_end",),
    ),
    Mutant(
        "wrong noise",
        "the variance of Box and Muller's numbers",
        "rng.py",
        ".mul_(-2.0).sqrt_()",
        ".mul_(-2.1).sqrt_()",
        ("test_rng.py::test_moments_and_tails_are_the_normal_laws",),
    ),
    Mutant(
        "wrong noise",
        "the upper bits of the index left out",
        "rng.py",
        "tag ^ index >> 32 << 8",
        "tag ^ 0 * index",
        ("test_rng.py::test_an_example_walks_through_its_blocks",),
    ),
]

Run = Callable[[Path, tuple[str, ...]], Answer]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run tests on a copy in a new process, forked from a server that has imported all but nelbo."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)

    def in_a_process(where: Path, tests: tuple[str, ...]) -> Answer:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            return process.submit(run_tests, where, tests).result()

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield in_a_process


def test_every_kind_is_planted() -> None:
    assert {mutant.kind for mutant in MUTANTS} == set(KINDS)


def test_without_an_error_every_test_passes(run: Run, tmp_path: Path) -> None:
    tests = tuple(sorted({test for mutant in MUTANTS for test in mutant.seen_by}))
    answer = run(copied(tmp_path), tests)
    assert answer.code == pytest.ExitCode.OK, answer.out
    assert answer.ended == dict.fromkeys(tests, "passed")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kind}: {mutant.what}")
def test_an_error_is_seen(mutant: Mutant, run: Run, tmp_path: Path) -> None:
    answer = run(copied(tmp_path, mutant), mutant.seen_by)
    assert answer.code == pytest.ExitCode.TESTS_FAILED, answer.out
    assert answer.ended == dict.fromkeys(mutant.seen_by, SEEN)
