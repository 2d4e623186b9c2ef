"""Checks of pyramidal flow matching: covariances by feeding unit vectors, and an exact Gaussian field.

Samples cannot tell a wrong jump from a right one: with the wrong correlations inside a block, the variance is
right, and small images even look cleaner. Every map here is linear in the noise, so its covariance is exact.
Cuts are never even: at a signal weight of 1/2, e and 1 - e are the same number.
"""

import math

import torch
from einops import rearrange

from minidistill import pyramid
from minidistill.checks import close, refuses

DOUBLE = torch.float64
CUTS = ([0, 0.3, 1], [0, 0.25, 0.6, 1], [0, 1 / 3, 2 / 3, 1])


def images(*shape: int, seed: int) -> torch.Tensor:
    """Unit Gaussian images in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def units(channels: int, side: int) -> torch.Tensor:
    """Every unit vector of an image, as a batch."""
    return torch.eye(channels * side**2, dtype=DOUBLE).reshape(-1, channels, side, side)


def halved(x: torch.Tensor) -> torch.Tensor:
    """2x2 means, by slices."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def doubled(x: torch.Tensor) -> torch.Tensor:
    """Each pixel 2x2 times, by repetition along both axes."""
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def check_stages(stages=pyramid.stages, seed: int = 0) -> None:
    """Closed forms, the shift of SD3, the times, and refusals."""
    for k in (1, 2, 3, 4):
        found = stages([i / k for i in range(k + 1)])
        assert len(found) == k, f"One stage for each interval: {k} here, not {len(found)}."
        for i, stage in enumerate(found):
            assert abs(stage.end - (i + 1) / k) < 1e-12, (
                "A stage ends at its upper cut: end is the signal weight."
            )
            assert abs(stage.start - i / (2 * k - i)) < 1e-12, (
                f"Even cuts: start_i = i / (2 K - i); stage {i} of {k} starts at {stage.start:.4f}. It is "
                "e / (c (1 - e) + e), e of the stage before, c = sqrt(1 + 1 / gamma) = 2."
            )
    table = (  # numbers of the released code: cuts, gamma, starts, alphas, betas
        ([0, 0.5, 1], 0.25, [0.309017], [0.618034], [0.618034]),
        ([0, 0.2, 0.5, 1], 1 / 3, [0.1111111, 0.3333333], [0.5555555, 0.6666667], [0.7698004, 0.5773503]),
        ([0, 0.333, 0.666, 1], 0.2, [0.1693097, 0.4487479], [0.5084376, 0.6737956], [0.7583130, 0.5032220]),
        ([0, 0.333, 0.666, 1], 0.1, [0.1308351, 0.3754751], [0.3928982, 0.5637765], [0.8287162, 0.5954611]),
    )
    for cuts, gamma, starts, alphas, betas in table:
        for stage, before, *numbers in zip(stages(cuts, gamma)[1:], cuts[1:], starts, alphas, betas):
            where = f"cuts {cuts}, gamma {gamma:.3f}: "
            assert stage.gamma == gamma, "A stage keeps its gamma, with its sign."
            for name, value in zip(("start", "alpha", "beta"), numbers):
                hint = {
                    "start": "start = e / (c (1 - e) + e), c = sqrt(1 + 1 / gamma), e of the stage before.",
                    "alpha": "alpha = start / e: the signal weight falls by this factor.",
                    "beta": "beta = (1 - start) / sqrt(1 + gamma).",
                }[name]
                assert abs(getattr(stage, name) - value) < 2e-6, (
                    f"{where}{name} {getattr(stage, name):.6f}. {hint}"
                )
            sigma, c = 1 - before, math.sqrt(1 + 1 / gamma)
            assert abs(1 - stage.start - c * sigma / (1 + (c - 1) * sigma)) < 1e-9, (
                "sigma_start = shift(sigma_end, sqrt(1 + 1 / gamma)): the noise level goes up at a jump."
            )
    for cuts in CUTS:
        found = stages(cuts)
        assert found[0].start == 0 and found[-1].end == 1, "From pure noise to clean data."
        assert found[0].t_start == 1 and abs(found[-1].t_end) < 1e-12, "The network's time falls from 1 to 0."
        lengths = [stage.end - stage.start for stage in found]
        for stage, following, length in zip(found, [*found[1:], None], lengths):
            share = stage.t_start - stage.t_end
            assert abs(share - length / sum(lengths)) < 1e-9, (
                "Times are shared in proportion to end - start: not equally, and not like the cuts."
            )
            assert following is None or following.t_start == stage.t_end, "Windows of time do not overlap."
    for cuts, gamma, what in (
        ([0, 0.5, 0.5, 1], 1 / 3, "Equal cuts"),
        ([0, 0.6, 0.5, 1], 1 / 3, "Cuts that fall"),
        ([0.1, 1], 1 / 3, "Cuts that do not start at 0"),
        ([0, 0.9], 1 / 3, "Cuts that do not end at 1"),
        ([0], 1 / 3, "A single cut"),
        ([0, 0.5, 1], 0.34, "gamma above 1/3: no such covariance exists, it"),
        ([0, 0.5, 1], 0.0, "gamma = 0"),
        ([0, 0.5, 1], -1 / 3, "A negative gamma (the paper's sign)"),
    ):
        refuses(lambda: stages(cuts, gamma), f"{what} must be refused.")


