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
    if kind == "flow_prediction":
        return "flow", {"scale": config["num_train_timesteps"]}
    if "sigma_data" in config and kind is None:  # a consistency model
        return "edm", {"data_std": config["sigma_data"], "scale": 250, "t_min": config["sigma_min"]}
    if "sigma_data" in config and kind in ("epsilon", "v_prediction"):
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
    """
    import diffusers  # an extra

    if student not in ("progressive", "consistency", "phased"):
        raise ValueError(f'student must be "progressive", "consistency" or "phased", got {student!r}')
    need.ordered("times", times)
    times, steps, consistent = times.cpu().to(torch.float64), len(times) - 1, student == "consistency"
    config, (family, settings) = scheduler.config, read_config(scheduler)
    end = settings.get("t_min", 0.0)
    if abs(times[-1] - end) > 1e-6:
        raise ValueError(f"this scheduler ends at time {end:g}, and these times at {times[-1]:g}")

    if family == "flow":
        shift = config.get("shift", config.get("flow_shift"))
        sigmas = times[:-1] / (shift - (shift - 1) * times[:-1])  # the scheduler shifts them again
        chosen = diffusers.FlowMatchLCMScheduler if consistent else diffusers.FlowMatchEulerDiscreteScheduler
        plain = dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), False)
        plain |= dict(use_dynamic_shifting=False, shift_terminal=None, shift=shift)
        return chosen.from_config(config, **plain), {"sigmas": sigmas.tolist()}

    if family == "table" and student != "phased":
        n = len(settings["alpha_bar"])
        indices, plain = whole(times[:-1] * n - 1), dict(clip_sample=False, set_alpha_to_one=True)
        if consistent:
            chosen = diffusers.LCMScheduler.from_config(config, original_inference_steps=n, **plain)
            return chosen, {"timesteps": indices}
        if n % steps or not torch.allclose(times, time_grid(steps, dtype=times.dtype)):
            raise ValueError(f"a progressive student's times are time_grid(steps), for steps that divide {n}")
        plain |= dict(timestep_spacing="trailing", steps_offset=0)
        return diffusers.DDIMScheduler.from_config(config, **plain), {"num_inference_steps": steps}

    if consistent and "t_min" in settings:
        low, high = (config[name] ** (1 / config["rho"]) for name in ("sigma_min", "sigma_max"))
        places = (
            (high - times[:-1] ** (1 / config["rho"])) / (high - low) * (config["num_train_timesteps"] - 1)
        )
        chosen = diffusers.CMStochasticIterativeScheduler.from_config(config, clip_denoised=False)
        return chosen, {"timesteps": whole(places)[::-1]}  # read backwards: 0 is the noisiest
    raise ValueError(f"diffusers has no scheduler for a {student} student of {type(scheduler).__name__}")


def whole(places: Float[Tensor, " n"]) -> list[int]:
    """Places in a scheduler's table, as integers. Raises ValueError for one between two entries."""
    if (places - places.round()).abs().max() > 1e-3:
        raise ValueError(
            f"a scheduler stops at entries of its table, not in between: {places.tolist()!s:.60}"
        )
    return places.round().long().tolist()
