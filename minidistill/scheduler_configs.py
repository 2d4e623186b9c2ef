"""diffusers' schedulers, by the names in their configs: how to read their networks, what samples a student.

A config says what the network predicts, its clock and its table, and not how the network was built. On the
way back the network is the teacher's own, trained in place, and its library saves it as it is. The scheduler
is saved beside it; the settings of its call are not: write them on the card.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.schedules import time_grid

# what no denoiser can follow
REFUSED = {
    ("thresholding", True): "the sampler clamps each sample by its own numbers",
    ("invert_sigmas", True): "its time 0 is noise: wrap the network, and take flow_denoiser",
    ("variance_type", "learned"): "wrap the network, to give its first half, and set it as without",
    ("variance_type", "learned_range"): "wrap the network, to give its first half, and set it as without",
}
# networks of flows whose pipelines do not ask at 1000 t for eps - x: they divide the time, or turn a sign
OWN_CLOCKS = ("Flux", "QwenImage", "Chroma", "AuraFlow", "LongCatImage", "LongCatAudio", "OvisImage")
OWN_CLOCKS += ("Krea2", "PRX", "BriaFibo2")
OTHER_SIGNS = ("ZImage", "Lumina", "HiDream", "NucleusMoE", "Ideogram4", "Cosmos")


def read_config(scheduler: object, network: str = "") -> tuple[str, dict]:
    """Which reader of pretrained.py fits, "table", "flow" or "edm", and its settings.

    network: the name of its class, since a scheduler does not know who multiplies the time.
    clip_sample is not followed: it clamps x_hat and keeps the old eps, as no denoiser's DDIM does. Raises
    ValueError, with the reason, for what no denoiser can follow, and for what is not known here.
    """
    config, name = getattr(scheduler, "config", None), type(scheduler).__name__
    if not hasattr(config, "get") or hasattr(scheduler, "scheduler"):
        raise ValueError(f"needed: a scheduler of diffusers, as pipe.scheduler, got {name}")
    kind, table = config.get("prediction_type"), getattr(scheduler, "alphas_cumprod", None)
    for (key, value), reason in REFUSED.items():
        if config.get(key) == value:
            raise ValueError(f"{key} = {value!r}: {reason}")
    if config.get("timestep_spacing") == "linspace" and "set_alpha_to_one" in config:
        raise ValueError("linspace: DDIMScheduler steps past its own timesteps. Take trailing or leading")

    if kind == "flow_prediction" or (kind is None and "shift" in config):
        if network.startswith(OWN_CLOCKS):
            raise ValueError(f"{network} multiplies the time itself: flow_denoiser(net, scale=1)")
        if network.startswith(OTHER_SIGNS):
            raise ValueError(f"{network} has another clock or sign: wrap it, as its pipeline does")
        if "num_train_timesteps" in config:
            return "flow", {"scale": config["num_train_timesteps"]}
    elif "sigma_data" in config and not name.startswith("Cosine"):  # whose clock is atan(sigma)
        data_std = config["sigma_data"]
        if kind is None and "sigma_min" in config:  # a consistency model
            return "edm", {"data_std": data_std, "scale": 250, "t_min": config["sigma_min"]}
        if kind in ("epsilon", "v_prediction"):
            return "edm", {"data_std": data_std, "sign": 1 if kind == "epsilon" else -1}
    elif config.get("timestep_type") == "continuous":
        if kind == "v_prediction":  # Stable Video Diffusion
            return "edm", {"data_std": 1, "sign": -1}
    elif table is not None and not config.get("use_flow_sigmas"):
        kinds = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
        if config.get("rescale_betas_zero_snr"):  # EulerDiscreteScheduler has 2^-24 at the end
            table = torch.cat([table[:-1], table.new_zeros(1)])
        if kind in kinds:
            return "table", {"alpha_bar": table, "kind": kinds[kind]}
    raise ValueError(f"{name} with prediction_type {kind!r} is not known here")


def to_scheduler(student: str, scheduler: object, times: Float[Tensor, " n"]) -> tuple[object, dict]:
    """(scheduler, settings): after scheduler.set_timesteps(**settings) it stops where the student does.

    student: "progressive", of a table (DDIM), a flow (Euler) or EDM; "consistency", with fresh noise, of a
    table (LCM), a flow (FlowMatchLCM) or a consistency model; "phased", of a flow (Euler). scheduler: the
    teacher's. times: the student's. Raises ValueError for another student, and for times at which no
    scheduler stops. A pipeline takes the settings, pipe(**settings), where its call has that name; where it
    has none (Wan's), or makes a scheduler its own (DDIMPipeline turns LCM into DDIM), write the loop.

    What else a progressive student could be sampled with, and what it costs, without a word: RMSE to its own
    images, of digits in [-1, 1], for students of 4, 2 and 1 steps (lesson 15):

        leading, the default              0.15    0.31    1.11
        linspace                          0.22    0.63    1.11
        clip_sample, the default          0.01    0.02    0.05
        set_alpha_to_one=False            0.01    0.01    0.01
        beta_schedule linear              0.32    0.53    0.00
        50 steps, the default call        0.13    0.22    0.52
    """
    if student not in ("progressive", "consistency", "phased"):
        raise ValueError(f'student must be "progressive", "consistency" or "phased", got {student!r}')
    family, settings = read_config(scheduler)
    need.ordered("times", times, math.inf if family == "edm" else 1)
    times, end = times.cpu().to(torch.float64), settings.get("t_min", 0.0)
    if abs(times[-1] - end) > 1e-6:
        raise ValueError(f"the student's scheduler ends at time {end:g}, and these times at {times[-1]:g}")
    # the first would replace what the teacher has by defaults, with the second some pipelines drop sigmas
    left_out = ("_use_default_values", "use_flow_sigmas")
    config = {name: value for name, value in scheduler.config.items() if name not in left_out}
    match family, student:
        case "flow", _:
            return of_a_flow(student, config, times)
        case "table", "progressive" | "consistency":
            return of_a_table(student, config, times, settings["alpha_bar"])
        case "edm", "progressive" | "consistency" if ("t_min" in settings) == (student == "consistency"):
            if "rho" in config:
                return of_sigmas(student, config, times)
    raise ValueError(f"no scheduler is known here for a {student} student of {type(scheduler).__name__}")


def of_a_flow(student: str, config: dict, times: Float[Tensor, " n"]) -> tuple[object, dict]:
    """Euler, or with fresh noise LCM: at sigmas which the scheduler shifts once more."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler

    shift = config.get("shift", config.get("flow_shift"))
    sigmas = times[:-1] / (shift - (shift - 1) * times[:-1])
    plain = dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), False)
    plain |= dict(use_dynamic_shifting=False, shift_terminal=None, shift=shift, stochastic_sampling=False)
    chosen = FlowMatchLCMScheduler if student == "consistency" else FlowMatchEulerDiscreteScheduler
    return chosen.from_config(config | plain), {"sigmas": sigmas.tolist()}


