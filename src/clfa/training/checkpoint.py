"""Training state on disk: safetensors and JSON only, written whole or not at all, verified before it is believed.

A checkpoint is a folder `checkpoints/step-<optimizer steps>` (`.01`, `.02` … behind it for further ones of the same step):

    model.safetensors      the trained weights and all buffers; frozen encoders are left out, they do not change
    best.safetensors       the same as they were in the best epoch so far (a link to the file of the checkpoint before)
    average.safetensors    the moving averages of the weights, if there are any
    optimizer.safetensors  the moments
    random.safetensors     the random generators
    progress.json          where the loop stands
    manifest.json          size and sha256 of each file, and the version of this layout

It is written under another name, synced, read again, and then renamed: best and last change in one step. The checkpoint
before it is kept, and taken where the newest is no longer what was written.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clfa.data.seal import problem_of, seal
from clfa.errors import UserError
from clfa.training.sharded import all_put_together, share_of

KEPT = 2
"""Checkpoints that stay."""
BEST, PARTIAL = "best.safetensors", "partial"

log = logging.getLogger(__name__)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained and all buffers; frozen encoders are left out, they do not change."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value.detach() for name, value in model.state_dict().items() if name not in frozen}


def save_best(folder: Path, model: nn.Module, leads: bool = True) -> None:
    """Write the current weights to where the next `save_checkpoint` takes them from, as those of the best epoch.

    Of several processes the one that `leads` writes, and the others give their shares of what is spread over all.
    """
    tensors = all_put_together(trained_state(model), leads)
    if not leads:
        return
    with _room_for(folder, tensors):
        _clear(folder / PARTIAL)
        (folder / PARTIAL).mkdir(parents=True)
        save_file(tensors, folder / PARTIAL / BEST)


def load_best(folder: Path, model: nn.Module) -> None:
    """The weights of the best epoch, from the newest checkpoint; frozen encoders are as they were.

    Raises:
        UserError: no checkpoint is whole.
    """
    newest = newest_whole(folder)
    if newest is None or not (newest / BEST).is_file():
        raise UserError(f"{folder} holds no weights of a best epoch: delete it to train again")
    _load(model, newest / BEST)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    average: Mapping[str, Tensor],
    leads: bool = True,
) -> None:
    """Add a checkpoint of the current state (`progress["step"]` names it), and remove all but the newest `KEPT`.

    Of several processes the one that `leads` writes, and the others give their shares of what is spread over all.

    Raises:
        UserError: the disk is full; the checkpoint before is as it was.
    """
    partial = folder / PARTIAL
    moments = {
        f"{number}.{name}": value.detach()
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    parts = {"model": trained_state(model), "optimizer": moments, "average": average}
    files = {name: all_put_together(tensors, leads) for name, tensors in parts.items() if tensors or name != "average"}
    files["random"] = random
    if not leads:
        return
    with _room_for(folder, *files.values()):
        partial.mkdir(parents=True, exist_ok=True)  # with the best weights, if this is the best epoch
        if not (partial / BEST).is_file() and (before := _checkpoints(folder)):
            _link(before[0] / BEST, partial / BEST)
        for name, tensors in files.items():
            save_file(tensors, partial / f"{name}.safetensors")
        (partial / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
        seal(partial, list(partial.iterdir()))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        if problem := problem_of(partial, alone=True):
            raise OSError(f"{partial} was not written as it should be: {problem}")
        os.replace(partial, _free_name(folder, progress["step"]))
        _sync(folder)
    for old in _checkpoints(folder)[KEPT:]:
        _clear(old)


def clear_checkpoints(folder: Path) -> None:
    """Remove all of a finished run, when what lies beside them has come to the disk: with the moments of its optimizer they
    are several times as large as its model."""
    if folder.exists():
        for path in (folder.parent, *folder.parent.rglob("*")):
            if folder not in (path, *path.parents):
                _sync(path)
        _clear(folder)


def _free_name(folder: Path, step: int) -> Path:
    """The next checkpoint of this step: a validation that was interrupted has one before its end, too. A damaged one, which
    was refused when this run went on from an earlier one, makes room; a whole one never does."""
    name = f"step-{step:08d}"
    for path in _checkpoints(folder):
        if path.stem == name and problem_of(path, alone=True):
            _clear(path)
        elif path.stem == name:
            return folder / f"{name}.{int(path.suffix[1:] or 0) + 1:02d}"
    return folder / name


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], leads: bool = True
) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint, and return its `progress`; `None` if there is none yet.

    Of several processes the one that `leads` removes what a killed one has begun to write.

    Raises:
        UserError: there are some, but none is whole, or it is not of this model.
    """
    if leads:
        _clear(folder / PARTIAL)
    newest = newest_whole(folder)
    if newest is None:
        return None
    _load(model, newest / "model.safetensors")
    if average:
        saved = load_file(newest / "average.safetensors")
        _same_names(saved, average, newest / "average.safetensors")
        for name, value in average.items():
            value.copy_(share_of(saved[name], value))
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in load_file(newest / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        of = parameters[int(number)] if int(number) < len(parameters) else value
        state.setdefault(int(number), {})[name] = share_of(value, of) if value.shape == of.shape else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for (
        parameter,
        moments,
    ) in optimizer.state.items():  # in the layout of their weights, as they were before they were saved
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter).copy_(value)
    random = load_file(newest / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return json.loads((newest / "progress.json").read_text(encoding="utf-8"))


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is what was written, a warning for each that is not; `None` if there are none at all.

    Raises:
        UserError: none of them is.
    """
    problems = {}
    for path in _checkpoints(folder):
        problem = problem_of(path, alone=True)
        if not problem:
            return path
        problems[path] = problem
        log.warning("%s is damaged (%s): the checkpoint before it is taken", path, problem)
    if problems:
        raise UserError(
            f"no checkpoint in {folder} is whole: {'; '.join(f'{path.name}: {text}' for path, text in problems.items())}. "
            "Restore one, or delete the folder to train from the start"
        )
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir() and not path.is_symlink()), reverse=True)


def _load(model: nn.Module, path: Path) -> None:
    """Trained weights, all of them and no others."""
    saved, own = load_file(path), trained_state(model)
    _same_names(saved, own, path)
    try:
        shares = {name: share_of(value, own[name]) for name, value in saved.items()}
        model.load_state_dict(shares, strict=False)  # frozen ones are not in it
    except RuntimeError as error:
        raise UserError(f"{path} is not of this model: {str(error).splitlines()[-1].strip()}") from None


def _same_names(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    differ = sorted(saved.keys() ^ expected.keys())
    if differ:
        raise UserError(f"{path} is not of this model: {', '.join(differ[:3])}{' …' if len(differ) > 3 else ''} differ")


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    if source.is_file():
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _room_for(folder: Path, *tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Whatever goes wrong in this block leaves nothing half written; a full disk is said with its numbers."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if not (isinstance(error, OSError | SafetensorError) and full):
            raise
        needed = sum(value.nbytes for each in tensors for value in each.values())
        free = shutil.disk_usage(folder).free
        raise UserError(
            f"{folder}: the disk is full: this needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free. What was saved "
            "before is whole: make room, and go on with --resume"
        ) from None
