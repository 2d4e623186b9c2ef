"""Checkpoints: files that are whole or refused.

A checkpoint is what torch.save writes, a zip archive, with the SHA-256 of its bytes as the archive's comment.
So torch.load reads it, and one flipped bit is noticed. It is written under another name and then renamed: at
every moment its own name stands for the old file or for the new one, whole.
"""

import contextlib
import hashlib
import io
import os
import uuid
from pathlib import Path

import torch

from minidistill import need


def save_atomically(content: dict, path: str | Path) -> None:
    """torch.save with a checksum."""
    archive = io.BytesIO()
    torch.save(content, archive)
    write_atomically(sealed(archive.getvalue()), path)


def write_atomically(content: bytes, path: str | Path) -> None:
    """Writes a file such that neither a full disk nor another process leaves half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # when something failed


def sealed(archive: bytes) -> bytes:
    """The archive with its comment: the last two bytes are the length of that, 0 before."""
    seal = hashlib.sha256(archive).hexdigest().encode()
    return archive[:-2] + len(seal).to_bytes(2, "little") + seal


def unsealed(content: bytes) -> bytes:
    """The archive without its seal. Raises ValueError unless the seal is there and right."""
    archive = content[:-66] + bytes(2)
    if sealed(archive) != content:
        raise ValueError("its checksum is missing or wrong: it is damaged, or another version wrote it")
    return archive


def load(path: str | Path, state: dict, run: dict | None = None) -> int:
    """Fill the parts of `state` (modules, optimizers) from a checkpoint and return the step it was saved at.

    Raises ValueError for a file that is not a whole checkpoint, that lacks a part, or that belongs to a run
    with other parts or settings than `run`.
    """
    content = Path(path).read_bytes()
    try:
        saved = torch.load(io.BytesIO(unsealed(content)), weights_only=True, map_location="cpu")
        saved_run, step = dict(saved["run"]), need.whole("step", saved["step"], 0)
    except Exception as error:  # a broken file fails in many ways: zip, pickle, missing keys
        raise ValueError(
            f"{path} is not a whole checkpoint of this program ({error}); move it away, or delete it, to "
            "train this part anew"
        ) from error
    parts = {name: part for name, part in saved.items() if name not in ("run", "step")}
    if not state.keys() <= parts.keys() or (run is not None and state.keys() != parts.keys()):
        raise ValueError(
            f"{path} is a whole checkpoint, but of {', '.join(parts)}, and {', '.join(state)} is asked for: "
            "train with those parts, or choose another file"
        )
    if run is not None and saved_run != run:
        keys = [k for k in {**run, **saved_run} if saved_run.get(k) != run.get(k)]
        changed = ", ".join(f"{k} {saved_run.get(k)} (now {run.get(k)})" for k in keys)
        raise ValueError(
            f"{path} belongs to a run with other settings: {changed}. Use those, or another file"
        )
    try:
        for name, part in state.items():
            part.load_state_dict(parts[name])
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} does not fit this network: {error}") from error
    return step
