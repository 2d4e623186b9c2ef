import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minidistill import dit
from minidistill.dit import MLP, Attention, DiT, patch_positions, sines
from minidistill.flowmap import as_mean_velocity, diagonal, flow_map_sample
from minidistill.phased import jump
from minidistill.plots import image_rows
from minidistill.video import forward_flops


def awake(**options):
    """A DiT whose zero-initialized layers have been moved, in float64."""
    torch.manual_seed(0)
    net = DiT(**{"dim": 16, "depth": 2, "heads": 2, "classes": 3, **options}).double()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net


Z, T = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0.3, 1.2], dtype=torch.float64)


def test_a_new_network_returns_zero():
    assert (DiT(dim=16, heads=2)(torch.randn(2, 1, 8, 8), torch.tensor([0.1, 1.0])) == 0).all()


def test_attention_is_scaled_dot_product_attention():
    torch.manual_seed(0)
    attention, x = Attention(16, 4).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    q, k, v = (a.reshape(2, 5, 4, 4).transpose(1, 2) for a in attention.to_qkv(x).chunk(3, dim=-1))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 16)
    torch.testing.assert_close(attention(x), attention.out(expected))


@pytest.mark.parametrize("tokens, kernel", [(99, False), (100, True), (150, True)])
def test_fused_attention_from_a_hundred_tokens_on(monkeypatch, tokens, kernel):
    """Both ways give the same numbers, with a mask and without, and the same gradients."""
    calls, original = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **b: calls.append(1) or original(*a, **b)
    )
    torch.manual_seed(0)
    attention, x = (
        Attention(16, 4).double(),
        torch.randn(2, tokens, 16, dtype=torch.float64, requires_grad=True),
    )
    for mask in (None, dit.block_causal_mask(torch.arange(tokens) // 10)):
        found = {}
        for limit in (0, 10**9, dit.FUSED):
            monkeypatch.setattr(dit, "FUSED", limit)
            calls.clear()
            answer = attention(x, mask)
            found[limit] = answer, torch.autograd.grad(answer.square().sum(), x)[0]
            assert len(calls) == (limit == 0 or (limit == 100 and kernel))
        torch.testing.assert_close(found[0], found[10**9])
        monkeypatch.setattr(dit, "FUSED", 100)


@pytest.mark.parametrize("side", [8, 20], ids=["16 tokens", "100 tokens"])
def test_derivatives_of_every_kind_on_both_sides(side):
    """Forward mode, forward over backward, and backward over backward with the kernel switched off."""
    net, z = awake(), torch.randn(1, 1, side, side, dtype=torch.float64)
    t, h = T[:1], 1e-6
    by_difference = (net(z, t + h) - net(z, t - h)) / (2 * h)
    one = torch.ones_like(t)
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    close(torch.func.jvp(lambda t: net(z, t), (t,), (one,))[1], by_difference)
    # inside the derivative by another variable, which the network does not see
    inner = lambda t: torch.func.jvp(lambda s: s * net(z, t).sum(), (one,), (one,))[1]
    close(torch.func.jvp(inner, (t,), (one,))[1].reshape(()), by_difference.sum())

    total = lambda t: net(z, t).sum()
    second = (torch.func.grad(total)(t + h) - torch.func.grad(total)(t - h)) / (2 * h)
    close(torch.func.hessian(total)(t).flatten(), second)
    with sdpa_kernel(SDPBackend.MATH):
        t = t.clone().requires_grad_()
        first = torch.autograd.grad(total(t), t, create_graph=True)[0]
        close(torch.autograd.grad(first.sum(), t)[0], second)


def test_forward_mode_derivatives():
    net, h = awake(), 1e-6
    direction = torch.ones_like(Z), torch.ones_like(T)
    _, tangent = torch.func.jvp(net, (Z, T), direction)
    torch.testing.assert_close(
        tangent, (net(Z + h, T + h) - net(Z - h, T - h)) / (2 * h), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (16, 2)])
def test_any_size_that_divides(size):
    z = torch.randn(2, 1, *size, dtype=torch.float64)
    assert awake()(z, T).shape == z.shape


def test_the_conditioning_matters():
    net = awake()
    labels = torch.tensor([0, 1])
    assert not torch.allclose(net(Z, T, label=labels), net(Z, T, label=labels.flip(0)))
    assert not torch.allclose(net(Z, T), net(Z, T.flip(0)))
    torch.testing.assert_close(net(Z, T), net(Z, T, label=torch.full((2,), net.null)))


def test_a_patch_stays_where_it_is():
    """Patches go back to where they came from: without blocks, a pixel answers only to its own patch."""
    net = awake(depth=0, channels=2)
    z = torch.zeros(1, 2, 4, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: net(z, T[:1]), z)[0, :, :, :, 0]
    reach = jacobian.abs().sum((0, 3)) > 0  # row and column of the output, row and column of the input
    for row in range(4):
        for column in range(6):
            seen = {(r // 2, c // 2) for r, c in reach[row, column].nonzero().tolist()}
            assert seen == {(row // 2, column // 2)}


def test_positions_are_different_and_neighbours_alike():
    positions = patch_positions(6, 5, 16, torch.zeros(1), (6, 5))
    distance = torch.cdist(positions, positions) + 9 * torch.eye(30)
    assert positions.shape == (30, 16) and distance.min() > 0.05
    assert distance[0].argmin().item() in (1, 5)  # the next column, or the next row


def test_sines_resolve_both_ends_of_the_circle():
    angles = torch.tensor([0.0, 0.004, 1.5, 1.5645, 1.5708])
    distance = torch.cdist(sines(angles, 64), sines(angles, 64)) + torch.eye(5)
    assert distance.min() > 0.3


def test_batch_independence():
    net = awake()
    torch.testing.assert_close(net(Z[1:], T[1:]), net(Z, T)[1:])


def test_bad_input(unchecked_shapes):
    for z in (torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 7, 8), torch.zeros(2, 64)):
        with pytest.raises(ValueError, match="divisible by 2"):
            DiT(dim=16, heads=2)(z, torch.zeros(2))
    with pytest.raises(ValueError, match="divisible by 4"):
        DiT(dim=18, heads=2)
    with pytest.raises(ValueError, match="heads = 3"):
        DiT(dim=16, heads=3)


def test_what_a_network_refuses(unchecked_shapes):
    net, z, t = DiT(classes=10), torch.randn(2, 1, 8, 8), torch.rand(2)
    for call, sentence in (
        (lambda: net(z, t, label=torch.tensor([1, 11])), "label must be from 0 to 10 .* 10 for none"),
        (lambda: net(z, t, label=torch.tensor([1, -1])), "label must be from 0 to 10"),
        (lambda: net(z, t, label=torch.tensor([1])), r"label must be an integer tensor \(2,\)"),
        (lambda: DiT()(z, t, label=torch.tensor([0, 1])), "label must .* this network has no classes"),
        (lambda: net(z.double(), t), "images are torch.float64, the weights torch.float32"),
        (lambda: net(z, torch.tensor(0.5)), r"t must be a float tensor \(2,\)"),
        (lambda: net(z, torch.tensor([0, 1])), "t must be a float tensor .* got torch.int64"),
        (lambda: net(z[:0], t[:0]), "at least one sample"),
        (lambda: net.packed([z], [t[:1]]), "t must be"),
        (lambda: MLP()(z[:, 0, 0, :3], t), r"need points \(b, 2\)"),
        (lambda: MLP()(z[:, 0, 0, :2].double(), t), "float64"),
        (lambda: MLP()(z[:, 0, 0, :2], torch.tensor([0, 1])), "t must be a float tensor"),
        (lambda: image_rows({"colours": torch.zeros(4, 3, 8, 8)}), "grey images .* for 'colours'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_the_top_frequency_decides_how_fast_it_changes_with_time():
    """What sCM differentiates: the embedding of a DiT up to 256 moves sixteen times as fast as one up to 16."""
    t = torch.linspace(0.1, 1.5, 100)
    speed = [
        torch.func.jvp(lambda t: sines(t, 64, top), (t,), (torch.ones_like(t),))[1].norm(dim=1).mean()
        for top in (16.0, 256.0)
    ]
    assert 8 < speed[1] / speed[0] < 32
    torch.manual_seed(0)
    slow = DiT(top=16.0)
    assert not torch.equal(slow.condition(t, None), DiT().condition(t, None))


def test_half_precision_weights_see_the_time_in_float32():
    """An angle of 1.5 at frequency 256, in float16, is known to a quarter of a radian."""
    t = torch.tensor([0.5, 1.5])
    torch.testing.assert_close(sines(t.half(), 64).half(), sines(t, 64).half())


def test_floating_point_operations_are_counted_for_the_kernel_too(monkeypatch):
    net, z, counts = DiT(dim=16, depth=2, heads=2), torch.randn(1, 1, 20, 20), []
    for limit in (0, 10**9):
        monkeypatch.setattr(dit, "FUSED", limit)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            net(z, torch.ones(1))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > forward_flops(100, 16, 2)


def test_it_compiles_to_one_graph():
    """No part of the forward pass falls back to Python, and derivatives of what is compiled are right. In a
    process of its own, where no shapes are checked: those checks do not compile."""
    code = """
import torch
from minidistill.dit import DiT
close = torch.testing.assert_close
for side in (8, 20):  # 16 and 100 tokens
    torch.manual_seed(0)
    net, z, t = DiT(dim=16, depth=2, heads=2), torch.randn(2, 1, side, side), torch.tensor([0.3, 1.2])
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    slope = lambda f: lambda t: torch.func.jvp(lambda t: f(z, t), (t,), (torch.ones_like(t),))[1]
    close(compiled(z, t), net(z, t))
    close(torch.compile(slope(net), backend="eager")(t), slope(net)(t))
    close(compiled(z, t), net(z, t))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


# networks of a second time


def moved(net):
    """The network in float64, with every layer moved: none is at 0."""
    net = net.double()
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net


def pair(kind):
    """A network of one time, one of two with its weights, and samples."""
    torch.manual_seed(0)
    options = {"dim": 16, "depth": 2, "heads": 2, "classes": 3} if kind is DiT else {"width": 32}
    one, two = moved(kind(**options)), kind(**options, interval=True).double()
    found = two.load_state_dict(one.state_dict(), strict=False)
    assert not found.unexpected_keys and found.missing_keys
    assert all(key.startswith("interval.") for key in found.missing_keys)
    return one, two, torch.randn(2, *((1, 8, 8) if kind is DiT else (2,)), dtype=torch.float64)


both = pytest.mark.parametrize("kind", [DiT, MLP])
ANYWHERE = [torch.tensor(s, dtype=torch.float64) for s in ((0.7, 0.4), (0.0, 0.0), (0.35, 0.4), (0.699, 0.1))]
NOW = ANYWHERE[0]  # t, of which s is at most as large


@both
def test_with_the_weights_of_one_time_it_starts_as_euler_to_the_last_bit(kind):
    one, two, z = pair(kind)
    labels = {"label": torch.tensor([0, 2])} if kind is DiT else {}
    tangent = as_mean_velocity(lambda x, phi, interval, **more: one(x, phi, **more), 0.5, **labels)
    u = as_mean_velocity(two, 0.5, **labels)
    for s in ANYWHERE:
        assert torch.equal(u(z, NOW, s), tangent(z, NOW, NOW))
        assert torch.equal(jump(u(z, NOW, s), z, NOW, s), jump(diagonal(u)(z, NOW), z, NOW, s))
    euler, times = z, torch.tensor([1.0, 0.6, 0.1, 0.0], dtype=torch.float64)
    for t, s in zip(times, times[1:]):
        t, s = t.expand(2), s.expand(2)
        euler = jump(tangent(euler, t, t), euler, t, s)
    assert torch.equal(flow_map_sample(u, z, times), euler)


@both
def test_the_interval_learns_from_the_first_step_on(kind):
    """Its last layer is 0, but not its gradient; once that has moved, s matters."""
    _, two, z = pair(kind)
    two(z, NOW, NOW / 2).square().sum().backward()
    assert two.interval[-1].weight.grad.abs().max() > 0
    assert torch.equal(two(z, NOW, NOW / 2), two(z, NOW, NOW))
    moved(two.interval)
    assert (two(z, NOW, NOW / 2) - two(z, NOW, NOW)).abs().max() > 1e-3


@both
def test_no_interval_is_an_interval_of_zero(kind):
    _, two, z = pair(kind)
    moved(two)
    assert torch.equal(two(z, NOW), two(z, NOW, 0 * NOW))
    assert torch.equal(two(z, NOW, None), two(z, NOW, interval=0 * NOW))
    assert not torch.allclose(two(z, NOW), two(z, NOW, NOW))
    torch.testing.assert_close(two(z, NOW, NOW)[1:], two(z[1:], NOW[1:], NOW[1:]))  # each by itself


@both
def test_a_network_of_one_time_has_no_layer_for_a_second(kind):
    one, two, _ = pair(kind)
    assert not [key for key in one.state_dict() if "interval" in key]
    assert [key for key in two.state_dict() if "interval" in key]


@both
def test_what_is_refused_of_a_second_time(kind, unchecked_shapes):
    one, two, z = pair(kind)
    for call, sentence in (
        (lambda: one(z, NOW, 0 * NOW), "this network has one time: .* one made with interval=True"),
        (lambda: one(z, NOW, interval=NOW), "this network has one time"),
        (lambda: as_mean_velocity(one)(z, NOW, NOW), "this network has one time"),
        (
            lambda: one(z, NOW, torch.tensor([1, 2])),
            "the interval must be a float tensor, .* labels go by name, label=",
        ),
        (
            lambda: two(z, NOW, torch.tensor([1, 2])),
            "the interval must be a float tensor, .* labels go by name, label=",
        ),
        (lambda: two(z, NOW, 0.5), "the interval must be a float tensor, got 0.5"),
        (lambda: two(z, NOW, NOW[:1]), r"interval must be a float tensor \(2,\), one for each sample"),
        (lambda: two(z, NOW, NOW[:, None]), r"interval must be a float tensor \(2,\)"),
        (lambda: two(z, NOW, NOW / torch.zeros(2)), "interval must be a finite number"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


@both
def test_derivatives_of_the_mean_velocity_in_every_argument(kind):
    """Forward mode through the network and its form, by central differences, and backward through it."""
    _, two, z = pair(kind)
    u, h = as_mean_velocity(moved(two), 0.5), 1e-6
    s = NOW / 2
    one = torch.ones_like(s)
    for directions in (
        (z, one, 0 * one),
        (z.cos(), 0 * one, 0 * one),
        (0 * z, one, 0 * one),
        (0 * z, 0 * one, one),
    ):
        ahead, behind = (u(*(a + c * d for a, d in zip((z, NOW, s), directions))) for c in (h, -h))
        _, rate = torch.func.jvp(u, (z, NOW, s), directions)
        torch.testing.assert_close(rate, (ahead - behind) / (2 * h), atol=1e-5, rtol=1e-4)
    _, rate = torch.func.jvp(u, (z, NOW, s), (z, one, 0 * one))
    assert all(p.grad is None for p in two.parameters())
    rate.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in two.interval.parameters())


def test_the_top_frequency_of_a_small_network():
    """As that of a DiT: the same weights, another embedding of the time."""
    torch.manual_seed(0)
    fast, z = MLP(), torch.randn(64, 2)
    t = torch.linspace(0.1, 1.5, 64)
    slow = MLP(top=4.0)
    slow.load_state_dict(fast.state_dict())
    assert fast.top == 16.0 and slow.top == 4.0
    assert not torch.equal(fast(z, t), slow(z, t))
    speed = [
        torch.func.jvp(lambda t: net(z, t), (t,), (torch.ones_like(t),))[1].norm() for net in (slow, fast)
    ]
    assert speed[1] > 1.5 * speed[0]
    same = MLP(top=16)
    same.load_state_dict(fast.state_dict())
    assert torch.equal(fast(z, t), same(z, t))
    for make in (MLP, DiT):
        with pytest.raises(ValueError, match="top must be at least 1"):
            make(top=0.5)
