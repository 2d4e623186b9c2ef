"""The figures that more than one notebook draws."""

import io

import matplotlib.pyplot as plt
import torch
from einops import rearrange
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from minidistill import need
from minidistill.need import Whole


def image_rows(rows: dict[str, Tensor], columns: Whole = 10, title: str = "") -> Figure:
    """A labelled row of the first `columns` images for each name -> (n, 1, height, width) in [-1, 1]."""
    for name, images in rows.items():
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(
                f"need grey images (n, 1, height, width), got {tuple(images.shape)} for {name!r}"
            )
    columns = need.whole("columns", columns)
    figure, axes = plt.subplots(
        len(rows),
        1,
        figsize=(6.5, 5.5 / columns * len(rows) + 0.4 * bool(title)),
        squeeze=False,
        layout="constrained",
    )
    for axis, (name, images) in zip(axes[:, 0], rows.items()):
        # a line of background between neighbours
        framed = torch.nn.functional.pad(images[:columns].detach().float().cpu(), (0, 1), value=1.0)
        strip = rearrange(framed, "n 1 h w -> h (n w)")[:, :-1].numpy()
        axis.imshow(strip, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="equal")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def png(figure: Figure, dpi: Whole = 150) -> bytes:
    """The figure as a file, and closed."""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=need.whole("dpi", dpi), bbox_inches="tight")
    plt.close(figure)
    return picture.getvalue()


def animation(
    rows: dict[str, Tensor], columns: Whole = 10, title: str = "", seconds: float = 0.25, dpi: int = 80
) -> bytes:
    """A GIF of `image_rows`, frame by frame, for each name -> (n, frames, 1, height, width)."""
    pictures = []
    for frame in range(min(videos.shape[1] for videos in rows.values())):
        figure = image_rows(
            {name: videos[:, frame] for name, videos in rows.items()},
            columns,
            f"{title} frame {frame + 1}".strip(),
        )
        figure.get_layout_engine().set(w_pad=0.1)  # room for the names on the left
        page = io.BytesIO()
        figure.savefig(page, dpi=dpi)
        plt.close(figure)
        pictures.append(Image.open(page).convert("L"))
    film = io.BytesIO()
    options = {"append_images": pictures[1:], "duration": round(1000 * seconds), "loop": 0}
    pictures[0].save(film, format="GIF", save_all=True, **options)
    return film.getvalue()
