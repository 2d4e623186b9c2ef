"""Data: 2-D toy sets, the bundled 8x8 digits, videos, and MNIST and Fashion-MNIST from their IDX files.

Images are float32 in [-1, 1], shape (n, 1, height, width), with labels (n,); videos (n, frames, 1, height,
width). Only MNIST and Fashion-MNIST need a network, once. They are looked for in the folder you give, then in
the cache (~/.cache/minidistill, or $MINIDISTILL_CACHE), then downloaded from one mirror after the other. What
is read is always checked first. All data is made on the processor: .to(device) moves it.

LeCun et al. (1998); Xiao, Rasul & Vollgraf (2017); 8x8 digits: Alpaydin & Kaynak (1998), in scikit-learn.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import math
import os
import urllib.request
import warnings
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minidistill import need
from minidistill.need import SEEDS, Number, Whole


def on_the_processor(make: Callable) -> Callable:
    """Random numbers are drawn there, also where another device is torch's default."""

    @functools.wraps(make)
    def made(*args, **kwargs):
        with torch.device("cpu"):
            return make(*args, **kwargs)

    return made


@on_the_processor
def points(name: str, n: Whole, seed: Whole = 0) -> Tensor:
    """n points (n, 2), of mean 0 and variance 1: "moons", "circles", "checkerboard" or "spiral"."""
    from sklearn import datasets  # a slow import, so only where it is needed

    n, seed = need.whole("n", n, 2, why=" (one point has no variance)"), need.whole("seed", seed, 0, SEEDS)
    generator = torch.Generator().manual_seed(seed)
    match name:
        case "moons":
            x = torch.tensor(datasets.make_moons(n, noise=0.05, random_state=seed)[0])
        case "circles":
            x = torch.tensor(datasets.make_circles(n, noise=0.03, factor=0.5, random_state=seed)[0])
        case "checkerboard":
            column = torch.randint(4, (n,), generator=generator)
            row = torch.randint(2, (n,), generator=generator)
            cell = torch.stack([column, 2 * row + column % 2], dim=1)
            x = cell + torch.rand(n, 2, generator=generator)
        case "spiral":
            angle = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
            arm = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None]
            x = arm + 0.2 * torch.randn(n, 2, generator=generator)
        case _:
            raise ValueError(f'name must be "moons", "circles", "checkerboard" or "spiral", got {name!r}')
    x = x - x.mean(0)
    return (x / x.std()).float()


