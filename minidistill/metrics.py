"""Metrics for few-step samples, each with its error bar or its floor.

    flow_map_error             distance to another sampler's samples from the same noise: paired, and so the
                               only one that sees a small error with a thousand samples
    energy_distance,           distance between two distributions: with a thousand samples they see gross
    sliced_wasserstein         errors only
    frechet_distance           the field's habit: means and covariances of features. Cannot see copies
    precision_recall_coverage  quality and variety, apart
    centre_of_brightness       where a thing is, for errors in pixels
    nearest_neighbour_ratio    0 for copies of the training set, near 1 for new samples

Everything here returns plain floats or tensors and downloads nothing. Features are yours to choose, and to
state. Distances are computed on the processor, since not every device has float64. Samples that are not
finite are refused: some distances would still look like numbers.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minidistill import need
from minidistill.need import SEEDS, Number, Whole, wide
from minidistill.schedules import Batch

Features = Float[Tensor, "n d"]
Training = Float[Tensor, "n *d"]  # a data set
Others = Float[Tensor, "m d"]  # another number of samples in the same space


def on_processor(*sets: Tensor) -> list[Tensor]:
    """The sets of samples in float64 on the processor. Raises ValueError unless all are finite."""
    for x in sets:
        need.finite(samples=x)
    return [x.detach().cpu().to(torch.float64) for x in sets]


def flow_map_error(a: Batch, b: Batch) -> tuple[float, float]:
    """Root mean square distance per coordinate between paired samples, and its standard error.

    a and b come from the same noise, in the same order. Raises ValueError unless they have one shape.
    """
    a, b = on_processor(a, b)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"paired samples must have one shape, at least two, got {tuple(a.shape)}, {tuple(b.shape)}"
        )
    square = (a - b).square().reshape(len(a), -1).mean(1)
    error = square.mean().sqrt().item()
    # delta method: the standard error of a square root
    return error, square.std().item() / len(square) ** 0.5 / (2 * error) if error > 0 else 0.0


def energy_distance(a: Features, b: Others) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|, without bias. Szekely & Rizzo (2013).

    For equal distributions it is 0 in expectation, and often negative. A thousand samples do not see an error
    below a few per cent of the spread.
    """
    a, b = two_sets(a, b)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"pairs within a set need at least two samples of each, got {len(a)} and {len(b)}")

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return (2 * torch.cdist(a, b).mean() - within(a) - within(b)).item()


def sliced_wasserstein(
    a: Features, b: Others, p: Number = 2, projections: Whole = 128, seed: Whole = 0
) -> tuple[float, float]:
    """The p-Wasserstein distance averaged over random directions, and its floor. Bonneel et al. (2015).

    The floor is what the same number of samples gives when nothing is different: the distance between random
    halves of the two sets put together. A distance near its floor says nothing.
    """
    a, b = two_sets(a, b)
    p, projections = need.number("p", p, least=1), need.whole("projections", projections)
    generator = torch.Generator().manual_seed(need.whole("seed", seed, 0, SEEDS))
    directions = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64, device="cpu")
    directions = directions / directions.norm(dim=0)
    n = min(len(a), len(b))
    levels = (torch.arange(n, dtype=a.dtype, device="cpu") + 0.5) / n

    def distance(one: Tensor, two: Tensor) -> float:
        gap = torch.quantile(one @ directions, levels, dim=0, interpolation="nearest")
        gap = gap - torch.quantile(two @ directions, levels, dim=0, interpolation="nearest")
        return gap.abs().pow(p).mean().pow(1 / p).item()

    both = torch.cat([a, b])[torch.randperm(len(a) + len(b), generator=generator, device="cpu")]
    return distance(a, b), distance(both[: len(a)], both[len(a) :])


def frechet_distance(a: Features, b: Others, groups: Whole = 10) -> tuple[float, float]:
    """The Frechet distance of two sets of features, without its sampling bias, and its standard error.

        |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2))

    Dowson & Landau (1982); Heusel et al. (2017) with Inception features. The plain estimate is too large by C
    / n; the jackknife, which leaves out one of `groups` groups at a time, removes that. Can be slightly
    negative.
    """
    a, b = two_sets(a, b)
    groups = need.whole("groups", groups, 2)
    if a.shape[1] < 2:
        raise ValueError(f"need at least 2 features, got {a.shape[1]}")
    if min(len(a), len(b)) < 2 * groups:
        raise ValueError(
            f"{groups} groups need at least {2 * groups} samples of each, got {len(a)} and {len(b)}"
        )
    plain = plain_frechet_distance(a, b)
    # random groups: samples often come in an order, such as one class after the other
    a, b = (
        x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0), device="cpu")] for x in (a, b)
    )
    chunks = list(zip(a.tensor_split(groups), b.tensor_split(groups)))
    without = torch.tensor(
        [
            plain_frechet_distance(*(torch.cat(kept) for kept in zip(*chunks[:j], *chunks[j + 1 :])))
            for j in range(groups)
        ]
    )
    pseudo = groups * plain - (groups - 1) * without
    return pseudo.mean().item(), pseudo.std().item() / groups**0.5


