import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from minidistill import data
from minidistill.jobs.video import directions
from minidistill.metrics import centre_of_brightness

IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes([0, 255, 51, 102, 153, 204] * 2)
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3])
FILES = {"train-images-idx3-ubyte": IMAGES, "train-labels-idx1-ubyte": LABELS}


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    """A data set of two images: its checksums, an empty cache, and no mirrors."""
    monkeypatch.setattr(
        data, "MNIST_SHA256", {f: hashlib.sha256(content).hexdigest() for f, content in FILES.items()}
    )
    monkeypatch.setattr(data, "MNIST_MIRRORS", ())
    monkeypatch.setenv("MINIDISTILL_CACHE", str(tmp_path / "cache"))


def fill(folder, compress=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in FILES.items():
        if compress:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def server(tmp_path):
    """A mirror on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = fill(tmp_path / "mirror")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", folder
        http.shutdown()


@pytest.mark.parametrize("compress", [True, False])
def test_a_folder_given(tiny_mnist, tmp_path, compress):
    x, y = data.mnist("train", fill(tmp_path / "mine", compress))
    assert (
        x.shape == (2, 1, 2, 3)
        and x.dtype == torch.float32
        and y.tolist() == [7, 3]
        and y.dtype == torch.long
    )
    torch.testing.assert_close(x[0, 0], torch.tensor([[-1.0, 1.0, -0.6], [-0.2, 0.2, 0.6]]))


def test_the_cache(tiny_mnist, tmp_path):
    fill(tmp_path / "cache" / "mnist")
    assert len(data.mnist("train")[0]) == 2


def test_download_from_the_second_mirror_fills_the_cache(tiny_mnist, tmp_path, monkeypatch, server):
    url, _ = server
    monkeypatch.setattr(data, "MNIST_MIRRORS", ("http://127.0.0.1:9/", url + "nothing-here/", url))
    x, _ = data.mnist("train")
    assert len(x) == 2
    assert sorted(p.name for p in (tmp_path / "cache" / "mnist").iterdir()) == sorted(
        f"{f}.gz" for f in FILES
    )
    monkeypatch.setattr(data, "MNIST_MIRRORS", ())
    torch.testing.assert_close(data.mnist("train")[0], x)  # from the cache, without a network


def test_a_bad_mirror_is_passed_over_and_never_cached(tiny_mnist, tmp_path, monkeypatch, server):
    url, folder = server
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(IMAGES[:-1] + b"!"))
    monkeypatch.setattr(data, "MNIST_MIRRORS", (url,))
    with pytest.raises(FileNotFoundError, match="checksum is wrong"):
        data.mnist("train")
    assert not (tmp_path / "cache").exists()


def test_offline_says_what_to_do(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MNIST_MIRRORS", ("http://127.0.0.1:9/", "http://no-such-host.invalid/"))
    with pytest.raises(
        FileNotFoundError, match=r"(?s)127.0.0.1.*no-such-host.*copy train-images-idx3-ubyte.gz to .*cache"
    ):
        data.mnist("train")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", gzip.compress(IMAGES)[:-9], gzip.compress(IMAGES + b"!"), IMAGES[:-1]],
    ids=range(5),
)
def test_corrupt_files(tiny_mnist, tmp_path, content):
    folder = fill(tmp_path / "mine")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match="mine.*train-images-idx3-ubyte is corrupt.*delete it"):
        data.mnist("train", folder)


def test_missing_files(tiny_mnist, tmp_path):
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        data.mnist("train", tmp_path)
    with pytest.raises(ValueError, match='"train" or "test"'):
        data.mnist("valid")


def test_fashion_is_checked_by_the_authors_md5(monkeypatch, tmp_path):
    folder = fill(tmp_path / "fashion")
    raw = {f: (folder / f"{f}.gz").read_bytes() for f in FILES}
    with pytest.raises(ValueError, match="not fashion_mnist's"):
        data.fashion_mnist("train", folder)
    monkeypatch.setattr(data, "FASHION_MD5", {f: hashlib.md5(r).hexdigest() for f, r in raw.items()})
    assert data.fashion_mnist("train", folder)[1].tolist() == [7, 3]


def test_idx():
    with pytest.raises(ValueError, match="IDX file of bytes with 3 axes"):
        data.idx(LABELS, 3)
    with pytest.raises(ValueError, match="IDX"):
        data.idx(IMAGES + b"!", 3)
    with pytest.raises(ValueError, match="IDX"):
        data.idx(b"", 1)


def test_digits():
    x, y = data.digits()
    assert (
        x.shape == (1797, 1, 8, 8)
        and x.min() == -1
        and x.max() == 1
        and sorted(set(y.tolist())) == list(range(10))
    )
    train, test = data.digits("train"), data.digits("test")
    assert len(train[0]) == 1437 and len(test[0]) == 360
    both = torch.cat([train[0], test[0]]).flatten(1)
    torch.testing.assert_close(both.sum(0), x.flatten(1).sum(0))  # a partition
    assert torch.equal(data.digits("train")[0], train[0]) and not torch.equal(
        data.digits("train", seed=1)[0], train[0]
    )
    with pytest.raises(ValueError, match="split must be"):
        data.digits("valid")


@pytest.mark.parametrize("name", ["moons", "circles", "checkerboard", "spiral"])
def test_points(name):
    x = data.points(name, 1000)
    assert x.shape == (1000, 2) and x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert abs(x.std().item() - 1) < 1e-3
    assert torch.equal(x, data.points(name, 1000)) and not torch.equal(x, data.points(name, 1000, seed=1))


def test_points_unknown():
    with pytest.raises(ValueError, match="checkerboard"):
        data.points("square", 10)


def test_bounce_is_reflection_step_by_step():
    generator = torch.Generator().manual_seed(0)
    start, velocity = (
        2 + 11 * torch.rand(50, 2, generator=generator),
        4 * torch.randn(50, 2, generator=generator),
    )
    found = data.bounce(start, velocity, 12, 2.0, 13.0)
    place, v = start.clone(), velocity.clone()
    for frame in range(12):
        torch.testing.assert_close(found[:, frame], place, atol=1e-4, rtol=0)
        place = place + v
        while (outside := (place < 2) | (place > 13)).any():
            place = torch.where(place < 2, 4 - place, torch.where(place > 13, 26 - place, place))
            v = torch.where(outside, -v, v)


@pytest.mark.parametrize("make, margin", [(data.bouncing_ball, 2.0), (data.moving_digits, 3.5)])
def test_videos(make, margin):
    x, y = make(6, frames=9, side=20, speed=1.25)
    assert x.shape == (6, 9, 1, 20, 20) and x.dtype == torch.float32 and y.shape == (6,)
    assert x.min() == -1 and x.max() <= 1
    assert torch.equal(x, make(6, frames=9, side=20, speed=1.25)[0])
    assert not torch.equal(x, make(6, frames=9, side=20, speed=1.25, seed=1)[0])
    still = make(3, frames=4, speed=0.0)[0]
    assert torch.equal(still[:, 0], still[:, 3])
    for wrong, sentence in (
        ({"n": 0}, "n must be at least 1"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"side": 4}, "radius must be .* to move in a side of 4"),
        ({"speed": -1.0}, "speed must be at least 0"),
        ({"seed": -1}, "seed must be from 0 to 4294967295"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make(**{"n": 2} | wrong)


def test_the_ball_goes_where_its_label_says():
    x, y = data.bouncing_ball(200, frames=3, side=24, speed=1.5)
    place = centre_of_brightness(x[:, :, 0])
    step = place[:, 1] - place[:, 0]
    free = ((place > 5) & (place < 18)).all(2).all(1)  # far from every wall
    angle = y * torch.pi / 4
    wanted = 1.5 * torch.stack([angle.sin(), angle.cos()], dim=1)
    assert free.sum() > 50 and (step - wanted)[free].abs().max() < 0.05
    assert torch.equal(directions(x)[free], y[free])
    assert sorted(set(y.tolist())) == list(range(8))


def test_moving_digits_are_the_digits():
    """They keep their brightness, move at their speed, and carry their own label."""
    x, y = data.moving_digits(100, frames=4, side=24, speed=1.0, split="test")
    images, labels = data.digits("test")
    light = (x + 1).sum((2, 3, 4))
    torch.testing.assert_close(light, light[:, :1].expand_as(light), rtol=1e-4, atol=0)
    near = (light[:, :1] - (images + 1).sum((1, 2, 3))).abs() < 1e-2
    assert all((labels[same] == label).any() for same, label in zip(near, y))
    weight = (x + 1)[:, :, 0]
    place = (
        torch.stack([(weight.sum(2 + a) * torch.arange(24)).sum(-1) for a in (1, 0)], -1) / light[..., None]
    )
    middle = ((place > 8) & (place < 15)).all(2).all(1)
    step = (place[:, 1:] - place[:, :-1]).norm(dim=-1)[middle]
    assert len(step) > 10
    torch.testing.assert_close(step, torch.ones_like(step), atol=1e-3, rtol=0)


def test_a_small_file_that_grows_is_refused_without_growing(tiny_mnist, tmp_path, monkeypatch):
    """1.5 MB of gzip can hold gigabytes; no more than a real file is ever uncompressed."""
    monkeypatch.setattr(data, "LARGEST", 1000)
    read, original = [], gzip.GzipFile.read

    def counted(self, size=-1):
        answer = original(self, size)
        read.append(len(answer))
        return answer

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    folder = fill(tmp_path / "mine")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(ValueError, match="corrupt or not mnist's"):
        data.mnist("train", folder)
    assert max(read) == 1000


def test_a_download_is_used_when_the_cache_cannot_be_written(tiny_mnist, tmp_path, monkeypatch, server):
    url, _ = server
    monkeypatch.setattr(data, "MNIST_MIRRORS", (url,))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="was downloaded but cannot be kept"):
        assert len(data.mnist("train")[0]) == 2
