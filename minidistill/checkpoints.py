"""Checkpoints: files that are whole or refused.

A checkpoint is what torch.save writes, a zip archive, with the SHA-256 of its bytes as the archive's comment.
So torch.load reads it, and one flipped bit is noticed. It is written under another name and then renamed: at
every moment its own name stands for the old file or for the new one, whole.
"""

import contextlib
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from minidistill import need


def archive(content: dict) -> bytes:
    """What torch.save writes, with a checksum."""
    file = io.BytesIO()
    torch.save(content, file)
    return sealed(file.getvalue())


def save_atomically(content: dict, path: str | Path) -> None:
    """torch.save with a checksum, whole or not at all."""
    write_atomically(archive(content), path)


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


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """No other run can write to the folder meanwhile. Raises ValueError when one does."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "running.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another run is writing to {folder}: wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)  # while it is held: nobody waits for it
        lock.release()


def refuse_another_run(folder: Path, now: dict, resume: bool) -> None:
    """Raises ValueError when the folder holds a run, unless it has the settings of now, and to resume it."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: choose a folder")
    path = folder / "settings.json"
    if not path.exists():
        return
    if not resume:
        raise ValueError(
            f"{folder} already holds a run: add --resume to continue it, or choose another --out"
        )
    try:
        saved = dict(json.loads(path.read_text()).items())
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); choose another --out") from error
    option = {name: f"--{name}" for name in now} | {"processes": "processes", "method": "method"}
    changed = [f"{option[k]} {saved.get(k)}, now {now[k]}" for k in now if saved.get(k) != now[k]]
    if changed:
        raise ValueError(
            f"{folder} holds a run with {'; '.join(changed)}: use its settings, or another --out"
        )


def sealed(content: bytes) -> bytes:
    """The archive with its comment: the last two bytes are the length of that, 0 before."""
    seal = hashlib.sha256(content).hexdigest().encode()
    return content[:-2] + len(seal).to_bytes(2, "little") + seal


def unsealed(content: bytes) -> bytes:
    """The archive without its seal. Raises ValueError unless the seal is there and right."""
    plain = content[:-66] + bytes(2)
    if sealed(plain) != content:
        raise ValueError("its checksum is missing or wrong: it is damaged, or another version wrote it")
    return plain


def read(path: str | Path) -> dict:
    """What is in a checkpoint: its parts, "run", the settings, and "step".

    Raises ValueError for a file that is not a whole checkpoint.
    """
    content = Path(path).read_bytes()
    try:
        saved = torch.load(io.BytesIO(unsealed(content)), weights_only=True, map_location="cpu")
        return saved | {"run": dict(saved["run"]), "step": need.whole("step", saved["step"], 0)}
    except Exception as error:  # a broken file fails in many ways: zip, pickle, missing keys
        raise ValueError(
            f"{path} is not a whole checkpoint of this program ({error}); move it away, or delete it, to "
            "train this part anew"
        ) from error


def load(path: str | Path, state: dict, run: dict | None = None) -> int:
    """Fill the parts of `state` (modules, optimizers) from a checkpoint and return the step it was saved at.

    Raises ValueError for a file that is not a whole checkpoint, that lacks a part, or that belongs to a run
    with other parts or settings than `run`.
    """
    saved = read(path)
    saved_run, step = saved["run"], saved["step"]
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
