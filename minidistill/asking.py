"""Asking a schedule or a network, and looking at what it says.

What this package is given are functions: a schedule t -> (alpha, sigma), and denoisers, velocities and
networks (z, t) -> a tensor of z's shape. `read` asks the first, `ask` the others, and both raise ValueError
for an answer that would otherwise be broadcast or carried on.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from minidistill import need
from minidistill.need import extremes, rounding, wide, within

Time = Float[Tensor, " b"]  # one time for each sample in the batch
Batch = Float[Tensor, "b *d"]  # points, images, videos: any axes after the batch
Schedule = Callable[[Time], tuple[Time, Time]]
Generator = torch.Generator | None  # None: torch's own random numbers
Net = Callable[..., object]  # a stranger's network, which answers with a tensor, or something that has one
Number, Whole = need.Number, need.Whole


# a schedule


def until(end: float) -> Callable[[Schedule], Schedule]:
    """Makes a formula a schedule for times from 0 to `end`, which raises ValueError for anything else."""

    def decorate(formula: Schedule) -> Schedule:
        @functools.wraps(formula)
        def schedule(t):
            if not (isinstance(t, Tensor) and t.is_floating_point()):
                raise ValueError(f"times must be a float tensor, got {t!r:.60}")
            if t.numel() and not within(t, 0, end):
                slack = rounding(t.dtype)
                if not within(t, -slack, end + slack):
                    low, high = extremes(t)
                    raise ValueError(
                        f"this schedule runs from t = 0 (data) to t = {end:g} (noise), got {low:g} to "
                        f"{high:g}. A DDPM's step i of n is t = (i + 1) / n, and EDM's sigma is edm's time"
                    )
                t = t + (t.clamp(0, end) - t).detach()  # the end itself, with its derivative
            alpha, sigma = formula(t.to(wide(t.dtype)))
            return alpha.to(t.dtype), sigma.to(t.dtype)

        return schedule

    return decorate


def read(schedule: Schedule, t: Time) -> tuple[Time, Time]:
    """alpha_t and sigma_t, each (b,), in float32 at least: the one place where a schedule is asked.

    Raises ValueError unless t is a float tensor (b,), and alpha and sigma have its shape and are finite and
    not negative.
    """
    need.each("t", t, t)
    if not callable(schedule):
        raise ValueError(
            f"a schedule is a function t -> (alpha, sigma), such as cosine, got {schedule!r:.60}"
        )
    t = t.to(wide(t.dtype))
    version = None if t.is_inference() else t._version
    found = schedule(t)
    tensors = isinstance(found, tuple) and all(isinstance(c, Tensor) for c in found)
    if not tensors or [c.shape for c in found] != [t.shape] * 2:
        raise ValueError(
            f"a schedule turns times {tuple(t.shape)} into a tuple (alpha, sigma), each like them"
        )
    if version is not None and t._version != version:
        raise ValueError("the schedule changed its times in place: it must leave them as they are")
    both = torch.stack(found)
    if not within(both, 0):
        if not within(both, -rounding(t.dtype)):
            low, high = extremes(both)
            raise ValueError(
                f"alpha and sigma must be finite and never negative, got {low:g} to {high:g}: wrong times?"
            )
        # cos(pi / 2) is -4e-8 in float32: 0, with its derivative
        found = tuple(c + (c.clamp(min=0) - c).detach() for c in found)
    return found


# a network


def ask(
    model: Callable[..., Tensor], z: Batch, t: Time, kind: str | None, /, *more: Time, **conditioning
) -> Batch:
    """model(z, t), looked at: of a denoiser, kind "x", of a velocity or mean velocity, or of a network, kind
    "tangent".

    The model gets t, and a second time where there is `more`, in z's dtype, and its answer comes back in z's
    dtype. Raises ValueError for an answer of another shape, a time that is not finite, an input changed in
    place, and a model known to answer another kind: those that this package makes say it in `predicts`.
    """
    for time in (t, *more):
        need.each("t", time, z)
    return ask_at(model, z, t, kind, *more, **conditioning)


def ask_at(
    model: Callable[..., Tensor], z: Batch, t: Time, kind: str | None, /, *more: Time, **conditioning
) -> Batch:
    """ask, at a time that was looked at before: a sampler looks at its whole grid once."""
    if not callable(model):
        raise ValueError(f"needed: a function (z, t{', s' * len(more)}) -> {kind}, got {model!r:.60}")
    known = getattr(model, "predicts", None)
    if known and kind and known != kind:
        raise ValueError(f"needed: a model that predicts {kind}. This one predicts {known}")
    times = [time if time.dtype == z.dtype else time.to(z.dtype) for time in (t, *more)]
    if torch.is_inference_mode_enabled():  # where torch does not count changes
        z, *times = (a.clone() for a in (z, *times))
    labels = [a for v in conditioning.values() for a in (v if isinstance(v, list | tuple) else [v])]
    given = [(a, a._version) for a in (z, *times, *labels) if isinstance(a, Tensor) and not a.is_inference()]
    answer = model(z, *times, **conditioning)
    if not isinstance(answer, Tensor) or not answer.is_floating_point():
        got = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
        where = ": a network of another library is read by pretrained.py" if hasattr(answer, "sample") else ""
        raise ValueError(
            f"the network returned {got}, not a float tensor of z's shape {tuple(z.shape)}{where}"
        )
    if answer.shape != z.shape:
        raise ValueError(f"the network returned shape {tuple(answer.shape)} for z of shape {tuple(z.shape)}")
    if any(a._version != version for a, version in given):
        raise ValueError("the model changed its input in place: z, t and conditioning must stay as they are")
    return answer if answer.dtype == z.dtype else answer.to(z.dtype)


def inner(net: Net) -> Net:
    """The network within the wrapper of torch.compile or of data parallelism."""
    return getattr(net, "_orig_mod", getattr(net, "module", net))


def ask_stranger(net: Net, z: Batch, t: Time, clock: Time, /, **conditioning) -> Batch:
    """net(z, clock), in z's dtype: the answer itself, its `sample`, or the first of a tuple.

    clock: t as the network is told it, by the name `timestep` where it has that. A network with a `dtype` is
    given z in it. Raises ValueError for a pipeline in the network's place, for z in half precision, which
    cannot tell 1000 times apart, class_labels without classes, a learned variance, and as `ask` does.
    """
    if not callable(net) or hasattr(net, "scheduler"):
        raise ValueError(f"needed: a network, as pipe.unet or pipe.transformer, got {type(net).__name__}")
    if z.dtype != wide(z.dtype):
        raise ValueError(
            f"z must be float32 or float64, got {z.dtype}: only the network may be in half precision"
        )
    if "class_labels" in conditioning and getattr(inner(net), "class_embedding", net) is None:
        raise ValueError("class_labels are given, and this network was made without classes")

    # the second argument of some transformers is the text
    module = inner(net)
    by_name = (
        isinstance(module, torch.nn.Module) and "timestep" in inspect.signature(module.forward).parameters
    )

    def unpacked(z: Batch, t: Time, **conditioning) -> Tensor:
        told, z = clock.to(z.dtype), z.to(getattr(module, "dtype", z.dtype))
        said = net(z, timestep=told, **conditioning) if by_name else net(z, told, **conditioning)
        said = said[0] if isinstance(said, tuple) else getattr(said, "sample", said)
        if isinstance(said, Tensor) and said.numel() == 2 * z.numel():
            raise ValueError(
                "twice the channels, a learned variance: wrap the network, to give the first half"
            )
        return said

    return ask(unpacked, z, t, None, **conditioning)


def mean_square(answer: Batch, target: Batch) -> Time:
    """The squared distance per number of each sample, in float32 at least: (b,)."""
    difference = answer.to(wide(answer.dtype)) - target
    return difference.square().reshape(len(answer), -1).mean(1)


@contextmanager
def same_dropout(x: Tensor) -> Iterator[None]:
    """Puts torch's random state, which dropout draws from, back: what is asked next sees the same masks."""
    devices = [] if x.device.type == "cpu" else [x.device]
    with torch.random.fork_rng(devices, device_type=x.device.type):
        yield
