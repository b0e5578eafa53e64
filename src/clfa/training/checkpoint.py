"""Training state on disk: safetensors and JSON only, written whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clfa.data.atomic import replacing


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained and all buffers; frozen encoders are left out, they do not change."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value.detach().contiguous() for name, value in model.state_dict().items() if name not in frozen}


def save_best(folder: Path, model: nn.Module) -> None:
    """Replace `folder/best.safetensors` by the current weights."""
    with replacing(folder / "best.safetensors") as partial:
        save_file(trained_state(model), partial)


def load_best(folder: Path, model: nn.Module) -> None:
    """Restore what `save_best` wrote; frozen encoders are as they were."""
    model.load_state_dict(load_file(folder / "best.safetensors"), strict=False)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    average: dict[str, Tensor],
) -> None:
    """Replace `folder/last` by the current state: weights, their averages (if there are any), optimizer moments, random
    generators, `progress`."""
    partial = folder / "last.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(trained_state(model), partial / "model.safetensors")
    if average:
        save_file({name: value.contiguous() for name, value in average.items()}, partial / "average.safetensors")
    moments = {
        f"{number}.{name}": value.detach().contiguous()
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    save_file(moments, partial / "optimizer.safetensors")
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    save_file(random, partial / "random.safetensors")
    (partial / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    for path in partial.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    old = folder / "last.old"
    shutil.rmtree(old, ignore_errors=True)
    if (folder / "last").exists():
        os.replace(folder / "last", old)
    os.replace(partial, folder / "last")
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote and return its `progress`; `None` if there is no checkpoint yet."""
    last = next((path for path in (folder / "last", folder / "last.old") if path.is_dir()), None)
    if last is None:
        return None
    model.load_state_dict(load_file(last / "model.safetensors"), strict=False)
    if average:
        saved = load_file(last / "average.safetensors")
        for name, value in average.items():
            value.copy_(saved[name])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(last / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    random = load_file(last / "random.safetensors")
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return json.loads((last / "progress.json").read_text(encoding="utf-8"))