def plain_frechet_distance(a: Features, b: Others) -> float:
    """The Frechet distance as it is usually computed, biased upwards by about C / n."""
    a, b = two_sets(a, b)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs at least two samples of each, got {len(a)} and {len(b)}")
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root_a = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # tr (C_a C_b)^(1/2) = tr (C_a^(1/2) C_b C_a^(1/2))^(1/2), and that matrix is symmetric
    cross = torch.linalg.eigvalsh(root_a @ cov_b @ root_a).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross).item()


def precision_recall_coverage(real: Features, fake: Others, k: Whole = 5) -> tuple[float, float, float]:
    """The fraction of fakes near real data, of real data near fakes, and of real data that has a fake nearby.

    Near: closer than the k-th neighbour. Kynkaanniemi et al. (2019); coverage: Naeem et al. (2020), which
    unlike recall a few outliers cannot raise.
    """
    real, fake = two_sets(real, fake)
    k = need.whole("k", k)
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"the {k}-th neighbour needs more than {k} samples of each, got {len(real)} and {len(fake)}"
        )

    def radius(x: Tensor) -> Tensor:
        return torch.cdist(x, x).kthvalue(k + 1, dim=1).values  # the nearest of all is the point itself

    distance = torch.cdist(real, fake)
    in_real = distance <= radius(real)[:, None]
    in_fake = distance <= radius(fake)
    return tuple(
        hit.to(torch.float64).mean().item() for hit in (in_real.any(0), in_fake.any(1), in_real.any(1))
    )


def centre_of_brightness(images: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n 2"]:
    """Row and column of the middle of what is bright, in pixels, for images in [-1, 1].

    Pixels count by the square of their brightness above -1, so that faint noise all over hardly matters.
    """
    need.samples(images=images)
    if images.ndim < 2:
        raise ValueError(f"need images (..., height, width), got {tuple(images.shape)}")
    weight = (images.to(wide(images.dtype)) + 1).clamp(min=0).square()
    total = weight.sum((-2, -1)).clamp(min=torch.finfo(weight.dtype).tiny)
    row, column = (torch.arange(side, dtype=weight.dtype, device=images.device) for side in images.shape[-2:])
    rows, columns = (weight.sum(-1) * row).sum(-1) / total, (weight.sum(-2) * column).sum(-1) / total
    return torch.stack([rows, columns], dim=-1).to(images.dtype)


def nearest_neighbour_ratio(samples: Batch, training: Training) -> Float[Tensor, " b"]:
    """The distance to the nearest training sample over that to the second nearest, per sample.

    0 is a copy. Compare the mean with that of held-out data: a model that generalizes has the same.
    """
    need.samples(samples=samples)
    need.samples(training=training)
    if samples.shape[1:] != training.shape[1:] or samples.ndim < 2 or len(training) < 2:
        raise ValueError(
            f"shapes {tuple(samples.shape)} and {tuple(training.shape)} are not of the same kind of data"
        )
    need.finite(samples=samples, training=training)
    dtype = samples.dtype
    samples, training = (x.flatten(1).to(wide(dtype)) for x in (samples, training))
    nearest = torch.cdist(samples, training).topk(2, dim=1, largest=False).indices
    # cdist multiplies matrices and leaves a copy at a small distance; for these two it is computed exactly
    first, second = (samples[:, None] - training[nearest]).norm(dim=-1).sort(dim=1).values.unbind(1)
    return (first / second.clamp(min=torch.finfo(second.dtype).tiny)).to(dtype)


class Classifier(nn.Module):
    """A small convolutional classifier: an independent judge of labels, and a space of features.

    net(x) -> logits; net.features(x) -> (b, 64), the activations before the last layer.
    """

    def __init__(self, side: Whole = 8, classes: Whole = 10):
        super().__init__()
        side, classes = need.whole("side", side, 4, why=" (halved twice)"), need.whole("classes", classes)
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * (side // 4) ** 2, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, classes)

    def features(self, x: Batch) -> Features:
        """The activations before the last layer: (b, 64)."""
        return self.body(x)

    def forward(self, x: Batch) -> Tensor:
        return self.head(self.features(x))


def two_sets(a: Tensor, b: Tensor) -> list[Tensor]:
    """Both on the processor, in float64. Raises ValueError unless they are (n, d) and (m, d), and finite."""
    need.samples(a=a)
    need.samples(b=b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"need samples (n, d) and (m, d), got {tuple(a.shape)} and {tuple(b.shape)}; flatten(1) images"
        )
    return on_processor(a, b)
