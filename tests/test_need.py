"""What strangers do to a function: each kind of wrong input, wherever it can be given."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from minidistill import (
    consistency,
    dit,
    editing,
    flowmap,
    lcm,
    matching,
    metrics,
    need,
    phased,
    progressive,
    pyramid,
    video,
)
from minidistill.asking import ask, read
from minidistill.oracle import Empirical, Gaussian, ProductMixture
from minidistill.parameterization import as_denoiser, as_velocity, convert, guided
from minidistill.samplers import ddim, ddim_step, euler, heun, renoise
from minidistill.schedules import (
    beta_table,
    coefficients,
    cosine,
    edm,
    karras_sigmas,
    linear_beta,
    log_snr,
    mix,
    rates,
    rectified_flow,
    shifted,
    sigmoid,
    tabulated,
    time_grid,
    zero_terminal_snr,
)

G = torch.Generator().manual_seed(0)
X, EPS = torch.randn(2, 4, 1, 8, 8, generator=G)
T, S = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.tensor([0.1, 0.2, 0.3, 0.4])
INDEX = torch.tensor([1, 2, 3, 4])
GRID = phased.phase_grid(8)
EDGES = phased.phase_edges(GRID, 2)
STAGES = pyramid.stages([0, 0.5, 1])
VIDEO = torch.randn(4, 3, 1, 8, 8, generator=G)
ALPHA_BAR = (1 - beta_table("linear")).cumprod(0)
TABLE = tabulated(ALPHA_BAR)
COMPONENTS = (
    torch.tensor([[0.5, 0.5], [0.3, 0.7]]),
    torch.tensor([[-1.0, 1.0], [0.0, 1.0]]),
    torch.full((2, 2), 0.3),
)
MIXTURE = ProductMixture(*COMPONENTS)

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def right(z, t, *_, **__):
    return 0.3 * z


def another(z, t, *_, **__):
    return 0.1 * z


# somebody's function, asked by everything that asks one: name -> (what it predicts, call(f))
ASKS = {
    "ask": ("x", lambda f: ask(f, X, T, "x")),
    "as_denoiser": ("tangent", lambda f: as_denoiser(f, cosine)(X, T)),
    "as_velocity": ("x", lambda f: as_velocity(f)(X, T)),
    "guided": (None, lambda f: guided(f, right, 2.0)(X, T)),
    "guided, unconditional": (None, lambda f: guided(right, f, 2.0)(X, T)),
    "ddim": ("x", lambda f: ddim(f, X, time_grid(2), cosine)),
    "euler": ("x", lambda f: euler(f, X, time_grid(2), cosine)),
    "heun": ("x", lambda f: heun(f, X, time_grid(2), cosine)),
    "renoise": ("x", lambda f: renoise(f, X, time_grid(2), cosine)),
    "student": ("x", lambda f: progressive.Student(f, 2)(X, T)),
    "diffusion_loss": ("x", lambda f: progressive.diffusion_loss(f, X, cosine)),
    "two_step_target": ("x", lambda f: progressive.two_step_target(f, X, INDEX / 4, 4, cosine)),
    "quotient_target": ("x", lambda f: progressive.quotient_target(f, X, INDEX / 4, 4, cosine)),
    "progressive_loss": ("x", lambda f: progressive.progressive_loss(f, right, X, 4, cosine)),
    "progressive_loss, teacher": ("x", lambda f: progressive.progressive_loss(right, f, X, 4, cosine)),
    "ode_step": ("x", lambda f: consistency.ode_step(f, X, T, S, edm, "heun")),
    "consistency_target": ("x", lambda f: consistency.consistency_target(f, X, EPS, T, S, edm)),
    "consistency_loss": ("x", lambda f: consistency.consistency_loss(f, X, EPS, T, S, edm)),
    "consistency_loss, teacher": ("x", lambda f: consistency.consistency_loss(right, X, EPS, T, S, edm, teacher=f)),
    "ect_loss": ("x", lambda f: consistency.ect_loss(f, X, EPS, T, 3)),
    "scm_loss": ("tangent", lambda f: consistency.scm_loss(f, X, EPS, T)),
    "scm_loss, teacher": ("tangent", lambda f: consistency.scm_loss(right, X, EPS, T, teacher=f)),
    "edit": ("x", lambda f: editing.edit(f, X, lambda x: x, lambda y: y, time_grid(2), cosine)),
    "lcm_function": ("x", lambda f: lcm.lcm_function(f)(X, T)),
    "lcm_loss": ("x", lambda f: lcm.lcm_loss(f, right, right, X, EPS, 200 * INDEX, TABLE)),
    "lcm_loss, target": ("x", lambda f: lcm.lcm_loss(right, f, right, X, EPS, 200 * INDEX, TABLE)),
    "lcm_loss, teacher": ("x", lambda f: lcm.lcm_loss(right, right, f, X, EPS, 200 * INDEX, TABLE)),
    "flow_matching_loss": ("velocity", lambda f: phased.flow_matching_loss(f, X, EPS, T)),
    "phased_loss": ("velocity", lambda f: phased.phased_loss(f, right, right, X, EPS, INDEX, GRID, EDGES)),
    "phased_loss, target": ("velocity", lambda f: phased.phased_loss(right, f, right, X, EPS, INDEX, GRID, EDGES)),
    "phased_loss, teacher": ("velocity", lambda f: phased.phased_loss(right, right, f, X, EPS, INDEX, GRID, EDGES)),
    "phased_sample": ("velocity", lambda f: phased.phased_sample(f, X, EDGES.flip(0))),
    "aged_student": ("velocity", lambda f: phased.aged_student(f, GRID, EDGES, 2)(X, GRID[INDEX])),
    "as_mean_velocity": ("tangent", lambda f: flowmap.as_mean_velocity(f)(X, T, S)),
    "diagonal": ("mean velocity", lambda f: flowmap.diagonal(f)(X, T)),
    "exact_mean_velocity": (None, lambda f: flowmap.exact_mean_velocity(f, right)(X, T, S)),
    "exact_mean_velocity, velocity": ("velocity", lambda f: flowmap.exact_mean_velocity(right, f)(X, T, S)),
    "halves_target": ("mean velocity", lambda f: flowmap.halves_target(f, X, T, S)),
    "shortcut_loss": ("mean velocity", lambda f: flowmap.shortcut_loss(f, X, EPS, T, S)),
    "shortcut_loss, target": ("mean velocity", lambda f: flowmap.shortcut_loss(right, X, EPS, T, S, f)),
    "mean_flow_loss": ("mean velocity", lambda f: flowmap.mean_flow_loss(f, X, EPS, T, S)),
    "mean_flow_loss, teacher": ("velocity", lambda f: flowmap.mean_flow_loss(right, X, EPS, T, S, f)),
    "improved_mean_flow_loss": ("mean velocity", lambda f: flowmap.improved_mean_flow_loss(f, X, EPS, T, S)),
    "improved_mean_flow_loss, teacher": ("velocity", lambda f: flowmap.improved_mean_flow_loss(right, X, EPS, T, S, f)),
    "lagrangian_loss": ("mean velocity", lambda f: flowmap.lagrangian_loss(f, X, EPS, T, S)),
    "lagrangian_loss, teacher": ("velocity", lambda f: flowmap.lagrangian_loss(right, X, EPS, T, S, f)),
    "flow_map_sample": ("mean velocity", lambda f: flowmap.flow_map_sample(f, X, time_grid(2))),
    "generate": ("x", lambda f: matching.generate(f, X)),
    "matching_gradient, real": ("x", lambda f: matching.matching_gradient(X, EPS, T, f, another)),
    "matching_gradient, fake": ("x", lambda f: matching.matching_gradient(X, EPS, T, another, f)),
    "guidance_gradient, real": ("x", lambda f: matching.guidance_gradient(X, EPS, T, f, another, 2.0)),
    "guidance_gradient, unconditional": ("x", lambda f: matching.guidance_gradient(X, EPS, T, another, f, 2.0)),
    "matching_loss, real": ("x", lambda f: matching.matching_loss(X, EPS, T, f, another, cosine)),
    "matching_loss, fake": ("x", lambda f: matching.matching_loss(X, EPS, T, another, f, cosine)),
    "fake_loss": ("x", lambda f: matching.fake_loss(f, X, EPS, T, cosine)),
    "pyramid_loss": ("velocity", lambda f: pyramid.pyramid_loss(f, X, EPS, T, STAGES)),
    "pyramid_sample": ("velocity", lambda f: pyramid.pyramid_sample(f, X, STAGES, 1)),
    "pyramid_distillation_loss": (
        "velocity", lambda f: pyramid.pyramid_distillation_loss(f, right, X, EPS, INDEX, STAGES, 4)
    ),
    "pyramid_distillation_loss, teacher": (
        "velocity", lambda f: pyramid.pyramid_distillation_loss(right, f, X, EPS, INDEX, STAGES, 4)
    ),
    "video_loss": ("velocity", lambda f: video.video_loss(f, VIDEO, X, T, [3] * 4, STAGES)),
    "rollout": ("velocity", lambda f: video.rollout(f, VIDEO, STAGES, 1)),
}  # fmt: skip


class Grouped(nn.Module):
    """A network of diffusers' kind: its answer is not a tensor."""

    def forward(self, z, t, *_, **__):
        return {"sample": z}