def of_a_table(
    student: str, config: dict, times: Float[Tensor, " n"], table: Float[Tensor, " m"]
) -> tuple[object, dict]:
    """DDIM, or with fresh noise LCM: at entries of the table, from x_hat as it is, down to alpha = 1."""
    from diffusers import DDIMScheduler, LCMScheduler

    n, steps, indices = len(table), len(times) - 1, whole(times[:-1] * len(table) - 1)
    plain = config | dict(clip_sample=False, set_alpha_to_one=True)
    if student == "consistency":
        chosen, settings = LCMScheduler.from_config(plain, original_inference_steps=n), {"timesteps": indices}
    elif n % steps or not torch.allclose(times, time_grid(steps, dtype=times.dtype)):
        raise ValueError(f"a progressive student's times are time_grid(steps), for steps that divide {n}")
    else:
        chosen = DDIMScheduler.from_config(plain, timestep_spacing="trailing", steps_offset=0)
        settings = {"num_inference_steps": steps}
    if not torch.allclose(chosen.alphas_cumprod.to(table), table):
        raise ValueError(f"{type(chosen).__name__} makes another table of this config: sample with ddim here")
    return chosen, settings


def of_sigmas(student: str, config: dict, times: Float[Tensor, " n"]) -> tuple[object, dict]:
    """EDM's Euler, or a consistency model's scheduler: at places of a Karras ramp, from sigma_max."""
    from diffusers import CMStochasticIterativeScheduler, EDMEulerScheduler

    low, high, levels = (c ** (1 / config["rho"]) for c in (config["sigma_min"], config["sigma_max"], times))
    ramp = (high - levels[:-1]) / (high - low)
    if abs(ramp[0]) > 1e-6:
        raise ValueError(f"sampling starts at sigma_max, {config['sigma_max']:g}, not at {times[0]:g}")
    if student == "progressive":
        plain = config | dict(sigma_schedule="karras", final_sigmas_type="zero")
        return EDMEulerScheduler.from_config(plain), {"sigmas": ramp}
    places = whole(ramp * (config["num_train_timesteps"] - 1))
    chosen = CMStochasticIterativeScheduler.from_config(config | dict(clip_denoised=False))
    return chosen, {"timesteps": places[::-1]}  # read backwards: 0 is the noisiest


def whole(places: Float[Tensor, " n"]) -> list[int]:
    """Places in a scheduler's table, as integers. Raises ValueError for one between two entries."""
    if (places - places.round()).abs().max() > 1e-3:
        raise ValueError(f"a scheduler stops at entries of its table, not between: {places.tolist()!s:.60}")
    return places.round().long().tolist()
