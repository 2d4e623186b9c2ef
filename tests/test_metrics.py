import pytest
import torch

from minidistill import metrics
from minidistill.metrics import (
    centre_of_brightness,
    energy_distance,
    flow_map_error,
    frechet_distance,
    nearest_neighbour_ratio,
    plain_frechet_distance,
    precision_recall_coverage,
    sliced_wasserstein,
)


def normal(n, d, seed, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(
        n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_flow_map_error_is_a_root_mean_square_with_its_standard_error():
    a = normal(2000, 4, 0)
    error, se = flow_map_error(a, a + 0.3 * normal(2000, 4, 1))
    assert abs(error - 0.3) < 4 * se and 0.5 < se / (0.3 / (2 * 2000 * 4) ** 0.5) < 2
    assert flow_map_error(a, a) == (0.0, 0.0)
    # the standard error is the spread of repetitions
    many = torch.tensor(
        [flow_map_error(a[:100], a[:100] + 0.3 * normal(100, 4, seed)) for seed in range(2, 300)]
    )
    assert abs(many[:, 0].std() / many[:, 1].mean() - 1) < 0.15


def test_only_the_paired_error_sees_a_small_difference():
    """A thousand samples, each moved by 3 % of the spread in a random direction."""
    a = normal(1000, 2, 0)
    b = a + 0.03 * normal(1000, 2, 1)
    error, se = flow_map_error(a, b)
    assert error > 20 * se
    distance, floor = sliced_wasserstein(a, normal(1000, 2, 5) + 0.03 * normal(1000, 2, 1))
    assert distance < 2 * floor
    spread = torch.tensor(
        [energy_distance(normal(1000, 2, 10 + s), normal(1000, 2, 50 + s)) for s in range(10)]
    ).std()
    assert energy_distance(normal(1000, 2, 5), normal(1000, 2, 6) + 0.03 * normal(1000, 2, 1)) < 4 * spread


def test_energy_distance_is_unbiased_and_has_the_known_value():
    null = torch.tensor([energy_distance(normal(50, 3, 2 * s), normal(50, 3, 2 * s + 1)) for s in range(400)])
    assert null.mean().abs() < 4 * null.std() / 20 and (null < 0).any()
    # one dimension, two intervals: 2 * 1 - 1/3 - 1/3 for uniform on [0, 1] and [1, 2]
    u = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = 1 + torch.rand(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert abs(energy_distance(u, v) - 4 / 3) < 0.03


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_of_a_shift(p):
    """A shift by (3, 0) moves a random direction's projection by 3 |cos|: mean 6 / pi, mean square 9 / 2."""
    a = normal(500, 2, 0)
    distance, floor = sliced_wasserstein(a, a + torch.tensor([3.0, 0.0]), p=p, projections=4000)
    assert abs(distance - {1: 6 / torch.pi, 2: 4.5**0.5}[p]) < 0.05 and 0 < floor < 0.2
    assert sliced_wasserstein(a, a.clone())[0] == 0


def test_frechet_distance_of_gaussians():
    """|m|^2 + sum (s_a - s_b)^2 for axis-aligned Gaussians; here 3 * 0.5^2 + 3 * 0.5^2."""
    found, se = frechet_distance(normal(20_000, 3, 0), normal(20_000, 3, 1, shift=0.5, scale=1.5))
    assert abs(found - 1.5) < 4 * se < 0.2


def test_the_jackknife_removes_the_bias_and_its_error_bar_is_honest():
    found = torch.tensor(
        [frechet_distance(normal(300, 8, 2 * s), normal(200, 8, 2 * s + 1)) for s in range(60)]
    )
    plain = torch.tensor(
        [plain_frechet_distance(normal(300, 8, 2 * s), normal(200, 8, 2 * s + 1)) for s in range(60)]
    )
    assert plain.mean() > 0.15  # the truth is 0
    assert found[:, 0].mean().abs() < 0.2 * plain.mean()
    assert 0.7 < found[:, 1].mean() / found[:, 0].std() < 2.5


def test_frechet_distance_does_not_depend_on_the_order_of_the_classes():
    """Samples that come one class after the other, or in turn, must not become the groups of the
    jackknife."""
    a, b = normal(1000, 4, 0), normal(1000, 4, 1)
    classes = 5.0 * (torch.arange(1000) % 10)[:, None]
    in_turn = frechet_distance(a + classes, b + classes)
    assert abs(in_turn[0]) < 4 * in_turn[1]
    sorted_by_class = frechet_distance((a + classes)[torch.argsort(classes[:, 0])], b + classes)
    assert abs(sorted_by_class[0]) < 4 * sorted_by_class[1]


def test_frechet_distance_cannot_see_copies_and_the_nearest_neighbour_ratio_can():
    training, fresh = normal(2000, 6, 0), normal(1000, 6, 1)
    copies = training[:1000]
    found, se = frechet_distance(copies, training)
    assert found < 4 * se
    assert nearest_neighbour_ratio(copies, training).max() == 0
    assert 0.8 < nearest_neighbour_ratio(fresh, training).mean() < 1


def test_precision_recall_and_coverage():
    real = normal(600, 2, 0)
    same = precision_recall_coverage(real, normal(600, 2, 1))
    assert min(same) > 0.9
    precision, recall, coverage = precision_recall_coverage(real, normal(600, 2, 1, scale=0.2))
    assert precision > 0.95 and recall < 0.3 and coverage < 0.4  # sharp, without variety
    precision, recall, _ = precision_recall_coverage(real, normal(600, 2, 1, scale=4.0))
    assert precision < 0.4 and recall > 0.95  # variety, without quality
    copies = precision_recall_coverage(real, real[:1].repeat(600, 1))
    assert copies[0] == 1 and copies[2] < 0.05


def test_the_classifier():
    net = metrics.Classifier(side=28)
    x = torch.randn(3, 1, 28, 28)
    assert net(x).shape == (3, 10) and net.features(x).shape == (3, 64)


def test_bad_input(unchecked_shapes):
    a = normal(30, 2, 0)
    for metric in (energy_distance, sliced_wasserstein, frechet_distance, precision_recall_coverage):
        with pytest.raises(ValueError, match=r"\(n, d\)"):
            metric(a, a[:, :1])
    with pytest.raises(ValueError, match="paired"):
        flow_map_error(a, a[:5])
    with pytest.raises(ValueError, match="10 groups need"):
        frechet_distance(a[:15], a)
    with pytest.raises(ValueError, match="5-th neighbour"):
        precision_recall_coverage(a[:5], a)
    with pytest.raises(ValueError, match="same kind"):
        nearest_neighbour_ratio(a, a[:, :1])


# the same numbers from other people's code, where it is installed


def test_frechet_distance_is_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x):
            return x.flatten(1).double()

    theirs = fid.FrechetInceptionDistance(feature=Flat(), normalize=True, input_img_size=(3, 2, 2))
    theirs = theirs.set_dtype(torch.float64)
    a, b = (
        torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) ** (1 + seed)
        for seed in (0, 1)
    )
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    assert abs(theirs.compute().item() - plain_frechet_distance(a.flatten(1), b.flatten(1))) < 1e-6


def test_sliced_wasserstein_is_pots():
    ot = pytest.importorskip("ot")
    a, b = normal(400, 3, 0), normal(400, 3, 1, shift=0.4)
    theirs = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), n_projections=4000, p=2, seed=0)
    assert abs(sliced_wasserstein(a, b, projections=4000)[0] - theirs) < 0.02 * theirs


def test_centre_of_brightness():
    image = torch.full((2, 3, 5, 7), -1.0)
    image[..., 1, 4] = 1.0
    image[1, ..., 3, 4] = 1.0
    torch.testing.assert_close(centre_of_brightness(image)[0, 0], torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(centre_of_brightness(image)[1, 2], torch.tensor([2.0, 4.0]))
    faint = image + 0.02 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    assert (centre_of_brightness(faint) - centre_of_brightness(image)).abs().max() < 0.01
    assert centre_of_brightness(torch.full((4, 4), -1.0)).tolist() == [0.0, 0.0]


def test_a_distance_of_nothing_has_no_error():
    a = torch.randn(10, 3)
    assert metrics.flow_map_error(a, a) == (0.0, 0.0)