BAD_ANSWERS = {
    "one sample for all": lambda z, t, *_, **__: 0.3 * z[:1],
    "one column": lambda z, t, *_, **__: 0.3 * z[..., :1],
    "another axis": lambda z, t, *_, **__: 0.3 * z[..., None],
    "a number": lambda z, t, *_, **__: torch.ones(()),
    "no tensor": lambda z, t, *_, **__: 0.3,
    "nothing": lambda z, t, *_, **__: None,
    "integers": lambda z, t, *_, **__: z.long(),
    "an object": Grouped(),
    "z changed in place": lambda z, t, *_, **__: z.mul_(0.5),
    "no function": 0.3,
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
@pytest.mark.parametrize("name", ASKS)
def test_a_wrong_answer_is_refused(name, bad):
    _, call = ASKS[name]
    call(right)
    before = X.clone(), VIDEO.clone()
    # inside a derivative torch itself refuses a change in place
    with pytest.raises((ValueError, RuntimeError), match="network|function|model"):
        call(BAD_ANSWERS[bad])
    X.copy_(before[0])  # what was changed in place is noticed, not undone
    VIDEO.copy_(before[1])


@pytest.mark.parametrize("name", ASKS)
def test_a_model_of_the_wrong_kind_is_refused(name):
    """A denoiser where a velocity is needed, and the other way round: those of this package know what they are."""
    kind, call = ASKS[name]
    denoiser = as_denoiser(right, rectified_flow)
    models = {"x": denoiser, "velocity": as_velocity(denoiser)}
    for other, model in models.items():
        if kind not in (other, None):
            with pytest.raises(ValueError, match=f"a model that predicts {kind}. This one predicts {other}"):
                call(model)
    if kind is None:
        with pytest.raises(ValueError, match="predicts"):
            guided(*models.values(), 2.0)(X, T)
    elif kind in models:
        assert call(models[kind] if "rollout" not in name and "video" not in name else right) is not None


def test_every_oracle_and_student_says_what_it_predicts():
    denoisers = [
        Gaussian(torch.zeros(2), torch.eye(2)).denoiser(cosine), MIXTURE.denoiser(cosine),
        Empirical(torch.ones(2, 2)).denoiser(cosine), progressive.Student(right, 2), lcm.lcm_function(right),
    ]  # fmt: skip
    velocities = [
        phased.exact_student(MIXTURE.flow_map, EDGES),
        phased.aged_student(right, GRID, EDGES, 1),
        guided(as_velocity(right), as_velocity(right), 2.0),
    ]
    assert {f.predicts for f in denoisers} == {"x"} and {f.predicts for f in velocities} == {"velocity"}


def test_a_network_may_answer_in_another_precision():
    """As under autocast: the answer comes back in z's dtype, the times are asked in it."""
    seen = []
    found = ask(lambda z, t: seen.append(t.dtype) or z.bfloat16(), X, T.double(), "x")
    assert found.dtype == torch.float32 and seen == [torch.float32]
    with torch.inference_mode():  # where changes are not counted, they do no harm
        z = X.clone()
        ask(lambda z, t: z.mul_(0.5), z, T, "x")
        assert torch.equal(z, X)


# somebody's schedule, read by everything that reads one

READS = {
    "read": lambda f: read(f, T),
    "coefficients": lambda f: coefficients(f, T, X),
    "mix": lambda f: mix(X, EPS, T, f),
    "rates": lambda f: rates(f, T),
    "log_snr": lambda f: log_snr(f, T),
    "convert": lambda f: convert(X, EPS, T, f, "v", "velocity"),
    "as_denoiser": lambda f: as_denoiser(right, f)(X, T),
    "ddim_step": lambda f: ddim_step(X, EPS, T, S, f),
    "ddim": lambda f: ddim(right, X, time_grid(2), f),
    "euler": lambda f: euler(right, X, time_grid(2), f),
    "heun": lambda f: heun(right, X, time_grid(2), f),
    "renoise": lambda f: renoise(right, X, time_grid(2), f),
    "two_step_target": lambda f: progressive.two_step_target(right, X, INDEX / 4, 4, f),
    "diffusion_loss": lambda f: progressive.diffusion_loss(right, X, f),
    "weighted_error": lambda f: progressive.weighted_error(X, EPS, T, f, "snr"),
    "consistency_loss": lambda f: consistency.consistency_loss(right, X, EPS, T, S, f),
    "edit": lambda f: editing.edit(right, X, lambda x: x, lambda y: y, time_grid(2), f),
    "lcm_loss": lambda f: lcm.lcm_loss(right, right, right, X, EPS, 200 * INDEX, f),
    "generate": lambda f: matching.generate(right, X, f, 0.5),
    "matching_loss": lambda f: matching.matching_loss(X, EPS, T, right, another, f),
    "fake_loss": lambda f: matching.fake_loss(right, X, EPS, T, f),
    "Gaussian": lambda f: Gaussian(torch.zeros(64), torch.eye(64)).denoiser(f)(X, T),
    "ProductMixture": lambda f: MIXTURE.flow_map(X[:, 0, 0, :2], T, S, f),
    "Empirical": lambda f: Empirical(EPS).log_prob(X, T, f),
}  # fmt: skip
BAD_SCHEDULES = {
    "one value for all": lambda t: (1 - t[:1], t[:1]),
    "another axis": lambda t: (1 - t[:, None], t[:, None]),
    "one answer": lambda t: 1 - t,
    "a list": lambda t: [1 - t, t],
    "numbers": lambda t: (0.5, 0.5),
    "nothing": lambda t: None,
    "negative alpha": lambda t: (t - 1, t),
    "negative sigma": lambda t: (1 - t, -t - 0.1),
    "nan": lambda t: (1 - t, t * math.nan),
    "infinite": lambda t: (1 - t, t / 0.0),
    "no function": 0.5,
}


@pytest.mark.parametrize("bad", BAD_SCHEDULES)
@pytest.mark.parametrize("name", READS)
def test_what_is_no_schedule_is_refused(name, bad):
    READS[name](rectified_flow)
    with pytest.raises(ValueError, match="schedule|alpha and sigma"):
        READS[name](BAD_SCHEDULES[bad])


@pytest.mark.parametrize(
    "schedule", [cosine, linear_beta, sigmoid, rectified_flow, shifted(cosine, 2), TABLE]
)
def test_times_outside_the_domain_are_refused(schedule):
    for times in ([0.5, 999.0], [-0.1, 0.5], [0.5, math.nan], [math.inf, 0.5], [1.001, 1.0]):
        for call in (schedule, lambda t: rates(schedule, t), lambda t: mix(X[:2], EPS[:2], t, schedule)):
            with pytest.raises(ValueError, match="this schedule runs from|t must be"):
                call(torch.tensor(times))
    with pytest.raises(ValueError, match="float tensor"):
        schedule(0.5)
    with pytest.raises(ValueError, match="float tensor"):
        schedule(torch.tensor([0, 1]))
    # what rounding does to 0 and 1 is not refused
    ends = schedule(torch.tensor([-1e-8, 0.0, 1.0, 1 + 1e-7]))
    assert all(torch.equal(c[0], c[1]) and torch.equal(c[2], c[3]) for c in ends)


def test_times_of_a_table_are_told_apart_from_its_indices():
    """They ran, to a mean of 0.45 for 2.00."""
    oracle = Gaussian(torch.full((2,), 2.0), torch.eye(2) / 100)
    z, indices = torch.randn(50, 2, generator=G), torch.linspace(999, 0, 20)
    with pytest.raises(ValueError, match=r"runs from t = 0 .* A DDPM's step i of n is t = \(i \+ 1\) / n"):
        ddim(oracle.denoiser(TABLE), z, indices, TABLE)
    found = ddim(oracle.denoiser(TABLE), z, (indices + 1) / 1000, TABLE)
    torch.testing.assert_close(found.mean(), torch.tensor(2.0), atol=0.05, rtol=0)
    assert edm(torch.tensor([80.0]))[1] == 80.0  # EDM's times are no shares
    ddim(oracle.denoiser(edm), 80 * z, torch.tensor([80.0, 5.0, 0.0]), edm)
    with pytest.raises(ValueError, match="this schedule runs from"):
        ddim(oracle.denoiser(rectified_flow), z, torch.tensor([80.0, 5.0, 0.0]), rectified_flow)


def test_one_scale_for_each_sample():
    """As LCM's training draws them; a scale for each column is what broadcasting makes of it."""
    scale, points = torch.tensor([1.0, 2.0, 3.0, 4.0]), X[:, 0, 0, :4]
    conditional, unconditional = (lambda z, t: 2 * z), (lambda z, t: z * t[:, None])
    together = guided(conditional, unconditional, scale)(points, T)
    alone = [guided(conditional, unconditional, w.item())(points, T)[i] for i, w in enumerate(scale)]
    torch.testing.assert_close(together, torch.stack(alone))
    for bad in (scale[:2], scale[:, None], scale * math.nan, math.nan, math.inf, "2", None):
        with pytest.raises(ValueError, match="scale"):
            guided(conditional, unconditional, bad)(points, T)


# numbers: (a right one, calls with one): what is no number of the kind is refused before any work

WHOLE = {
    "beta_table": (10, lambda n: beta_table("linear", n)),
    "time_grid": (4, time_grid),
    "karras_sigmas": (5, karras_sigmas),
    "halvings": (8, progressive.halvings),
    "halvings, end": (2, lambda n: progressive.halvings(8, n)),
    "two_step_target": (4, lambda n: progressive.two_step_target(right, X, INDEX / 4, n, cosine)),
    "progressive_loss": (4, lambda n: progressive.progressive_loss(right, right, X, n, cosine)),
    "student": (4, lambda n: progressive.Student(right, n)),
    "ect_stage": (4, lambda n: consistency.ect_stage(n, n)),
    "ct_steps": (4, lambda n: consistency.ct_steps(n, n)),
    "ict_steps": (40, lambda n: consistency.ict_steps(n, n, n, n)),
    "lognormal_times": (4, consistency.lognormal_times),
    "logit_normal_times": (4, progressive.logit_normal_times),
    "draw_interval": (4, lambda n: consistency.draw_interval(karras_sigmas(5), n)),
    "lcm_timesteps": (4, lcm.lcm_timesteps),
    "lcm_timesteps, origin": (30, lambda n: lcm.lcm_timesteps(4, n)),
    "lcm_function": (1000, lambda n: lcm.lcm_function(right, n)),
    "lcm_loss": (20, lambda k: lcm.lcm_loss(right, right, right, X, EPS, INDEX, TABLE, k)),
    "guidance_embedding": (8, lambda n: lcm.guidance_embedding(T, n)),
    "phases_at": (4, lambda n: phased.phases_at([(10, 2)], n)),
    "phase_grid": (4, phased.phase_grid),
    "linear_quadratic_grid": (4, phased.linear_quadratic_grid),
    "phase_edges": (2, lambda n: phased.phase_edges(GRID, n)),
    "grid_stops": (2, lambda n: phased.grid_stops(GRID, n)),
    "aged_student": (2, lambda n: phased.aged_student(right, GRID, EDGES, n)),
    "draw_times": (4, flowmap.draw_times),
    "alternate": (2, lambda n: list(matching.alternate(iter(range(4)), iter(range(2)), n))),
    "at_level": (1, lambda n: pyramid.at_level(X, n)),
    "stage_pair": (1, lambda n: pyramid.stage_pair(X, EPS, n, STAGES)),
    "split": (2, lambda n: pyramid.split(4, [n, n], 2)),
    "pyramid_sample": (2, lambda n: pyramid.pyramid_sample(right, X, STAGES, n)),
    "pyramid_sample, list": (2, lambda n: pyramid.pyramid_sample(right, X, STAGES, [n, n])),
    "pyramid_distillation_loss": (
        4, lambda n: pyramid.pyramid_distillation_loss(right, right, X, EPS, INDEX, STAGES, n)
    ),
    "history_layout": (2, lambda n: video.history_layout(n, 1, n)),
    "count_tokens": (1, lambda n: video.count_tokens([(n, 0)], n, n)),
    "forward_flops": (4, lambda n: video.forward_flops(n, n, n)),
    "video_flops": (2, lambda n: video.video_flops(n, [n, n], 16, 8, n, n)),
    "video_loss": (3, lambda n: video.video_loss(right, VIDEO, X, T, [n] * 4, STAGES)),
    "rollout": (2, lambda n: video.rollout(right, VIDEO, STAGES, n, memory=n)),
    "sliced_wasserstein": (8, lambda n: metrics.sliced_wasserstein(X[:, 0, 0], X[:, 0, 1], 2, n, n)),
    "frechet_distance": (2, lambda n: metrics.frechet_distance(X[:, 0, 0, :2], X[:, 0, 1, :2], n)),
    "precision_recall_coverage": (2, lambda n: metrics.precision_recall_coverage(X[:, 0, 0], X[:, 0, 1], n)),
    "DiT": (4, lambda n: [dit.DiT(**{name: n}) for name in ("channels", "patch", "dim", "depth", "heads", "classes")]),
    "MLP": (4, lambda n: dit.MLP(n, n, n)),
    "oracle": (4, MIXTURE.sample),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_integers_are_what_an_index_is(name):
    good, call = WHOLE[name]
    for whole in (good, np.int64(good), np.int32(good), torch.tensor(good)):
        call(whole)
    for bad in (
        float(good),
        good + 0.5,
        -1,
        -good,
        math.nan,
        math.inf,
        str(good),
        None,
        [good],
        torch.tensor([1.0, 2.0]),
    ):
        with pytest.raises(ValueError, match="must|needed|never|shares"):
            call(bad)


NUMBER = {
    "shifted": (2.0, lambda c: shifted(cosine, c)),
    "time_grid": (0.5, lambda c: time_grid(4, 1.0, c)),
    "karras_sigmas": (0.5, lambda c: karras_sigmas(4, c)),
    "karras_sigmas, rho": (0.5, lambda c: karras_sigmas(4, rho=c)),
    "as_denoiser": (0.5, lambda c: as_denoiser(right, cosine, c)),
    "weight": (5.0, lambda c: progressive.weight("min_snr", T, c)),
    "boundary": (0.5, lambda c: consistency.boundary(1 + T, c, c)),
    "pseudo_huber": (0.5, lambda c: consistency.pseudo_huber(X, c)),
    "consistency_loss": (0.5, lambda c: consistency.consistency_loss(right, X, EPS, T, S, edm, c)),
    "ect_mapping, q": (2.0, lambda c: consistency.ect_mapping(T, 2, c)),
    "ect_mapping, a": (2.0, lambda c: consistency.ect_mapping(T, c)),
    "ect_mapping, k": (2.0, lambda c: consistency.ect_mapping(T, 2, k=c)),
    "ect_mapping, b": (2.0, lambda c: consistency.ect_mapping(T, 2, b=c)),
    "ect_weight": (0.5, lambda c: consistency.ect_weight("snr", T, S, c)),
    "lognormal_times": (0.5, lambda c: consistency.lognormal_times(4, std=c)),
    "logit_normal_times": (0.5, lambda c: progressive.logit_normal_times(4, std=c)),
    "ct_steps": (0.5, lambda c: consistency.ct_steps(1, 10, mu0=c)),
    "ict_time_pmf": (0.5, lambda c: consistency.ict_time_pmf(karras_sigmas(4), std=c)),
    "trigflow": (0.5, consistency.trigflow),
    "scm_loss": (0.5, lambda c: consistency.scm_loss(right, X, EPS, T, c, warmup=c, c=c)),
    "lcm_scalings": (5.0, lambda c: lcm.lcm_scalings(T, c)),
    "huber": (0.5, lambda c: phased.huber(X, c)),
    "phase_grid": (2.0, lambda c: phased.phase_grid(4, c)),
    "linear_quadratic_grid": (0.3, lambda c: phased.linear_quadratic_grid(4, c)),
    "phased_sample": (0.5, lambda c: phased.phased_sample(right, X, EDGES.flip(0), c)),
    "tcd_fresh": (0.5, lambda c: phased.tcd_fresh(S, c)),
    "as_mean_velocity": (0.5, lambda c: flowmap.as_mean_velocity(right, c)),
    "draw_times": (0.5, lambda c: flowmap.draw_times(4, c)),
    "mean_flow_loss, p": (0.5, lambda c: flowmap.mean_flow_loss(right, X, EPS, T, S, p=c)),
    "mean_flow_loss, c": (0.5, lambda c: flowmap.mean_flow_loss(right, X, EPS, T, S, c=c)),
    "generate": (0.5, lambda c: matching.generate(right, X, t=c)),
    "drift": (0.5, lambda c: matching.drift(X, EPS, c)),
    "drifting_loss": (0.5, lambda c: matching.drifting_loss(X, EPS, c)),
    "guided_slope, kappa": (0.5, lambda c: flowmap.guided_slope(X, X, X, 1.0, c)),
    "stages": (0.3, lambda c: pyramid.stages([0, 0.5, 1], c)),
    "stages, cuts": (0.3, lambda c: pyramid.stages([0, c, 1])),
    "rollout": (1.0, lambda c: video.rollout(right, VIDEO, STAGES, 1, unconditional=right, guidance=(c, c))),
    "DiT": (16.0, lambda c: dit.DiT(top=c)),
    "MLP": (0.5, lambda c: dit.MLP(dropout=c)),
    "MLP, top": (16.0, lambda c: dit.MLP(top=c)),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBER)
def test_numbers_are_looked_at(name):
    good, call = NUMBER[name]
    for number in (good, np.float64(good), np.float32(good), torch.tensor(good)):
        call(number)
    negative = [-1.0] if name != "rollout" else []  # a negative scale pushes away: allowed
    for bad in (*negative, math.nan, math.inf, -math.inf, "0.5", None, [good], torch.full((4,), good), 1j):
        with pytest.raises(ValueError, match="must|needed"):
            call(bad)


# one number for each sample: (a right one, call)

EACH = {
    "t of mix": (T, lambda t: mix(X, EPS, t, edm)),
    "t of a denoiser": (T, lambda t: as_denoiser(right, edm)(X, t)),
    "t of ask": (T, lambda t: ask(right, X, t, "x")),
    "t of flow_matching_loss": (T, lambda t: phased.flow_matching_loss(right, X, EPS, t)),
    "t of a target": (INDEX / 4, lambda t: progressive.two_step_target(right, X, t, 4, cosine)),
    "t of weighted_error": (T, lambda t: progressive.weighted_error(X, EPS, t, cosine, "snr")),
    "s of a target": (S, lambda s: consistency.consistency_target(right, X, EPS, T, s, edm)),
    "s of ect_weight": (S, lambda s: consistency.ect_weight("gap", T, s)),
    "s of jump": (S, lambda s: phased.jump(X, EPS, T, s)),
    "t of a mean velocity": (T, lambda t: flowmap.as_mean_velocity(right)(X, t, 0 * S)),
    "s of a mean velocity": (S, lambda s: flowmap.as_mean_velocity(right)(X, T, s)),
    "s of an exact one": (S, lambda s: flowmap.exact_mean_velocity(right, right)(X, T, s)),
    "t of halves_target": (T, lambda t: flowmap.halves_target(right, X, t, 0 * S)),
    "s of halves_target": (S, lambda s: flowmap.halves_target(right, X, T, s)),
    "s of along_path": (S, lambda s: flowmap.along_path(right, X, T, s, EPS)),
    "s of shortcut_loss": (S, lambda s: flowmap.shortcut_loss(right, X, EPS, T, s)),
    "s of mean_flow_loss": (S, lambda s: flowmap.mean_flow_loss(right, X, EPS, T, s)),
    "s of improved_mean_flow_loss": (S, lambda s: flowmap.improved_mean_flow_loss(right, X, EPS, T, s)),
    "t of lagrangian_loss": (T, lambda t: flowmap.lagrangian_loss(right, X, EPS, t, 0 * S)),
    "s of lagrangian_loss": (S, lambda s: flowmap.lagrangian_loss(right, X, EPS, T, s)),
    "t of matching_gradient": (T, lambda t: matching.matching_gradient(X, EPS, t, right, another)),
    "t of guidance_gradient": (T, lambda t: matching.guidance_gradient(X, EPS, t, right, another, 2.0)),
    "t of matching_loss": (T, lambda t: matching.matching_loss(X, EPS, t, right, another, edm)),
    "t of fake_loss": (T, lambda t: matching.fake_loss(right, X, EPS, t, edm)),
    "weight of slerp": (T, lambda w: editing.slerp(X, EPS, w)),
    "u of pyramid_loss": (T, lambda u: pyramid.pyramid_loss(right, X, EPS, u, STAGES)),
    "u of video_loss": (T, lambda u: video.video_loss(right, VIDEO, X, u, [2] * 4, STAGES)),
    "sigma of video_loss": (S, lambda s: video.video_loss(right, VIDEO, X, T, [2] * 4, STAGES, s)),
    "sigma of corrupt": (S, lambda s: video.corrupt([VIDEO], s)),
    "index of phased_loss": (INDEX, lambda i: phased.phased_loss(right, right, right, X, EPS, i, GRID, EDGES)),
    "index of lcm_loss": (INDEX, lambda i: lcm.lcm_loss(right, right, right, X, EPS, i, TABLE)),
    "index of a pyramid": (
        INDEX, lambda i: pyramid.pyramid_distillation_loss(right, right, X, EPS, i, STAGES, 4)
    ),
    "label of a DiT": (INDEX, lambda y: dit.DiT(classes=9)(X, T, label=y)),
    "t of a DiT": (T, lambda t: dit.DiT()(X, t)),
    "interval of a DiT": (S, lambda s: dit.DiT(interval=True)(X, T, s)),
    "interval of an MLP": (S, lambda s: dit.MLP(interval=True)(X[:, 0, 0, :2], T, s)),
    "t of an MLP": (T, lambda t: dit.MLP()(X[:, 0, 0, :2], t)),
}  # fmt: skip


@pytest.mark.parametrize("name", EACH)
def test_one_number_for_each_sample(name):
    good, call = EACH[name]
    call(good)
    outside = good.clone()
    outside[2] = math.nan if good.is_floating_point() else 10_000
    other = good.float() if good.dtype == torch.long else good.long()
    for bad in (good[:1], good[:3], good[:, None], good[0], good.tolist(), other, outside, "none"):
        with pytest.raises(ValueError, match="must|s is the cleaner"):
            call(bad)


# samples

LOSSES = {
    "diffusion_loss": lambda x: progressive.diffusion_loss(right, x, cosine),
    "progressive_loss": lambda x: progressive.progressive_loss(right, right, x, 2, cosine),
    "consistency_loss": lambda x: consistency.consistency_loss(right, x, x, T[: len(x)], S[: len(x)], edm),
    "ect_loss": lambda x: consistency.ect_loss(right, x, x, T[: len(x)], 3),
    "scm_loss": lambda x: consistency.scm_loss(right, x, x, T[: len(x)]),
    "lcm_loss": lambda x: lcm.lcm_loss(right, right, right, x, x, INDEX[: len(x)], TABLE),
    "flow_matching_loss": lambda x: phased.flow_matching_loss(right, x, x, T[: len(x)]),
    "phased_loss": lambda x: phased.phased_loss(right, right, right, x, x, INDEX[: len(x)], GRID, EDGES),
    "shortcut_loss": lambda x: flowmap.shortcut_loss(right, x, x, T[: len(x)], S[: len(x)]),
    "mean_flow_loss": lambda x: flowmap.mean_flow_loss(right, x, x, T[: len(x)], S[: len(x)]),
    "improved_mean_flow_loss": lambda x: flowmap.improved_mean_flow_loss(right, x, x, T[: len(x)], S[: len(x)]),
    "lagrangian_loss": lambda x: flowmap.lagrangian_loss(right, x, x, T[: len(x)], S[: len(x)]),
    "surrogate_loss": lambda x: matching.surrogate_loss(x, x / 2),
    "matching_loss": lambda x: matching.matching_loss(x, x, T[: len(x)], right, another, edm),
    "fake_loss": lambda x: matching.fake_loss(right, x, x, T[: len(x)], cosine, "constant"),
    "drifting_loss": lambda x: matching.drifting_loss(x, x / 2),
    "pyramid_loss": lambda x: pyramid.pyramid_loss(right, x, x, T[: len(x)], STAGES),
    "pyramid_distillation_loss": lambda x: pyramid.pyramid_distillation_loss(
        right, right, x, x, INDEX[: len(x)], STAGES, 4
    ),
    "video_loss": lambda x: video.video_loss(right, x[:, None], x, T[: len(x)], [1] * len(x), STAGES),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_and_bytes_are_refused(name):
    LOSSES[name](X)
    for bad in (X[:0], (X * 9).byte(), X.long(), X.to(torch.complex64)):
        with pytest.raises(ValueError, match="float tensor"):
            LOSSES[name](bad)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_neither_overflows_nor_changes_its_dtype(name):
    """Values of up to 1000, whose square float16 does not hold: each loss is its float32 value, rounded."""
    drawn = name in (
        "diffusion_loss",
        "progressive_loss",
    )  # noise is drawn in x's dtype, and the weight is large
    for dtype in (torch.float16, torch.bfloat16):
        torch.manual_seed(0)  # a time drawn near 0 has a weight that float16 does not hold
        x = ((5 if drawn else 300) * X).to(dtype)
        low = LOSSES[name](x)
        assert low.dtype == dtype and low.isfinite().all()
        if not drawn:
            rounding = torch.finfo(dtype).eps * x.abs().max().item()
            torch.testing.assert_close(low.float(), LOSSES[name](x.float()), rtol=0.05, atol=rounding)


HALF = {
    "lcm_scalings": lambda h: lcm.lcm_scalings(h(torch.tensor([0.0, 1.0, 26.0, 999.0])))[1],
    "guidance_embedding": lambda h: lcm.guidance_embedding(h(torch.tensor([0.0, 1.0, 7.0])), 16),
    "pseudo_huber": lambda h: consistency.pseudo_huber(h(300 * X), 0.5),
    "huber": lambda h: phased.huber(h(300 * X), 0.5),
    "boundary": lambda h: torch.stack(consistency.boundary(h(torch.tensor([0.25, 80.0, 400.0])))),
    "ect_mapping": lambda h: consistency.ect_mapping(h(T), 10),
    "ect_weight": lambda h: consistency.ect_weight("snr", h(400 * T), h(S)),
    "tcd_fresh": lambda h: phased.tcd_fresh(h(S), 0.01),
    "weight": lambda h: progressive.weight("snr+1", h(torch.tensor([-3.0, 0.0, 10.0]))),
    "log_snr": lambda h: log_snr(linear_beta, h(torch.tensor([0.002, 0.5, 1.0]))),
    "linear_beta": lambda h: torch.stack(linear_beta(h(torch.tensor([0.002, 0.5, 1.0])))),
    "sigmoid": lambda h: torch.stack(sigmoid(h(torch.tensor([0.002, 0.5, 1.0])))),
    "zero_terminal_snr": lambda h: zero_terminal_snr(h(torch.tensor([0.99, 0.5, 0.25, 0.125]))),
    "slerp": lambda h: editing.slerp(h(X), h(X + 0.01 * EPS), h(T)),
    "ddim_step": lambda h: ddim_step(h(X + 0.01 * EPS), h(X), h(T / 20), h(T / 40), cosine),
    "convert": lambda h: convert(h(X), h(X + 0.01 * EPS), h(T / 100), cosine, "x", "eps"),
    "ddim": lambda h: ddim(right, h(X), torch.tensor([0.1, 0.05]), cosine),
    "euler": lambda h: euler(right, h(X), torch.tensor([0.1, 0.05]), cosine),
    "as_denoiser": lambda h: as_denoiser(right, edm, 0.5)(h(X), h(400 * T)),
    "as_mean_velocity": lambda h: flowmap.as_mean_velocity(right, 0.5)(h(X), h(T), h(S)),
    "guided_slope": lambda h: flowmap.guided_slope(h(X), h(EPS), h(X), 2.0, 0.5),
    "generate": lambda h: matching.generate(lambda z, t: z / 2, h(X), edm, 80.0),
    "matching_gradient": lambda h: matching.matching_gradient(h(X), h(EPS), h(T), lambda z, t: z / 2, lambda z, t: z / 4),
    "surrogate_loss": lambda h: matching.surrogate_loss(h(64 + X), h(EPS / 100)),
    "drift": lambda h: matching.drift(h(64 + X), h(64 + EPS)),
    "drifting_loss": lambda h: matching.drifting_loss(h(64 + X), h(64 + EPS)),
    "Gaussian": lambda h: Gaussian(torch.zeros(64), torch.eye(64)).flow_map(h(X), h(T), h(S), cosine),
    "Empirical": lambda h: Empirical(20 * EPS).log_prob(h(20 * EPS), h(T), cosine) / 1000,
    "centre": lambda h: metrics.centre_of_brightness(h(400 * X)),
    "sines": lambda h: h(dit.sines(h(torch.tensor([0.5, 1.0, 1.5])), 32)),
}  # fmt: skip


@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_computed_in_float32(name):
    """Of half-precision input, what float32 makes of the same numbers, rounded once."""
    for dtype in (torch.float16, torch.bfloat16):
        low = HALF[name](lambda x: x.to(dtype))
        exact = HALF[name](lambda x: x.to(dtype).float())
        assert low.isfinite().all() and low.dtype == dtype
        torch.testing.assert_close(low.double(), exact.double(), rtol=torch.finfo(dtype).eps, atol=1e-6)


# a device without float64


class Accelerator(torch.Tensor):
    """A tensor on a device that knows no float64, as mps: whatever would make one there raises TypeError."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        answer = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return answer.as_subclass(torch.Tensor)
        for value in answer if isinstance(answer, tuple) else (answer,):
            if isinstance(value, Accelerator) and value.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return answer


def test_no_float64_where_the_device_has_none(monkeypatch):
    def raises(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    monkeypatch.setattr(torch.Tensor, "double", raises)
    a, b = (torch.randn(40, 3, generator=G).as_subclass(Accelerator) for _ in range(2))
    with pytest.raises(TypeError, match="float64"):
        a.to(torch.float64)
    found = [
        *metrics.flow_map_error(a, b), metrics.energy_distance(a, b), *metrics.sliced_wasserstein(a, b),
        *metrics.frechet_distance(a, b), *metrics.precision_recall_coverage(a, b),
    ]  # fmt: skip
    assert all(math.isfinite(value) for value in found)
    assert metrics.nearest_neighbour_ratio(a, b).isfinite().all()
    pmf = consistency.ict_time_pmf(karras_sigmas(5).as_subclass(Accelerator))
    assert pmf.dtype == torch.float32 and abs(pmf.sum() - 1) < 1e-6
    alpha, _ = TABLE(T.as_subclass(Accelerator))
    torch.testing.assert_close(alpha.as_subclass(torch.Tensor), TABLE(T)[0])
    assert tabulated(ALPHA_BAR.float().as_subclass(Accelerator))(T)[0].isfinite().all()


def test_metrics_refuse_what_is_not_finite():
    a, b = torch.randn(2, 40, 3, generator=G)
    for value in (math.nan, math.inf):
        bad = a.clone()
        bad[3, 1] = value
        for metric in (
            metrics.flow_map_error, metrics.energy_distance, metrics.sliced_wasserstein, metrics.frechet_distance,
            metrics.precision_recall_coverage, metrics.nearest_neighbour_ratio,
        ):  # fmt: skip
            for pair in ((bad, b), (b, bad)):
                with pytest.raises(ValueError, match="nan or infinite"):
                    metric(*pair)


def test_labels_are_not_cut_and_not_shared():
    seen = []

    def network(z, t, label, **_):
        seen.append(label.tolist())
        return z

    pyramid.pyramid_loss(network, X, EPS, T, STAGES, label=INDEX)
    assert seen == [[1, 2], [3, 4]]
    for label in (torch.arange(5), torch.arange(3), torch.tensor(1), [1, 2, 3, 4], None):
        for call in (
            lambda: pyramid.pyramid_loss(network, X, EPS, T, STAGES, label=label),
            lambda: pyramid.pyramid_distillation_loss(
                network, network, X, EPS, INDEX, STAGES, 4, label=label
            ),
            lambda: video.video_loss(network, VIDEO, X, T, [2] * 4, STAGES, label=label),
        ):
            with pytest.raises(ValueError, match="label must have an entry for each of 4 samples"):
                call()


def test_the_sentences():
    for call, sentence in (
        (lambda: need.whole("n", 4.0), "n must be a whole number, got n = 4.0"),
        (lambda: need.whole("n", 7, 1, 5), "n must be from 1 to 5, got n = 7"),
        (lambda: need.number("c", math.nan), "c must be a finite number, got nan"),
        (lambda: need.number("c", 2, above=0, below=1), "c must be above 0 and below 1, got 2"),
        (lambda: need.samples(x=X, eps=EPS[:1]), r"x and eps must have one shape, got \(4, 1, 8, 8\) and \(1, "),
        (lambda: need.each("t", T[:2], X), r"t must be a float tensor \(4,\), one for each sample, got torch.float32 of shape \(2,\)"),
        (lambda: need.ordered("stops", T), "stops must fall from one to the next"),
        (lambda: need.ordered("grid", T.flip(0), falls=False), "grid must rise"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            call()


def test_a_time_just_beyond_the_end_keeps_its_derivative():
    """As of float32 times that were computed: 1.0000001 is 1, and the schedule still moves there."""
    for schedule in (cosine, rectified_flow, linear_beta):
        inside, beyond = (torch.stack(rates(schedule, torch.tensor([t]))) for t in (1.0, 1.0 + 1.2e-7))
        torch.testing.assert_close(beyond, inside)
    oracle = Gaussian(torch.zeros(2), torch.eye(2)).denoiser(cosine)
    times, z = time_grid(4), torch.randn(8, 2, generator=G)
    nudged = torch.cat([times[:1] + 1.2e-7, times[1:]])
    torch.testing.assert_close(euler(oracle, z, nudged, cosine), euler(oracle, z, times, cosine))


def test_functions_that_are_transformed():
    """Where torch cannot look at values, in vmap and while it compiles, they are not looked at."""
    oracle, x = Gaussian(torch.zeros(2), torch.eye(2)), torch.randn(4, 2, generator=G)
    one = lambda z, t: oracle.denoiser(cosine)(z[None], t[None])[0]
    torch.testing.assert_close(torch.func.vmap(one)(x, T), oracle.denoiser(cosine)(x, T))
    jacobian = torch.func.vmap(torch.func.jacrev(one))(x, T)
    torch.testing.assert_close(jacobian @ x[..., None], oracle.denoiser(cosine)(x, T)[..., None])
    denoiser = as_denoiser(dit.MLP(), cosine)
    compiled = torch.compile(denoiser, backend="eager")
    torch.testing.assert_close(compiled(x, T), denoiser(x, T))


def test_conditioning_and_schedules_in_place_are_noticed():
    label = INDEX.clone()
    for call in (
        lambda: as_denoiser(lambda z, t, label: z * label.add_(1).sum(), cosine, label=label)(X, T),
        lambda: video.rollout(
            lambda z, t, history: z + 0 * (history[0].mul_(0.5).sum() if history else 0), VIDEO, STAGES, 1
        ),
        lambda: mix(X, EPS, T.clone(), lambda t: (1 - t.mul_(0.5), t)),
    ):
        with pytest.raises(ValueError, match="in place"):
            call()


def test_small_integers_do_not_wrap():
    """uint8 minus 20 is large: MNIST's labels are uint8."""
    index = torch.tensor([5, 15, 10, 200])
    for small in (torch.uint8, torch.int16):
        for call in (
            lambda i: lcm.lcm_loss(right, right, right, X, EPS, i, TABLE),
            lambda i: phased.phased_loss(right, right, right, X, EPS, i.clamp(max=8), GRID, EDGES),
            lambda i: dit.DiT(classes=200)(X, T, label=i),
        ):
            torch.manual_seed(0)
            expected = call(index)
            torch.manual_seed(0)
            assert torch.equal(call(index.to(small)), expected)


def test_numbers_have_no_gradient():
    with pytest.raises(ValueError, match="gets no gradient"):
        guided(right, right, torch.tensor(2.0, requires_grad=True))