@on_the_processor
def digits(split: str = "all", seed: Whole = 0) -> tuple[Tensor, Tensor]:
    """The 1797 handwritten 8x8 digits of scikit-learn: images (n, 1, 8, 8) and labels (n,).

    split: "all", or "train" (four fifths) and "test" (the rest) of a shuffle by `seed`.
    """
    from sklearn.datasets import load_digits

    seed = need.whole("seed", seed, 0, SEEDS)
    raw = load_digits()
    x = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(raw.target, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    cut = len(x) * 4 // 5
    match split:
        case "all":
            return x, y
        case "train":
            return x[order[:cut]], y[order[:cut]]
        case "test":
            return x[order[cut:]], y[order[cut:]]
    raise ValueError(f'split must be "all", "train" or "test", got {split!r}')


# MNIST and Fashion-MNIST

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
# SHA-256 of the content, uncompressed: mirrors compress the same bytes in different ways
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# Fashion-MNIST's authors publish the MD5 of the .gz files instead
FASHION_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
LARGEST = 50_000_000  # bytes: more than the largest of these files, and all that is ever read of one


def enlarge(x: Tensor) -> Tensor:
    """8x8 images in [-1, 1] at 16x16: bicubic, then a sigmoid that gives the strokes an edge again."""
    need.samples(images=x)
    if x.ndim != 4:
        raise ValueError(f"need images (n, c, height, width), got {tuple(x.shape)}")
    larger = torch.nn.functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    return torch.tanh(3 * (larger + 0.1))


# videos: things that move at a constant speed and bounce off the walls


def bounce(start: Tensor, velocity: Tensor, frames: int, low: float, high: float) -> Tensor:
    """Positions (n, frames, 2) of points that start at (n, 2) and move by (n, 2) a frame, low to high."""
    path = start[:, None] + velocity[:, None] * torch.arange(frames)[:, None] - low
    return high - (path % (2 * (high - low)) - (high - low)).abs()  # there and back again


def moving(
    n: Whole,
    frames: Whole,
    side: Whole,
    margin: Number,
    speed: Number,
    angle: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """How far the rows and the columns of each frame are from the centre of what moves: (n, frames, side)."""
    n, frames, side = need.whole("n", n), need.whole("frames", frames), need.whole("side", side)
    speed = need.number("speed", speed, least=0)
    margin = need.number(
        "the radius", margin, least=0, below=(side - 1) / 2, why=f", to move in a side of {side}"
    )
    low, high = margin, side - 1 - margin
    start = low + (high - low) * torch.rand(n, 2, generator=generator)
    velocity = speed * torch.stack([angle.sin(), angle.cos()], dim=1)  # rows go down, columns right
    centre = bounce(start, velocity, frames, low, high)
    row, column = (torch.arange(side) - centre[..., axis, None] for axis in (0, 1))
    return row, column


@on_the_processor
def bouncing_ball(
    n: Whole, frames: Whole = 8, side: Whole = 16, speed: Number = 1.5, radius: Number = 2.0, seed: Whole = 0
) -> tuple[Tensor, Tensor]:
    """n videos (n, frames, 1, side, side) of a white ball on black, and labels (n,): its direction at first.

    There are eight, 45 degrees apart, from 0, "right", by way of 2, "down". speed in pixels per frame; the
    ball starts anywhere, and its edge is two pixels wide, so that its place is a continuous number.
    """
    generator = torch.Generator().manual_seed(need.whole("seed", seed, 0, SEEDS))
    label = torch.randint(8, (need.whole("n", n),), generator=generator)
    row, column = moving(n, frames, side, radius, speed, label * math.pi / 4, generator)
    distance = (row[..., :, None].square() + column[..., None, :].square()).sqrt()
    return (radius + 0.5 - distance).clamp(-1, 1)[:, :, None], label


@on_the_processor
def moving_digits(
    n: Whole, frames: Whole = 8, side: Whole = 16, speed: Number = 1.0, split: str = "all", seed: Whole = 0
) -> tuple[Tensor, Tensor]:
    """n videos (n, frames, 1, side, side) of 8x8 digits that move in any direction, and their labels (n,)."""
    generator = torch.Generator().manual_seed(need.whole("seed", seed, 0, SEEDS))
    images, labels = digits(split)
    chosen = torch.randint(len(images), (need.whole("n", n),), generator=generator)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    row, column = moving(n, frames, side, 3.5, speed, angle, generator)
    # each pixel asks the image at its own place, bilinear; black is 0 there, as outside
    place = torch.stack(torch.broadcast_tensors(column[..., None, :], row[..., :, None]), dim=-1) / 4
    still = images[chosen].repeat_interleave(frames, dim=0) + 1
    video = torch.nn.functional.grid_sample(still, place.flatten(0, 1), align_corners=False) - 1
    return video.unflatten(0, (n, frames)), labels[chosen]


def mnist(split: str = "train", folder: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """MNIST: 60000 "train" or 10000 "test" images (n, 1, 28, 28) and labels (n,).

    Raises FileNotFoundError when the files are not in `folder`, or cannot be downloaded when there is none,
    and ValueError when a file is corrupt.
    """
    return read_pair("mnist", split, folder)


def fashion_mnist(split: str = "train", folder: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Fashion-MNIST: like `mnist`, of ten kinds of clothes; only the authors' own .gz files are accepted."""
    return read_pair("fashion_mnist", split, folder)


def read_pair(name: str, split: str, folder: str | Path | None) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] and labels of one split."""
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    prefix = {"train": "train", "test": "t10k"}[split]
    x = idx(find(name, f"{prefix}-images-idx3-ubyte", folder), 3)
    y = idx(find(name, f"{prefix}-labels-idx1-ubyte", folder), 1)
    if len(x) != len(y):
        raise ValueError(
            f"{name} has {len(x)} {split} images but {len(y)} labels: are the files from one data set?"
        )
    return x[:, None].float() / 127.5 - 1, y.long()


def find(name: str, file: str, folder: str | Path | None) -> bytes:
    """The checked content of one IDX file: from the folder given, else the cache, else a mirror."""
    cache = Path(os.environ.get("MINIDISTILL_CACHE", Path.home() / ".cache" / "minidistill")) / name
    for place in [Path(folder)] if folder is not None else [cache]:
        for path in (place / f"{file}.gz", place / file):
            if path.exists():
                with open(path, "rb") as stream:
                    return checked(name, file, stream.read(LARGEST), path)
    if folder is not None:
        raise FileNotFoundError(f"there is no {file} or {file}.gz in {folder}")

    problems = []
    for mirror in MNIST_MIRRORS if name == "mnist" else FASHION_MIRRORS:
        try:
            raw = download(f"{mirror}{file}.gz")
            content = checked(name, file, raw, mirror)
        except (OSError, HTTPException, ValueError) as problem:  # no network or answer; cut off; corrupt
            problems.append(f"  {mirror}: {problem}")
            continue
        partial = cache / f"{file}.gz.{os.getpid()}.partial"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(raw)
            os.replace(partial, cache / f"{file}.gz")  # the cache holds whole files only
        except OSError as problem:  # what was downloaded is good all the same
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            warnings.warn(f"{file} was downloaded but cannot be kept in {cache}: {problem}", stacklevel=2)
        return content
    raise FileNotFoundError(
        f"could not download {file}:\n" + "\n".join(problems) + "\n"
        f"Without a network, copy {file}.gz to {cache}, or give the folder that holds it."
    )


def download(url: str) -> bytes:
    """The content behind the url, with a progress bar."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        size = int(answer.headers.get("Content-Length", 0)) or None
        with tqdm.wrapattr(answer, "read", total=size, desc=url.rsplit("/", 1)[1], leave=False) as body:
            return body.read(LARGEST)


def checked(name: str, file: str, raw: bytes, where: str | Path) -> bytes:
    """The content of a file, uncompressed. Raises ValueError unless its checksum is the published one."""
    repair = f"{where}: {file} is corrupt or not {name}'s; delete it and try again"
    try:
        # a small file can grow to gigabytes
        zipped = raw[:2] == b"\x1f\x8b"
        content = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(LARGEST) if zipped else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{repair} ({error})") from error
    if name == "mnist":
        good = hashlib.sha256(content).hexdigest() == MNIST_SHA256[file]
    else:
        good = hashlib.md5(raw, usedforsecurity=False).hexdigest() == FASHION_MD5[file]
    if not good:
        raise ValueError(f"{repair} (the checksum is wrong)")
    return content


def idx(content: bytes, axes: int) -> Tensor:
    """The array in an IDX file: two zeros, the type (8: byte), the number of axes, their sizes, the bytes."""
    header = 4 + 4 * axes
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) != header + math.prod(shape):
        raise ValueError(f"this is not an IDX file of bytes with {axes} axes")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)
