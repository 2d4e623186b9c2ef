"""Checks of the pyramid in time: which frames are seen and how large, who looks at whom, and the roll-out.

Two models are known exactly. One is a plain function of everything that it is shown, so that a roll-out can
be written down by hand. The other is certain that the next frame is the newest of its history: whatever the
noise, the cuts and the number of steps, each frame that it makes must be a copy of the last one given.
"""

import torch

from minidistill import pyramid, video
from minidistill.checks import close, column, exact, refuses
from minidistill.checks.pyramid import CUTS, DOUBLE, doubled, halved, images


def check_history_layout(history_layout=video.history_layout, seed: int = 0) -> None:
    """The size of every frame, how they are grouped, and refusals."""
    some = 9 + torch.randint(21, (1,), generator=torch.Generator().manual_seed(seed)).item()
    cases = [(n, stage, k) for k in (1, 2, 3, 4) for stage in range(k) for n in (1, 2, 3, 4, 8, 31, some)]
    grouped = []
    for frames, stage, k in cases:
        layout = history_layout(frames, stage, k)
        where = f"{frames} frame{'s' * (frames > 1)}, stage {stage} of {k}: "
        assert isinstance(layout, list) and all(
            isinstance(group, (list, tuple)) and len(group) == 2 for group in layout
        ), f"{where}a list of pairs (count, level), not {layout}."
        found = [level for count, level in layout for _ in range(count)]
        past = [max(stage - age, 0) for age in range(frames - 1)][::-1]
        assert len(found) == frames, (
            f"{where}the pairs (count, level) hold {len(found)} frames, not {frames}. `frames` counts the "
            "one that is made, and all are listed, that one and the oldest too."
        )
        where += f"levels {found}, oldest first. "
        assert found[-1] == stage, (
            f"{where}The last is the frame that is made, at level {stage}; level 0 is the smallest size. Is "
            "it newest first, or are levels counted from the finest?"
        )
        assert frames == 1 or found[-2] == stage, (
            f"{where}The newest frame of the past has the stage's level, {stage}, too. Is the past newest "
            "first?"
        )
        assert found[:-1] == past, (
            f"{where}Each older frame is one level lower than the next, and never below 0: {past}."
        )
        groups = [1] * min(frames, max(stage, 1) + 2)
        groups[0] = frames - len(groups) + 1
        grouped.append((where, [count for count, _ in layout], groups))
    for where, found, groups in grouped:  # after all levels: with one stage every order looks right
        assert found == groups, (
            f"{where}Counts {groups}, not {found}. Only the oldest, at level 0, share a group; the frame "
            "that is made and the newest of the past have one each, also at level 0, and no group is empty."
        )
    for frames, stage in ((0, 0), (-1, 1), (3, 2), (3, -1)):
        refuses(
            lambda: history_layout(frames, stage, 2),
            f"{frames} frames at stage {stage} of 2 must be refused.",
        )


def reduced(frame: torch.Tensor, times: int) -> torch.Tensor:
    """A frame, halved so many times."""
    for _ in range(times):
        frame = halved(frame)
    return frame


