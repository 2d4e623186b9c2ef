"""diffusers' schedulers, by the names in their configs: how to read their networks, what samples a student.

A config says what the network predicts, its clock and its table, and not how the network was built. On the
way back the network is the teacher's own, trained in place, and its library saves it as it is. The scheduler
is saved beside it; the settings of its call are not: write them on the card.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.schedules import time_grid

# what no denoiser can follow
REFUSED = {
    ("thresholding", True): "the sampler clamps each sample by its own numbers",
    ("invert_sigmas", True): "its time 0 is noise: wrap the network, and take flow_denoiser",
    ("timestep_spacing", "linspace"): "DDIMScheduler steps past its own timesteps: take trailing or leading",
    ("variance_type", "learned"): "wrap the network, to give its first half, and say fixed_small",
    ("variance_type", "learned_range"): "wrap the network, to give its first half, and say fixed_small",
}
# networks whose pipelines divide the time of the scheduler by 1000
OWN_CLOCKS = ("Flux", "QwenImage", "Chroma", "AuraFlow", "LongCatImage", "OvisImage", "ZImage")


def read_config(scheduler: object, network: str = "") -> tuple[str, dict]:
    """Which reader of pretrained.py fits, "table", "flow" or "edm", and its settings.

    network: the name of its class, since a scheduler does not know who multiplies the time.
    clip_sample is not followed: it clamps x_hat and keeps the old eps, as no denoiser's DDIM does. Raises
    ValueError, with the reason, for what no denoiser can follow, and for what is not known here.
    """
    config, table = getattr(scheduler, "config", {}), getattr(scheduler, "alphas_cumprod", None)
    for (name, value), reason in REFUSED.items():
        if config.get(name) == value and (name != "timestep_spacing" or "set_alpha_to_one" in config):
            raise ValueError(f"{name} = {value!r}: {reason}")
    kind = config.get("prediction_type", "flow_prediction" if "shift" in config else None)
    if kind == "flow_prediction" and network.startswith(OWN_CLOCKS):
        raise ValueError(
            f"{network} has its own clock: flow_denoiser(net, scale=1); ZImage's runs backwards, too"
        )
    if kind == "flow_prediction" and "num_train_timesteps" in config:
        return "flow", {"scale": config["num_train_timesteps"]}
    if "sigma_min" in config and "sigma_data" in config and kind is None:  # a consistency model
        return "edm", {"data_std": config["sigma_data"], "scale": 250, "t_min": config["sigma_min"]}
    # CosineDPMSolverMultistepScheduler has these names, too, and another clock, atan(sigma)
    known = "sigma_data" in config and not type(scheduler).__name__.startswith("Cosine")
    if known and kind in ("epsilon", "v_prediction"):
        return "edm", {"data_std": config["sigma_data"], "sign": 1 if kind == "epsilon" else -1}
    if config.get("timestep_type") == "continuous" and kind == "v_prediction":  # Stable Video Diffusion
        return "edm", {"data_std": 1, "sign": -1}
    kinds = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
    if table is None or kind not in kinds or config.get("timestep_type") == "continuous":
        raise ValueError(f"{type(scheduler).__name__} with prediction_type {kind!r} is not known here")
    if config.get("rescale_betas_zero_snr"):  # EulerDiscreteScheduler has 2^-24 at the end
        table = torch.cat([table[:-1], table.new_zeros(1)])
    return "table", {"alpha_bar": table, "kind": kinds[kind]}


def to_scheduler(student: str, scheduler: object, times: Float[Tensor, " n"]) -> tuple[object, dict]:
    """(scheduler, settings): after scheduler.set_timesteps(**settings) it stops where the student does.

    student: "progressive", of a table (DDIM) or a flow (Euler); "consistency", with fresh noise, of a table
    (LCM), a flow (FlowMatchLCM) or a consistency model; "phased", of a flow (Euler). scheduler: the
    teacher's. times: the student's. A pipeline takes the settings, too: pipe(**settings). Raises ValueError
    for another student, and for times at which no scheduler stops.

    What else a progressive student could be sampled with, and what it costs, without a word: RMSE to its own
    images, of digits in [-1, 1], for students of 4, 2 and 1 steps (lesson 15):

        leading, the default              0.15    0.31    1.11
        linspace                          0.22    0.63    1.11
        clip_sample, the default          0.01    0.02    0.05
        set_alpha_to_one=False            0.01    0.01    0.01
        beta_schedule linear              0.32    0.53    0.00
        50 steps, the default call        0.13    0.22    0.52
    """
    import diffusers  # an extra

    if student not in ("progressive", "consistency", "phased"):
        raise ValueError(f'student must be "progressive", "consistency" or "phased", got {student!r}')
    need.ordered("times", times)
    times, steps, consistent = times.cpu().to(torch.float64), len(times) - 1, student == "consistency"
    family, settings = read_config(scheduler)
    # without this key from_config takes what the teacher has, and not the defaults of its own class
    config = {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
    end = settings.get("t_min", 0.0)
    if abs(times[-1] - end) > 1e-6:
        raise ValueError(f"this scheduler ends at time {end:g}, and these times at {times[-1]:g}")

    if family == "flow":
        shift = config.get("shift", config.get("flow_shift"))
        sigmas = times[:-1] / (shift - (shift - 1) * times[:-1])  # the scheduler shifts them again
        chosen = diffusers.FlowMatchLCMScheduler if consistent else diffusers.FlowMatchEulerDiscreteScheduler
        plain = dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), False)
        plain |= dict(use_dynamic_shifting=False, shift_terminal=None, shift=shift, stochastic_sampling=False)
        return chosen.from_config(config, **plain), {"sigmas": sigmas.tolist()}

    if family == "table" and student != "phased":
        n = len(settings["alpha_bar"])
        indices, plain = whole(times[:-1] * n - 1), dict(clip_sample=False, set_alpha_to_one=True)
        if consistent:
            chosen = diffusers.LCMScheduler.from_config(config, original_inference_steps=n, **plain)
            return on_table(chosen, settings["alpha_bar"]), {"timesteps": indices}
        if n % steps or not torch.allclose(times, time_grid(steps, dtype=times.dtype)):
            raise ValueError(f"a progressive student's times are time_grid(steps), for steps that divide {n}")
        plain |= dict(timestep_spacing="trailing", steps_offset=0)
        chosen = diffusers.DDIMScheduler.from_config(config, **plain)
        return on_table(chosen, settings["alpha_bar"]), {"num_inference_steps": steps}

    if consistent and "t_min" in settings:
        low, high = (config[name] ** (1 / config["rho"]) for name in ("sigma_min", "sigma_max"))
        places = (
            (high - times[:-1] ** (1 / config["rho"])) / (high - low) * (config["num_train_timesteps"] - 1)
        )
        chosen = diffusers.CMStochasticIterativeScheduler.from_config(config, clip_denoised=False)
        return chosen, {"timesteps": whole(places)[::-1]}  # read backwards: 0 is the noisiest
    raise ValueError(f"diffusers has no scheduler for a {student} student of {type(scheduler).__name__}")


def on_table(chosen: object, table: Float[Tensor, " n"]) -> object:
    """The scheduler, as it is. Raises ValueError where its config makes another table than the teacher's."""
    if not torch.allclose(chosen.alphas_cumprod.to(table), table):
        raise ValueError(f"{type(chosen).__name__} makes another table of this config: sample with ddim here")
    return chosen


def whole(places: Float[Tensor, " n"]) -> list[int]:
    """Places in a scheduler's table, as integers. Raises ValueError for one between two entries."""
    if (places - places.round()).abs().max() > 1e-3:
        raise ValueError(
            f"a scheduler stops at entries of its table, not in between: {places.tolist()!s:.60}"
        )
    return places.round().long().tolist()