def check_down(down=pyramid.down, seed: int = 0) -> None:
    """The mean of each block."""
    x = images(3, 2, 4, 8, seed=seed)
    close(down(x), halved(x), "The mean of each 2x2 block: no single pixel of it, and no other filter.")


def check_up(up=pyramid.up, seed: int = 0) -> None:
    """Each pixel, four times."""
    x = images(3, 2, 4, 8, seed=seed)
    close(up(x), doubled(x), "Each pixel becomes a 2x2 block: nearest, not bilinear.")


def check_stage_pair(stage_pair=pyramid.stage_pair, seed: int = 0) -> None:
    """Continuity of means, ends, one noise at both ends, unit variance at every size."""
    for cuts in CUTS:
        found = pyramid.stages(cuts, 1 / 3 if seed % 2 else 0.2)
        k = len(found)
        side = 2 ** (k + 1)
        x, noise = images(2, 3, 2, side, side, seed=seed)
        zero = torch.zeros_like(x)
        ends = None
        for i, stage in enumerate(found):
            start, end = stage_pair(x, noise, i, found)
            size = side // 2 ** (k - 1 - i)
            assert start.shape == end.shape == (3, 2, size, size), f"Stage {i} of {k} has size {size}."
            if i == 0:
                expected = noise
                for _ in range(k - 1):
                    expected = 2 * halved(expected)
                close(
                    start,
                    expected,
                    "The first start is noise alone; each halving is twice the mean. Is it (start, end)?",
                )
            else:
                hint = "Halving a start gives alpha times the end of the stage before: same data, same noise."
                if stage.gamma == 1 / 3:
                    close(halved(start), stage.alpha * ends, hint)
            ends = end
            data = x
            for _ in range(k - 1 - i):
                data = halved(data)
            seen = stage_pair(x, zero, i, found)
            close(
                seen[1],
                stage.end * data,
                "Without noise an end is e_i X_i, X_i of 2x2 means (gain 1); nothing is drawn.",
            )
            signal = stage.start * doubled(halved(data)) if i else 0 * data
            close(
                seen[0],
                signal,
                "Without noise a start is s_i Up(Down(X_i)): what the stage before could know.",
            )
            deaf = stage_pair(zero, noise, i, found)
            scale = 1 - stage.start
            close(
                deaf[1] * scale,
                deaf[0] * (1 - stage.end),
                "Start and end share their noise: a straight path.",
            )
            unit = units(2, side)
            jacobian = stage_pair(torch.zeros_like(unit), unit, i, found)[0].flatten(1) / scale
            eye = torch.eye(jacobian.shape[1], dtype=DOUBLE)
            close(
                jacobian.T @ jacobian,
                eye,
                "Noise is white with variance 1 at every size: 2 x the mean of four.",
            )
        close(end, x, "The last stage ends on the data.")
    single = pyramid.stages([0, 1])
    start, end = stage_pair(x, noise, 0, single)
    assert torch.equal(start, noise) and torch.equal(end, x), "One stage is plain flow matching, bit for bit."
    found = pyramid.stages(CUTS[1])
    refuses(
        lambda: stage_pair(x[..., :-2, :], noise[..., :-2, :], 0, found), "Sides not divisible by 4: refuse."
    )
    refuses(lambda: stage_pair(x, noise[:1], 0, found), "One noise for three samples must be refused.")
    refuses(lambda: stage_pair(x, noise, 3, found), "Stage 3 of 3 (0, 1, 2) must be refused.")