def check_history(history=video.history, seed: int = 0) -> None:
    """Each frame of the past at its size, oldest first."""
    past = images(2, 5, 2, 8, 12, seed=seed)
    kept = past.clone()
    for k in (1, 2, 3):
        for stage in range(k):
            for frames in (0, 1, 2, 5):
                layout = video.history_layout(frames + 1, stage, k)[:-1]
                clips = history(past[:, :frames], stage, k)
                assert isinstance(clips, (list, tuple)), f"A list of clips, not {type(clips).__name__}."
                sizes = [tuple(c.shape[1:]) for c in clips]
                wanted = [(n, 2, 8 // 2 ** (k - 1 - i), 12 // 2 ** (k - 1 - i)) for n, i in layout]
                assert sizes == wanted, (
                    f"{frames} frames before stage {stage} of {k}: clips of (count, c, h, w) {sizes}, but "
                    f"the layout, without its last entry, says {wanted}."
                )
                first = 0
                for c, (count, level) in zip(clips, layout):
                    for j in range(count):
                        close(
                            c[:, j],
                            reduced(past[:, first + j], k - 1 - level),
                            "A frame of level i is halved K - 1 - i times by 2x2 means; oldest first.",
                        )
                    first += count
    assert torch.equal(past, kept), "The past stays as it is."
    refuses(lambda: history(past[..., :6, :], 0, 3), "Heights that cannot be halved twice must be refused.")
    refuses(lambda: history(past[..., :6], 0, 3), "Sides that cannot be halved twice must be refused.")


def check_corrupt(corrupt=video.corrupt, seed: int = 0) -> None:
    """A mixture of each clip with noise that is white and its own, one sigma per sample."""
    clips = [images(3, 4, 2, 2, 2, seed=seed), images(3, 1, 2, 4, 4, seed=seed + 1)]
    kept = [c.clone() for c in clips]
    nothing = [0 * c for c in clips]

    def draw(clips, sigma, s=seed + 2):  # not the seed of the clips: noise and clip would be the same numbers
        handed = [*clips]
        mixed = corrupt(handed, sigma, torch.Generator().manual_seed(s))
        assert all(a is b for a, b in zip(handed, clips)), "The list of clips stays as it is. Make a new one."
        return mixed

    sigma, more = exact(0.3, 0.0, 0.1), exact(0.6, 0.25, 0.05)
    mixed, again = draw(clips, sigma), draw(clips, sigma)
    assert all(torch.equal(a, b) for a, b in zip(clips, kept)), (
        "The clips stay as they are: they are the true frames. Make new tensors."
    )
    shapes = [tuple(c.shape) for c in clips]
    assert isinstance(mixed, (list, tuple)), f"A list of clips, not {type(mixed).__name__}."
    found = [tuple(c.shape) for c in mixed]
    assert found == shapes, f"As many clips as there were, in their order and shapes: {shapes}, not {found}."
    assert all(torch.equal(a, b) for a, b in zip(mixed, again)), (
        "The generator decides the noise: twice the same seed, and two results. Is the generator handed on?"
    )
    for j, (given, found, bare) in enumerate(zip(clips, mixed, draw(nothing, sigma))):
        where = f"Clip {j} of {len(clips)}: "
        assert not torch.equal(found, given), (
            f"{where}it came back as it was. Every clip is corrupted, the newest too."
        )
        close(
            found[1],
            given[1],
            f"{where}sigma = 0 leaves a sample as it is. One sigma for each sample, and the noise is scaled.",
        )
        close(
            found - bare,
            column(1 - sigma, given) * given,
            f"{where}(1 - sigma) clip + sigma noise: 1 - sigma, neither 1 nor sqrt(1 - sigma^2), times the "
            "clip, and for each sample its own sigma, the same in all clips.",
        )
    for a, b in zip(draw(nothing, sigma), draw(nothing, more)):
        close(
            a * column(more, a),
            b * column(sigma, b),
            "The noise is scaled by sigma, once: not by its root, and not by 1 - sigma as well.",
        )
    large = [torch.zeros(2, 2, 2, 48, 48, dtype=DOUBLE), torch.zeros(2, 1, 2, 48, 48, dtype=DOUBLE)]
    noise = torch.cat([n / 0.5 for n in draw(large, exact(0.5, 0.5))], dim=1)
    flat = torch.cat([noise, noise.roll(1, -1), noise.roll(1, -2)]).flatten(3).flatten(0, 2)
    correlation = flat @ flat.T / flat.shape[1]
    assert (correlation.diagonal() - 1).abs().max() < 0.15 and noise.pow(4).mean() > 2.4, (  # 3 if Gaussian
        "The noise is Gaussian with variance 1, another number in each pixel. Is it uniform?"
    )
    assert (correlation - correlation.diagonal().diag()).abs().max() < 0.25, (
        "Every frame of every sample and every clip has its own noise, in each pixel. Is some noise drawn "
        "once and used for several?"
    )
    low = corrupt([c.float() for c in clips], sigma, torch.Generator().manual_seed(seed))
    assert all(c.dtype == torch.float32 for c in low), (
        "The result has the dtype of the clips, also where sigma's is another: see `like` and `randn_like`."
    )
    one, other = (draw(clips, sigma, s)[0] for s in (1, 2))
    assert not torch.equal(one, other), "The generator decides the noise: two seeds, and one result."


def check_block_causal_mask(block_causal_mask=video.block_causal_mask, seed: int = 0) -> None:
    """Row looks at column: its own frame and older ones."""
    some = torch.randint(9, (12,), generator=torch.Generator().manual_seed(seed)).tolist()
    for ids in ([0, 0, 1, 1, 1, 2], [0, 1, 2, 3], [5, 5], [2, 0, 1, 0], some):
        mask, n = block_causal_mask(torch.tensor(ids)), len(ids)
        assert isinstance(mask, torch.Tensor), f"Expected a tensor, got {type(mask).__name__}."
        assert mask.shape == (n, n) and mask.dtype == torch.bool, (
            f"A mask of {n} tokens is ({n}, {n}) and bool, True where a token may look, got "
            f"{tuple(mask.shape)}, {mask.dtype}."
        )
        right = torch.tensor([[own >= theirs for theirs in ids] for own in ids])
        if torch.equal(mask, right):
            continue
        assert not torch.equal(mask, right.T), (
            f"Frames {ids}: the mask is transposed. The row looks at the column, and sees no newer frame."
        )
        assert not torch.equal(mask, ~right), f"Frames {ids}: True means may look, not that it is hidden."
        i, j = (mask != right).nonzero()[0].tolist()
        if i == j:
            answer = "Yes: a token looks at itself too. At least as new, not newer."
        elif ids[i] == ids[j]:
            answer = "Yes: a frame sees all of itself, also its later tokens. Causal by frame, not by token."
        elif ids[i] > ids[j]:
            answer = "Yes: all older frames are seen. The numbers decide, not the places in the sequence."
        else:
            answer = "No: it is of a newer frame. The numbers decide, not the places in the sequence."
        raise AssertionError(f"Frames {ids}: may token {i}, the row, look at token {j}, the column? {answer}")


def check_grid_positions(grid_positions=video.grid_positions, seed: int = 0) -> None:
    """The centres of cells, on the coordinates of another grid."""
    m, m_ref = (1 + torch.randint(12, (2,), generator=torch.Generator().manual_seed(seed))).sort()[0].tolist()
    edges = torch.linspace(-0.5, m_ref - 0.5, m + 1, dtype=DOUBLE)
    for n, n_ref, wanted in (
        (2, 8, [1.5, 5.5]),
        (4, 8, [0.5, 2.5, 4.5, 6.5]),
        (1, 4, [1.5]),
        (2, 3, [0.25, 1.75]),
        (5, 5, [0.0, 1.0, 2.0, 3.0, 4.0]),
        (8, 4, [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]),
        (m, m_ref, ((edges[1:] + edges[:-1]) / 2).tolist()),
    ):
        found, j, width = grid_positions(n, n_ref), torch.arange(n, dtype=DOUBLE), n_ref / n
        assert isinstance(found, torch.Tensor), f"Expected a tensor, got {type(found).__name__}."
        likely = (
            ((j + 0.5) * (n_ref // n) - 0.5, "A cell is n_ref / n wide, not n_ref // n."),
            ((j + 0.5) / width - 0.5, "A cell is n_ref / n wide, not n / n_ref."),
            (j, "These are the cells' own numbers: on the grid of n_ref they would lie in a corner."),
            (j * width, "Is it the first cell of the grid that each covers? Its place is their middle."),
            ((j + 1) * width - 1, "Is it the last cell of the grid that each covers? Take their middle."),
            (j * width - 0.5, "These are the edges where the cells begin. Their middles are half a cell on."),
            ((j + 0.5) * width, "Half too much: the middle of cell 0 of the grid is at 0, its edge at -1/2."),
            (torch.linspace(0, n_ref - 1, n), "End to end? The outer edges agree, not the outer middles."),
            (torch.tensor(wanted).clamp(0, n_ref - 1), "Clamped? Middles may be below 0 or above n_ref - 1."),
        )
        hint = next(
            (
                what
                for other, what in likely
                if found.shape == (n,) and torch.allclose(found.double(), other.double(), atol=1e-5)
            ),
            f"A cell covers {width:g} of the grid, which begins at -1/2, and its place is its middle.",
        )
        close(
            found,
            torch.tensor(wanted, dtype=DOUBLE),
            f"{n} cells on a grid of {n_ref}: {[round(w, 3) for w in wanted]}. {hint}",
            1e-5,
        )


def check_count_tokens(count_tokens=video.count_tokens, seed: int = 0) -> None:
    """The paper's 15,360 tokens, and layouts by hand."""
    for given, k, full, wanted in (
        ([(1, 0)], 1, 7, 7),
        ([(2, 0), (1, 0)], 1, 10, 30),
        ([(5, 0), (1, 1), (1, 2), (1, 2)], 3, 64, 5 * 4 + 16 + 64 + 64),
        ([(6, 0), (1, 1), (1, 1)], 3, 64, 6 * 4 + 16 + 16),
        (video.history_layout(31, 2, 3), 3, 3840, 15360),
        (video.history_layout(31, 0, 1), 1, 3840, 119040),
    ):
        found = count_tokens(given, k, full)
        assert found == wanted, (
            f"Layout {given} of {k} stages, {full} tokens at full size: {wanted} tokens, not {found}. Each "
            "level below the highest has a quarter of the tokens."
        )
        assert isinstance(found, int), "A number of tokens is an int."
    for full in (0, 15, 40):
        refuses(
            lambda: count_tokens([(1, 2)], 3, full),
            f"{full} tokens cannot be quartered twice: a multiple of 16, or refuse.",
        )


def check_forward_flops(forward_flops=video.forward_flops, seed: int = 0) -> None:
    """24 n d^2 + 4 n^2 d for each block."""
    for tokens, dim, depth in ((1, 1, 1), (16, 64, 3), (15360, 1920, 1), (300, 8, 2)):
        wanted = depth * (24 * tokens * dim**2 + 4 * tokens**2 * dim)
        assert forward_flops(tokens, dim, depth) == wanted, (
            "Each block: 24 n d^2 for its matrices (q, k, v 6, output 2, MLP 16) and 4 n^2 d for attention."
        )
    assert forward_flops(5, 4) == forward_flops(5, 4, 1), "One block by default."


def check_video_flops(video_flops=video.video_flops, seed: int = 0) -> None:
    """Sums by hand, and the cost of the paper's 768p video."""
    by_hand = sum(
        n * (24 * tokens * 64**2 + 4 * tokens**2 * 64)
        for n, counts in ((3, (4, 8, 12)), (5, (16, 32, 36)))
        for tokens in counts
    )
    found = video_flops(3, [3, 5], 16, 64)
    assert found == by_hand, (
        "Three frames, two stages: each frame pays its steps at every stage, for 4, 8, 12 and 16, 32, 36 "
        "tokens."
    )
    assert video_flops(3, [3, 5], 16, 64, 7) == 7 * found, "As many blocks, as many times the cost."
    first = video_flops(2, [3, 5], 16, 64)
    assert video_flops(3, [3, 5], 16, 64, given=2) == found - first, (
        "Given frames are not made, and are looked at all the same."
    )
    assert video_flops(3, [3, 5], 16, 64, given=3) == 0, "Nothing to make, no cost."
    for frames, k, wanted in ((16, 3, 0.3441), (31, 3, 0.2866), (31, 2, 1.2443), (31, 1, 11.2941)):
        whole = 24 * frames * 3840 * 1920**2 + 4 * (frames * 3840) ** 2 * 1920
        ratio = video_flops(frames, [1] * k, 3840, 1920) / k / whole
        assert abs(ratio - wanted) < 1e-4, (
            f"{frames} frames, {k} stages: {wanted} of the cost of one sequence of all, not {ratio:.4f}."
        )


def net(z, t, history=(), label=None):
    """A function of everything it is given: the clips, their order, their frames and their pixels."""
    seen = torch.zeros_like(t)
    for j, c in enumerate(history):
        weight = torch.linspace(0.5, 1.5, c[0].numel(), dtype=c.dtype).sin()
        seen = seen + (j + 1) * torch.tanh(c.flatten(1)) @ weight / len(weight)
    shift = 0 if label is None else 0.1 * label
    return torch.tanh(z) * column(1 + t, z) + 0.3 * torch.sin(3 * z) + column(seen + shift, z)


def check_video_loss(video_loss=video.video_loss, seed: int = 0) -> None:
    """Images alone are the loss of the pyramid; by hand for several lengths; what corruption touches."""
    x, noise = images(8, 4, 2, 16, 8, seed=seed), images(8, 2, 16, 8, seed=seed + 1)
    u = 1 - torch.rand(8, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    label = torch.arange(8)
    found = pyramid.stages(CUTS[1])
    shares, parts = (1, 2, 1), (slice(0, 2), slice(2, 6), slice(6, 8))
    loss = video_loss(net, x, noise, u, [1] * 8, found, shares=shares, label=label)
    close(
        loss,
        pyramid.pyramid_loss(net, x[:, 0], noise, u, found, shares, label=label),
        "One frame is an image, its history an empty list: the loss is pyramid_loss.",
    )

    frames = [4, 1, 2, 4, 3, 2, 1, 4]
    calls = []
    recorded = lambda z, t, history, label: calls.append((history, label)) or net(z, t, history, label)
    loss = video_loss(recorded, x, noise, u, frames, found, shares=shares, label=label)
    assert loss.shape == (8,), "A loss returns one number per sample, (b,)."
    seen = {j.item(): [c[i] for c in clips] for clips, tags in calls for i, j in enumerate(tags)}
    assert sorted(seen) == list(range(8)), "Each sample is predicted once: one frame of it, the last in use."
    for i, part in enumerate(parts):
        for j in range(8)[part]:
            wanted = [c[0] for c in video.history(x[j : j + 1, : frames[j] - 1], i, 3)]
            assert [c.shape for c in seen[j]] == [c.shape for c in wanted], (
                f"With {frames[j]} frames stage {i} sees history(the {frames[j] - 1} before, {i}, 3)."
            )
            for a, b in zip(seen[j], wanted):
                close(a, b, "The history is the frames before the predicted one, without noise if no sigma.")
            k, w = slice(j, j + 1), u[j]
            start, end = pyramid.stage_pair(x[k, frames[j] - 1], noise[k], i, found)
            z, t = w * start + (1 - w) * end, pyramid.network_time(u[k], found[i])
            answer = net(z, t, [c[None] for c in wanted], label[k])
            close(
                loss[k],
                (answer - (start - end)).square().mean((1, 2, 3)),
                f"Frame {frames[j]} of sample {j} is predicted, with its stage, noise and time, and the "
                "losses are in the order of the batch.",
                1e-9,
            )

    def shown(sigma: torch.Tensor, s: int = seed) -> tuple[dict, torch.Tensor]:
        calls.clear()
        g = torch.Generator().manual_seed(s)
        loss = video_loss(recorded, x, noise, u, frames, found, sigma, g, shares, label=label)
        return {j.item(): [c[i] for c in clips] for clips, tags in calls for i, j in enumerate(tags)}, loss

    sigma, more = torch.linspace(0, 0.7, 8, dtype=DOUBLE), torch.linspace(0.1, 0.4, 8, dtype=DOUBLE)
    (one, _), (two, _), (again, _) = shown(sigma), shown(more), shown(sigma, seed + 1)
    for j in range(8):
        for clean, a, b, c in zip(seen[j], one[j], two[j], again[j]):
            s, m = sigma[j], more[j]
            hint = "The history is (1 - sigma) clip + sigma noise, every clip, with the sigma of its sample."
            close((a - (1 - s) * clean) * m, (b - (1 - m) * clean) * s, hint)
            assert s == 0 or not torch.equal(a, c), "The generator draws the noise of the history."
    noises = [
        ((a - (1 - more[j]) * c) / more[j]).flatten() for j in range(8) for c, a in zip(seen[j], two[j])
    ]
    drawn = torch.cat(noises)
    assert abs(drawn.square().mean() - 1) < 0.3 and len(drawn.unique()) == len(drawn), (
        "The noise of the past has variance 1, and each pixel of each frame of each sample its own."
    )
    _, corrupted = shown(sigma)
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    learned = lambda z, t, history, label: weight * net(z, t, history, label)
    assert video_loss(learned, x, noise, u, frames, found, shares=shares, label=label).requires_grad, (
        "The loss must have a gradient with respect to the network."
    )

    alone = torch.tensor([j for j in range(8) if frames[j] == 1])
    close(corrupted[alone], loss[alone], "Corruption is for the past: z and the target stay.")
    for call, what in (
        (
            lambda: video_loss(net, x[:, 0], noise, u, [1] * 8, found, shares=shares),
            "Images in place of videos",
        ),
        (
            lambda: video_loss(net, x, noise, u, [1] * 7, found, shares=shares),
            "Seven lengths for eight videos",
        ),
        (lambda: video_loss(net, x, noise, u, [5] * 8, found, shares=shares), "Five frames of four"),
        (lambda: video_loss(net, x, noise, u, [0] * 8, found, shares=shares), "No frame at all"),
        (lambda: video_loss(net, x, noise, u + 1, [2] * 8, found, shares=shares), "A local time above 1"),
        (lambda: video_loss(net, x, noise, u, [2] * 8, found, u + 1, shares=shares), "A sigma above 1"),
        (lambda: video_loss(net, x, noise, u, [2] * 8, found, u[:1], shares=shares), "One sigma for eight"),
        (lambda: video_loss(net, x, noise, u, [2] * 8, found), "A batch of 8 in three equal shares"),
    ):
        refuses(call, f"{what} must be refused.")


def copying(found: list[pyramid.Stage]):
    """The velocity of a model that is certain: the next frame is the newest of its history."""

    def velocity(z: torch.Tensor, t: torch.Tensor, history: list[torch.Tensor]) -> torch.Tensor:
        x = history[-1][:, -1]
        stage = next(s for s in found if s.t_end < t[0] <= s.t_start)
        blurred = doubled(halved(x)) if stage.start else 0 * x
        u = ((t - stage.t_end) / (stage.t_start - stage.t_end)).reshape(-1, 1, 1, 1)
        signal = u * stage.start * blurred + (1 - u) * stage.end * x
        level = u * (1 - stage.start) + (1 - u) * (1 - stage.end)
        return stage.start * blurred - stage.end * x + (stage.end - stage.start) * (z - signal) / level

    return velocity


def check_rollout(rollout=video.rollout, seed: int = 0) -> None:
    """A model that copies; by hand; guidance; what is drawn; one video does not know of another."""
    noise = images(3, 5, 2, 16, 8, seed=seed)
    given = images(3, 2, 2, 16, 8, seed=seed + 1)
    jumps = [[images(3, 2, 2 * s, s, seed=seed + 10 * f + s) for s in (4, 8)] for f in range(5)]
    found = pyramid.stages(CUTS[1])

    def run(hint: str, *args, **kwargs) -> torch.Tensor:
        """The roll-out; an error becomes the hint."""
        try:
            made = rollout(*args, **kwargs)
        except NotImplementedError:  # a RuntimeError, but no answer yet
            raise
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise AssertionError(f"{hint} It stops with {type(error).__name__}: {error}") from error
        assert isinstance(made, torch.Tensor), f"Expected a tensor, got {type(made).__name__}."
        assert made.shape == args[1].shape, (
            "As many frames as noises, the given ones included: (b, frames, c, h, w) = "
            f"{tuple(args[1].shape)}, not {tuple(made.shape)}."
        )
        return made

    calls, steps = [], [2, 1, 3]
    recorded = lambda z, t, *, history: (
        calls.append((z, t, [c.clone() for c in history])) or net(z, t, history)
    )
    made = run(
        "Two frames given, three to make, no guidance: the network is asked velocity(z, t, history=...), and "
        "jumps[0] is for the first frame that is made.",
        *(recorded, noise, found, steps, given),
        jumps=jumps[:3],
    )
    close(made[:, :2], given, "The given frames come first, as they are.")
    assert len(calls) == 3 * sum(steps), (
        f"Three frames to make, {sum(steps)} steps each: {3 * sum(steps)} questions, not {len(calls)}."
    )
    known, asked = given, iter(calls)
    for f in range(3):
        for i, n in enumerate(steps):
            wanted = video.history(known, i, 3)
            for _ in range(n):
                z, t, clips = next(asked)
                assert z.shape[-1] == (2, 4, 8)[i], f"steps {steps}: so many in each stage, for every frame."
                assert [c.shape for c in clips] == [c.shape for c in wanted], (
                    f"Frame {2 + f}, stage {i}: the network sees history(past, {i}, 3), where past is all "
                    "frames before, those that were made too, and the stage is that of z: clips "
                    f"{[tuple(c.shape) for c in wanted]}, not {[tuple(c.shape) for c in clips]}."
                )
                for a, b in zip(clips, wanted):
                    close(
                        a,
                        b,
                        f"Frame {2 + f}, stage {i}: the history is oldest first, clean, each sample's own, "
                        "its newest frame is the one just made, and all sizes are made from that again.",
                        1e-9,
                    )
        step = lambda z, t: net(z, t, video.history(known, [2, 4, 8].index(z.shape[-1]), 3))
        frame = pyramid.pyramid_sample(step, noise[:, 2 + f], found, steps, jumps[f])
        close(
            made[:, 2 + f],
            frame,
            f"Frame {2 + f} is what pyramid_sample makes of noise[:, {2 + f}] and jumps[{f}], and stays as "
            "it is.",
            1e-9,
        )
        known = torch.cat([known, frame[:, None]], dim=1)

    for cuts in (*CUTS, [0, 1]):
        some = pyramid.stages(cuts)
        for n in (1, 3):
            g = torch.Generator().manual_seed(seed)
            made = run(
                f"{len(some)} stages, {n} steps each.", copying(some), noise, some, n, given, generator=g
            )
            close(
                made,
                torch.cat([given, given[:, 1:].expand(-1, 3, -1, -1, -1)], dim=1),
                "A model that copies the newest frame of its history must make copies of the last one given.",
                1e-8,
            )

    calls.clear()
    made = run(
        "Without given frames the first has no past: its history is an empty list.",
        *(recorded, noise, found, 1),
        first_steps=[2, 1, 1],
        jumps=jumps,
    )
    assert len(calls) == 4 + 4 * 3, (
        f"first_steps are for a frame without a past, steps for the others: {4 + 4 * 3} questions, not "
        f"{len(calls)}."
    )
    assert [len(clips) for _, _, clips in calls[:4]] == [0, 0, 0, 0], (
        "A first frame has no past: its history is an empty list."
    )
    image = pyramid.pyramid_sample(net, noise[:, 0], found, [2, 1, 1], jumps[0])
    close(made[:, 0], image, "The first frame is an image: pyramid_sample without a history.", 1e-9)
    calls.clear()
    made = run("Two frames given, and first_steps.", recorded, noise, found, 1, given, 2, jumps=jumps[:3])
    assert len(calls) == 3 * 3, "The frame after given ones has a past: it takes steps, not first_steps."
    calls.clear()
    run("One frame given, and first_steps.", recorded, noise, found, 1, given[:, :1], 2, jumps=jumps[:4])
    assert len(calls) == 4 * 3, "The frame after a given one has a past: it takes steps, not first_steps."
    run("first_steps is None: the first frame takes steps.", net, noise, found, 1, jumps=jumps)

    other = lambda z, t, history: 0.5 * torch.cos(z) + 0.1 * net(z, t, history)
    for scales, start in (
        ((3.0, 1.5), None),
        ((3.0, 1.5), given),
        ((1.0, 2.0), None),
        ((0.0, 1.0), None),
        ((3.0, 1.5), given[:, :1]),
    ):
        asked, n0 = [], 0 if start is None else start.shape[1]
        without = lambda z, t, *, history: asked.append(len(history)) or other(z, t, history)
        made = run(
            f"guidance {scales}: both networks are asked net(z, t, history=...).",
            *(net, noise, found, 1, start, None, without, scales),
            jumps=jumps[: 5 - n0],
        )
        known = start
        for f in range(n0, 5):
            w = scales[0] if f == 0 else scales[1]
            past = lambda z: [] if known is None else video.history(known, [2, 4, 8].index(z.shape[-1]), 3)
            both = lambda z, t: (1 - w) * other(z, t, past(z)) + w * net(z, t, past(z))
            frame = pyramid.pyramid_sample(both, noise[:, f], found, 1, jumps[f - n0])
            close(
                made[:, f],
                frame,
                f"Frame {f}, {n0} given, guidance {scales}: the first scale "
                "is for a frame without a past, the second for all others; unconditional + scale "
                "(conditional - unconditional), for any scale but 1, and both with the history.",
                1e-9,
            )
            known = frame[:, None] if known is None else torch.cat([known, frame[:, None]], dim=1)
        wanted = sum(3 for f in range(n0, 5) if (scales[0] if f == 0 else scales[1]) != 1)
        assert len(asked) == wanted, "Scale 1 is no guidance, and does not ask the unconditional velocity."

    draw = lambda s: run("No jumps.", net, noise, found, 1, given, generator=torch.Generator().manual_seed(s))
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2)), (
        "The generator decides the noise of the jumps, and nothing else does. Is it handed on as it is?"
    )
    still = noise[:, :1].expand(-1, 5, -1, -1, -1)
    free = lambda z, t, history: net(z, t)
    made = rollout(free, still, found, 1, generator=torch.Generator().manual_seed(seed))
    assert not torch.allclose(made[:, 1], made[:, 2]), "Every frame has its own noise in the jumps."
    whole = rollout(net, noise, found, 1, given, jumps=jumps[:3])
    for j in range(3):
        alone = rollout(
            net,
            noise[j : j + 1],
            found,
            1,
            given[j : j + 1],
            jumps=[[a[j : j + 1] for a in f] for f in jumps[:3]],
        )
        close(whole[j : j + 1], alone, "A video does not depend on the others in its batch.", 1e-9)
    for memory in (1, 2, 4, 9):
        calls.clear()
        hint = f"memory={memory}: of the past the newest {memory} are seen, or all while there are fewer."
        made = run(hint, recorded, noise, found, 1, given, memory=memory, jumps=jumps[:3])
        for f in range(3):
            for i in range(3):
                wanted = video.history(made[:, max(2 + f - memory, 0) : 2 + f], i, 3)
                clips = calls[3 * f + i][-1]
                assert [c.shape for c in clips] == [c.shape for c in wanted] and all(
                    torch.allclose(a, b) for a, b in zip(clips, wanted)
                ), f"Frame {2 + f}, {hint}"
    hint = "All frames given, none to make."
    close(run(hint, net, noise[:, :2], found, 1, given), given, hint)
    for call, what in (
        (lambda: rollout(net, noise[:, 0], found, 1), "Noise of one image"),
        (lambda: rollout(net, noise[:, :1], found, 1, given), "More given frames than noises"),
        (lambda: rollout(net, noise, found, 1, given[:1]), "One given video for three noises"),
        (lambda: rollout(net, noise, found, 1, given[..., :4]), "Given frames of another size"),
        (lambda: rollout(net, noise, found, 1, given, guidance=(1.0, 2.0)), "Guidance without unconditional"),
        (lambda: rollout(net, noise, found, 1, given, memory=0), "A memory of no frame"),
        (
            lambda: rollout(net, noise, found, 1, given, jumps=jumps),
            "Noises for five frames when three are made",
        ),
    ):
        refuses(call, f"{what} must be refused.")