def check_renoise_jump(renoise_jump=pyramid.renoise_jump, seed: int = 0) -> None:
    """The mean, and the covariance: what arrives must be what the next stage starts from."""
    for cuts in CUTS:
        for gamma in (1 / 3, 0.25, 0.1):
            for before, stage in zip(cuts[1:], pyramid.stages(cuts, gamma)[1:]):
                low, high = units(2, 2), units(2, 4)
                nothing = torch.zeros(len(low), 2, 4, 4, dtype=DOUBLE)
                from_low = renoise_jump(low, nothing, stage)
                where = f"cuts {cuts}, gamma {gamma:.3f}: "
                close(
                    from_low,
                    stage.alpha * doubled(low),
                    where + "without noise, alpha Up(z): every pixel repeated, times alpha; nothing drawn.",
                )
                from_noise = renoise_jump(torch.zeros(len(high), 2, 2, 2, dtype=DOUBLE), high, stage)
                a, b = from_low.flatten(1), from_noise.flatten(1)
                covariance = (1 - before) ** 2 * a.T @ a + b.T @ b
                wanted = (1 - stage.start) ** 2 * torch.eye(32, dtype=DOUBLE)
                same = rearrange(units(2, 4), "n c (h p) (w q) -> n c (h w) (p q)", p=2, q=2)
                block = (same.sum(-1).flatten(1) @ same.sum(-1).flatten(1).T) > 0
                inside = covariance[block & ~torch.eye(32, dtype=torch.bool)]
                hint = where + (
                    f"the noise that arrives must be white, variance (1 - s)^2 = {wanted[0, 0]:.3f}. Yours "
                    f"has {covariance.diag().mean():.3f}, and covariance {inside.mean():.3f} inside a block. "
                    "Up makes four equal numbers; fresh noise has variance beta^2, and covariance "
                    "-gamma beta^2 inside each block, for each channel by itself."
                )
                close(covariance, wanted, hint, 1e-9)
    # a fixed sample: halving gives back what the stage before had decided
    stage = pyramid.stages(CUTS[1])[1]
    z, noise = images(3, 2, 4, 4, seed=seed), images(3, 2, 8, 8, seed=seed + 1)
    result = renoise_jump(z, noise, stage)
    close(
        halved(result),
        stage.alpha * z,
        "At gamma = 1/3 the jump leaves every block mean alone, but for alpha.",
    )
    close(
        renoise_jump(z, noise + 5.0, stage),
        result,
        "At gamma = 1/3 a constant added to the noise changes nothing: only its details are used.",
    )
    once = z.clone()
    renoise_jump(z, noise, stage)
    assert torch.equal(z, once), "The input must stay as it is."
    assert renoise_jump(z.float(), noise.float(), stage).dtype == torch.float32, "float32 stays float32."
    refuses(lambda: renoise_jump(z, z, stage), "Noise must have twice the size of z: refuse.")
    refuses(lambda: renoise_jump(z, noise[:1], stage), "One noise for three samples must be refused.")


def check_network_time(network_time=pyramid.network_time, seed: int = 0) -> None:
    """Local time 1 is the start of a stage, 0 its end."""
    u = torch.tensor([1.0, 0.6, 0.0], dtype=DOUBLE)
    for stage in pyramid.stages(CUTS[1]):
        found = network_time(u, stage)
        expected = torch.tensor([stage.t_start, 0, stage.t_end], dtype=DOUBLE)
        expected[1] = 0.6 * stage.t_start + 0.4 * stage.t_end
        close(
            found,
            expected,
            "From t_start at local time 1 to t_end at 0, linearly: not the local time itself.",
        )


def net(z: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
    """A function of everything it is given, at any size."""
    t = t.reshape(-1, 1, 1, 1)
    shift = 0 if label is None else label.reshape(-1, 1, 1, 1)
    return torch.tanh(z) * (1 + t) + 0.3 * torch.sin(3 * z) + 0.1 * shift + 0.01 * z.shape[-1]


def check_pyramid_loss(pyramid_loss=pyramid.pyramid_loss, seed: int = 0) -> None:
    """By hand for three stages and unequal shares; one stage is plain flow matching."""
    x, noise = images(2, 8, 1, 8, 8, seed=seed)
    u = 1 - torch.rand(8, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    label = torch.arange(8)
    for cuts, shares in ((CUTS[1], (1, 2, 1)), (CUTS[1], (2, 1, 1)), (CUTS[0], (1, 1)), (CUTS[0], None)):
        found = pyramid.stages(cuts)
        asked = []
        recorded = lambda z, t, label: asked.append((z, t, label)) or net(z, t, label)
        loss = pyramid_loss(recorded, x, noise, u, found, shares, label=label)
        assert loss.shape == (8,), "A loss returns one number per sample, (b,)."
        counts = [len(z) for z, _, _ in asked]
        given = shares or (1,) * len(found)
        assert counts == [8 * share // sum(given) for share in given], (
            f"Shares {given} of 8 samples, coarsest stage first: got {counts}."
        )
        first = 0
        for i, (stage, (z, t, tags)) in enumerate(zip(found, asked)):
            part = slice(first, first + len(z))
            first += len(z)
            close(tags, label[part], "Each sample keeps its label, in the order of the batch.")
            start, end = pyramid.stage_pair(x[part], noise[part], i, found)
            w = u[part].reshape(-1, 1, 1, 1)
            close(z, w * start + (1 - w) * end, "z = u start + (1 - u) end: local time 1 is the start.")
            time = stage.t_end + (stage.t_start - stage.t_end) * u[part]
            close(t, time, "The network sees the time of the whole way, which tells it the stage.")
            wanted = (net(z, t, tags) - (start - end)).square().mean((1, 2, 3))
            close(
                loss[part], wanted, "The velocity is start - end, in local time; mean over each sample.", 1e-9
            )
    single = pyramid.stages([0, 1])
    loss = pyramid_loss(net, x, noise, u, single)
    z = (1 - u).reshape(-1, 1, 1, 1) * x + u.reshape(-1, 1, 1, 1) * noise
    plain = (net(z, u) - (noise - x)).square().mean((1, 2, 3))
    assert torch.equal(loss, plain), "One stage is plain flow matching, bit for bit."
    found = pyramid.stages(CUTS[1])
    for call, what in (
        (lambda: pyramid_loss(net, x, noise, u, found, (1, 1)), "Two shares for three stages"),
        (lambda: pyramid_loss(net, x, noise, u, found, (1, 1, 1)), "8 samples in shares of 1, 1, 1"),
        (lambda: pyramid_loss(net, x, noise, u, found, (0, 3, 1)), "A share of 0"),
        (lambda: pyramid_loss(net, x, noise, u[:1], found, (1, 2, 1)), "One time for eight samples"),
        (lambda: pyramid_loss(net, x, noise, u + 1, found, (1, 2, 1)), "A local time above 1"),
        (
            lambda: pyramid_loss(lambda z, t: z[:1], x, noise, u, single),
            "A network that returns another shape",
        ),
    ):
        refuses(call, f"{what} must be refused.")


def field(side: int, correlation: float = 0.9) -> torch.Tensor:
    """The covariance of a Gaussian image whose neighbours are alike."""
    row = correlation ** (torch.arange(side)[:, None] - torch.arange(side)).abs().double()
    return torch.kron(row, row)


def exact_velocity(covariance: torch.Tensor, found: list, side: int):
    """The optimal velocity for Gaussian images, integrated so finely that one step of it ends a stage."""
    k, unit = len(found), units(1, side)
    zero = torch.zeros_like(unit)
    maps = []
    for i in range(k):
        signal, noise = (
            [a.flatten(1).T for a in pyramid.stage_pair(*pair, i, found)]
            for pair in ((unit, zero), (zero, unit))
        )
        maps.append((signal, noise))

    def matrix(i: int, u: float) -> torch.Tensor:
        (s0, s1), (n0, n1) = maps[i]
        x, n = u * s0 + (1 - u) * s1, u * n0 + (1 - u) * n1
        cross = (s0 - s1) @ covariance @ x.T + (n0 - n1) @ n.T
        return cross @ torch.linalg.inv(
            x @ covariance @ x.T + n @ n.T + 1e-13 * torch.eye(len(x), dtype=DOUBLE)
        )

    def flow(i: int) -> torch.Tensor:
        """The matrix that carries a start to its end: Runge-Kutta, times crowd at the clean end."""
        whole, n = torch.eye(len(maps[i][0][0]), dtype=DOUBLE), 40
        for j in range(n, 0, -1):
            u, s = (j / n) ** 2, ((j - 1) / n) ** 2
            h = s - u
            at_u, at_m, at_s = (matrix(i, w) for w in (u, (u + s) / 2, s))
            k1 = at_u @ whole
            k2 = at_m @ (whole + h / 2 * k1)
            k3 = at_m @ (whole + h / 2 * k2)
            whole = whole + h / 6 * (k1 + 2 * k2 + 2 * k3 + at_s @ (whole + h * k3))
        return whole

    flows = {side // 2 ** (k - 1 - i): flow(i) for i in range(k)}
    return lambda z, t: z - (z.flatten(1) @ flows[z.shape[-1]].T).reshape(z.shape)


def check_pyramid_sample(pyramid_sample=pyramid.pyramid_sample, seed: int = 0) -> None:
    """By hand, its randomness, one stage, and the exact covariance of a Gaussian field from end to end."""
    found = pyramid.stages(CUTS[1])
    noise = images(3, 1, 8, 8, seed=seed)
    jumps = [images(3, 1, 4, 4, seed=seed + 1), images(3, 1, 8, 8, seed=seed + 2)]
    asked = []
    recorded = lambda z, t: asked.append((z.clone(), t)) or net(z, t)
    result = pyramid_sample(recorded, noise, found, [2, 3, 1], jumps)
    sizes = [z.shape[-1] for z, _ in asked]
    assert sizes == [2, 2, 4, 4, 4, 8], (
        f"Steps [2, 3, 1]: asked at sizes {sizes}. Is a step wasted, or one missing?"
    )
    assert all(t.shape == (3,) for _, t in asked), "The network gets t of shape (b,)."
    expected, asks = 4 * halved(halved(noise)), iter(asked)
    hint = "The first stage starts from the noise, each halving twice the mean."
    for i, (stage, n) in enumerate(zip(found, (2, 3, 1))):
        if i > 0:
            expected = pyramid.renoise_jump(expected, jumps[i - 1], stage)
            hint += f" Then renoise_jump(z, jumps[{i - 1}], stages[{i}]) before stage {i}, unclamped."
        for step in range(n):
            u = torch.full((3,), (n - step) / n, dtype=DOUBLE)
            time = stage.t_end + (stage.t_start - stage.t_end) * u
            z, t = next(asks)
            close(z, expected, hint, 1e-9)
            close(
                t,
                time,
                "The network is told network_time(u, stage) at u = 1, ..., 1 / n: not u itself.",
            )
            expected = expected - net(expected, time) / n
            hint = "A step is z - velocity / n, in local time: the velocity is start - end."
    close(result, expected, f"{hint} Without trajectory=True the last image is returned.", 1e-9)
    twice = (pyramid_sample(net, noise, found, steps, jumps) for steps in (2, [2, 2, 2]))
    close(*twice, "An int is meant for every stage.")
    ends = pyramid_sample(net, noise, found, 2, jumps, trajectory=True)
    assert [e.shape[-1] for e in ends] == [2, 4, 8], "trajectory=True returns the end of every stage."
    one, two, other = (
        pyramid_sample(net, noise, found, 2, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other), (
        "The generator decides the noise of the jumps."
    )
    single = pyramid.stages([0, 1])
    z = noise
    for u in (1.0, 0.75, 0.5, 0.25):
        z = z - net(z, torch.full((3,), u, dtype=DOUBLE)) / 4
    close(
        pyramid_sample(net, noise, single, 4), z, "One stage is Euler's method on plain flow matching.", 1e-12
    )

    for cuts, gamma in ((CUTS[0], 1 / 3), (CUTS[1], 1 / 3), (CUTS[0], 0.2)):
        found = pyramid.stages(cuts, gamma)
        side = 2 ** (len(found))
        covariance, unit = field(side), units(1, side)
        velocity = exact_velocity(covariance, found, side)
        sizes = [side // 2 ** (len(found) - 1 - i) for i in range(1, len(found))]
        silent = [torch.zeros(len(unit), 1, size, size, dtype=DOUBLE) for size in sizes]
        total = pyramid_sample(velocity, unit, found, 1, silent).flatten(1)
        total = total.T @ total
        for j, size in enumerate(sizes):
            heard = [torch.zeros(size**2, 1, s, s, dtype=DOUBLE) for s in sizes]
            heard[j] = units(1, size)
            part = pyramid_sample(
                velocity, torch.zeros(size**2, 1, side, side, dtype=DOUBLE), found, 1, heard
            )
            total = total + part.flatten(1).T @ part.flatten(1)
        error = ((total - covariance).norm() / covariance.norm()).item()
        assert error < 1e-4, (
            f"On an exact Gaussian field (cuts {cuts}) the samples' covariance is wrong by {error:.1e}. "
            "Is the jump before every stage but the first, and its noise fresh and correlated?"
        )
    found = pyramid.stages(CUTS[1])
    refuses(
        lambda: pyramid_sample(net, noise, found, [2, 2]), "Two numbers of steps for three stages: refuse."
    )
    refuses(lambda: pyramid_sample(net, noise, found, [2, 0, 2]), "A stage without steps must be refused.")
    refuses(
        lambda: pyramid_sample(net, noise, found, 2, jumps[:1]), "One noise for two jumps must be refused."
    )
    refuses(
        lambda: pyramid_sample(net, noise[..., :6], found, 2), "Sides not divisible by 4 must be refused."
    )


def check_stage_target(stage_target=pyramid.stage_target, seed: int = 0) -> None:
    """One student step lands where two teacher steps land, at the right times, without a gradient."""
    z = images(4, 1, 4, 4, seed=seed)
    for stage in pyramid.stages(CUTS[1]):
        for n in (1, 4):
            u = torch.arange(n, 0, -1, dtype=DOUBLE).repeat(4)[:4] / n
            time = lambda w: stage.t_end + (stage.t_start - stage.t_end) * w
            middle = z - net(z, time(u)) / (2 * n)
            landed = middle - net(middle, time(u - 0.5 / n)) / (2 * n)
            found = stage_target(net, z, u, n, stage)
            hint = "z - target / n is where two teacher steps of 0.5 / n land, asked at the network's times."
            close(z - found / n, landed, hint, 1e-10)
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    learned = stage_target(lambda z, t: weight * net(z, t), z, u, n, stage)
    assert not learned.requires_grad, "A target is a constant."


def check_pyramid_distillation_loss(
    pyramid_distillation_loss=pyramid.pyramid_distillation_loss, seed: int = 0
) -> None:
    """By hand, in every stage; a perfect student has no loss."""
    x, noise = images(2, 8, 1, 8, 8, seed=seed)
    found, n, shares = pyramid.stages(CUTS[1]), 4, (1, 2, 1)
    index = 1 + torch.arange(8)[torch.randperm(8, generator=torch.Generator().manual_seed(seed))] % n
    label = torch.arange(8)
    student = lambda z, t, label: torch.sin(z) + t.reshape(-1, 1, 1, 1)
    loss = pyramid_distillation_loss(student, net, x, noise, index, found, n, shares, label=label)
    first = 0
    for i, (stage, count) in enumerate(zip(found, (2, 4, 2))):
        part = slice(first, first + count)
        first += count
        u = index[part].double() / n
        start, end = pyramid.stage_pair(x[part], noise[part], i, found)
        w = u.reshape(-1, 1, 1, 1)
        z = w * start + (1 - w) * end
        target = pyramid.stage_target(net, z, u, n, stage, label=label[part])
        answer = student(z, stage.t_end + (stage.t_start - stage.t_end) * u, label)
        hint = (
            "The mean squared distance to stage_target at local time index / n, in the stage of each sample."
        )
        close(loss[part], (answer - target).square().mean((1, 2, 3)), hint, 1e-9)
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    taught = lambda z, t, label: weight * net(z, t, label)
    loss = pyramid_distillation_loss(student, taught, x, noise, index, found, n, shares, label=label)
    assert not loss.requires_grad, "No gradient may reach the teacher."
    for bad in (index - index, index + n, index[:1]):
        refuses(
            lambda: pyramid_distillation_loss(student, net, x, noise, bad, found, n, shares, label=label),
            "An index outside 1 to n, or one for all samples, must be refused.",
        )
