"""Training, as a story: set-up, loop, checkpoint, best epoch. `clfa train --config run.yaml`.

The epoch is chosen on validation; the test split is never opened here (`clfa evaluate RUN --split test` does that).
"""

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

import clfa
from clfa.config import RunConfig, load_config, save_config
from clfa.data.records import load_manifest
from clfa.data.splits import changed_splits, dataset_path, load_rows, source_splits
from clfa.errors import UserError
from clfa.losses import total_loss
from clfa.metrics import confusion, scores
from clfa.model.batch import Collator
from clfa.model.classifier import Classifier, build_classifier
from clfa.model.frozen import cache_states
from clfa.model.knowledge import with_graphs
from clfa.model.teacher import embed_dataset
from clfa.model.word_vectors import training_texts
from clfa.serving.predictor import compute_logits
from clfa.training.checkpoint import load_checkpoint, save_checkpoint, trained_state
from clfa.training.optimizer import learning_rate, parameter_groups
from clfa.training.sampler import LengthBuckets

Say = Callable[[str], None]


def train(config: RunConfig, resume: bool = False, say: Say = print) -> Path:
    """Train one run and write its run directory.

    Args:
        config: everything.
        resume: go on from the last checkpoint of `config.output`; the result is that of an uninterrupted run.
        say: where progress lines go.

    Returns:
        The run directory: `config.yaml`, `dataset.json` (the data it was made from), model files, `log.jsonl`,
        `metrics.json`, `environment.json`, `checkpoints/`.

    Raises:
        UserError: the output holds another run, data or teacher do not fit, or the loss is no longer finite.
    """
    run = Path(config.output)
    refuse_other_run(run, config)
    if (run / "metrics.json").is_file():
        say(f"{run}: already finished")
        return run
    if not resume and (run / "checkpoints").is_dir():
        raise UserError(f"{run} holds an unfinished run: add --resume to go on, or delete it")
    run.mkdir(parents=True, exist_ok=True)
    save_config(config, run / "config.yaml")

    set_seed(config.seed)
    AcceleratorState._reset_state()  # accelerate keeps the precision of the first run of a process otherwise
    accelerator = Accelerator(
        mixed_precision="bf16" if config.train.precision == "bf16" else "no",
        gradient_accumulation_steps=config.train.accumulation,
    )
    (run / "environment.json").write_text(json.dumps(_environment(accelerator), indent=1) + "\n", encoding="utf-8")

    dataset = dataset_path(config.data)
    manifest = load_manifest(dataset)
    labels = manifest["labels"]
    (run / "dataset.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    allowed = sorted(scores(np.eye(len(labels))))
    if config.train.monitor not in allowed:
        raise UserError(f"train.monitor = {config.train.monitor!r}: allowed are {', '.join(allowed)}")
    rows = load_rows(config.data, "train", config.seed)
    validation = load_rows(config.data, "validation")
    files = source_splits(config.data, ["train", "validation"])
    _check_modalities(config, rows)
    model_config = with_graphs(config.model, rows)
    for name, modality in model_config.modalities.items():
        if modality.graph:
            without = sum(not cell for cell in rows["dependencies"]) if modality.graph == "dependencies" else 0
            say(
                f"word graph of {name}: {modality.graph}"
                + (f"; {without:,} of {len(rows):,} training posts have none: neighbouring words" if without else "")
            )
    texts = {name: training_texts(rows, config.model, name) for name, m in config.model.modalities.items() if m.words}
    model = build_classifier(model_config, labels, manifest["text"], texts).to(accelerator.device)
    states = cache_states(model, dataset, files)
    teacher = _teacher_embeds(config, model, dataset, files)
    preparers = {name: model.encoders[m.shares or name].preparer for name, m in config.model.modalities.items()}
    evaluating = Collator(model_config.modalities, preparers, states)
    buckets = LengthBuckets([len(text or "") for text in rows["text"]], config.train.batch_size, config.seed)
    loader = DataLoader(
        rows,  # type: ignore[arg-type]  # a datasets.Dataset is a map-style dataset
        batch_sampler=buckets,
        collate_fn=Collator(model_config.modalities, preparers, states, teacher),
        num_workers=config.train.workers,
        generator=torch.Generator().manual_seed(config.seed),
    )

    optimizer = torch.optim.AdamW(parameter_groups(model, config.train), betas=(0.9, 0.999))
    class_weights = _class_weights(rows["label"], len(labels), config).to(accelerator.device)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    bare: Classifier = accelerator.unwrap_model(model)
    steps_per_epoch = math.ceil(len(loader) / config.train.accumulation)
    progress: dict[str, Any] = {"epoch": 0, "step": 0, "best": None, "best_epoch": 0, "seconds": 0.0, "log_bytes": 0}
    if resume:
        progress |= load_checkpoint(run / "checkpoints", bare, optimizer.optimizer) or {}
    log = _open_log(run / "log.jsonl", progress["log_bytes"])
    board = _tensorboard(run) if config.train.tensorboard else None
    say(_opening_line(bare, len(rows), len(validation), accelerator))

    for epoch in range(progress["epoch"], config.train.epochs):
        if epoch - progress["best_epoch"] >= config.train.patience and progress["best"] is not None:
            break
        started = time.monotonic()
        loader.set_epoch(epoch)  # the prepared loader keeps its own count, which would start at 0 after a resume
        model.train()
        totals: dict[str, float] = {}
        for batch in loader:
            with accelerator.accumulate(model):
                rate = learning_rate(progress["step"], steps_per_epoch * config.train.epochs, config.train)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                with accelerator.autocast():
                    output = model(batch)
                terms = total_loss(output, batch, config.loss, class_weights)
                if not torch.isfinite(terms["loss"]):
                    raise UserError(
                        f"the loss is {terms['loss'].item()} in epoch {epoch + 1}: lower train.head_learning_rate or "
                        "train.encoder_learning_rate, or use train.precision fp32"
                    )
                accelerator.backward(terms["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(bare.parameters(), config.train.clip)
                    progress["step"] += 1
                optimizer.step()
                optimizer.zero_grad()
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.item()
        seconds = time.monotonic() - started

        logits = compute_logits(bare, validation, evaluating, config.train.batch_size * 4)
        found = _validation_scores(logits, validation["label"], len(labels))
        progress |= {"epoch": epoch + 1, "seconds": progress["seconds"] + seconds}
        if progress["best"] is None or found[config.train.monitor] > progress["best"]:
            progress |= {"best": found[config.train.monitor], "best_epoch": epoch + 1}
            _save_best(run, bare, accelerator)
        line = {
            "epoch": epoch + 1,
            "step": progress["step"],
            **{name: value / len(loader) for name, value in totals.items()},
            "learning_rate": rate * config.train.head_learning_rate,
            "validation": found,
            "examples_per_second": len(rows) / seconds,
        }
        log.write(json.dumps(line) + "\n")
        log.flush()
        progress["log_bytes"] = log.tell()
        if board:
            for name, value in {**{k: v for k, v in line.items() if k != "validation"}, **found}.items():
                board.add_scalar(name, value, epoch + 1)
        if accelerator.is_main_process:
            save_checkpoint(run / "checkpoints", bare, optimizer.optimizer, progress)
        accelerator.wait_for_everyone()
        say(_progress_line(line, progress, config))

    log.close()
    if board:
        board.close()
    bare.load_state_dict(load_file(run / "checkpoints" / "best.safetensors"), strict=False)
    if accelerator.is_main_process:
        bare.save_pretrained(run)
        trained = {key: progress[key] for key in ("best_epoch", "epoch", "seconds")}
        trained |= {f"best_validation_{config.train.monitor}": progress["best"], "train_rows": len(rows)}
        (run / "metrics.json").write_text(json.dumps({"training": trained}, indent=1) + "\n", encoding="utf-8")
    accelerator.end_training()
    return run


def refuse_other_run(run: Path, config: RunConfig) -> None:
    """Nothing is trained into, or reported from, a run directory that was made with another configuration.

    Raises:
        UserError: `run` holds a run that has begun with other settings, or with other posts (they are named).
    """
    begun = (run / "metrics.json").is_file() or (run / "checkpoints").is_dir()
    if not begun or not (run / "config.yaml").is_file():
        return
    # what an older version did not know yet has its default
    old, new = (flatten(asdict(each)) for each in (load_config(RunConfig, run / "config.yaml"), config))
    changed = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name) and name != "output")
    if changed:
        raise UserError(
            f"{run} holds a run with another configuration ({', '.join(changed[:8])} differ): "
            "choose another output, or delete it"
        )
    other = changed_splits(run, config.data)
    if other:
        raise UserError(
            f"{run} was made from other posts ({', '.join(other)} of {config.data.path} changed since): restore them, "
            "choose another output, or delete the run"
        )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _environment(accelerator: Accelerator) -> dict[str, Any]:
    return {
        "clfa": clfa.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def _check_modalities(config: RunConfig, rows: Any) -> None:
    for name, modality in config.model.modalities.items():
        column = modality.column or name
        if column not in rows.column_names or all(value is None for value in rows[column]):
            raise UserError(
                f"no training post of {config.data.path} has a {column!r}: import it with the data set, name another "
                f"column with model.modalities.{name}.column, or take the modality {name!r} out"
            )


def _teacher_embeds(config: RunConfig, model: Classifier, dataset: Path, files: list[str]) -> dict:
    """modality -> cached teacher embeddings, for the aligned modalities; empty where nothing is aligned."""
    modalities, target = config.model.modalities, config.loss.alignment_target
    aligned = {name: m for name, m in modalities.items() if m.align}
    if config.loss.alignment_weight <= 0 or not aligned:
        return {}
    if target != "teacher":
        if not {"image", target} <= modalities.keys():
            raise UserError(
                f"loss.alignment_target = {target!r} needs the modalities image and {target}; "
                f"there are {', '.join(modalities)}"
            )
        return {}
    if not config.teacher:
        raise UserError(
            "loss.alignment_weight is above 0 but there is no teacher: give `teacher`, or set the weight to 0"
        )
    partial = [name for name, m in aligned.items() if m.part != "all"]
    if partial:
        raise UserError(
            f"the modality {partial[0]!r} is a part of a text: set model.modalities.{partial[0]}.align to false"
        )
    columns = tuple(m.column or name for name, m in aligned.items())
    cache, _ = embed_dataset(dataset, config.teacher, files, columns)
    width = cache.files[0].shape[1]
    if width != config.model.dim:
        raise UserError(
            f"the teacher {config.teacher!r} has {width} dimensions, model.dim is {config.model.dim}: "
            f"set model.dim to {width}"
        )
    return dict.fromkeys(aligned, cache)


def _class_weights(labels, classes: int, config: RunConfig) -> Tensor:
    if config.loss.class_weights == "none":
        return torch.ones(classes)
    counts = np.bincount(np.array(labels), minlength=classes).clip(min=1)
    return torch.tensor(counts.sum() / (classes * counts), dtype=torch.float32)


def _open_log(path: Path, keep: int):
    """The log, cut to what the checkpoint knows: lines written after it are written again."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # the caller closes it
    file.truncate(keep)
    return file


def _tensorboard(run: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("train.tensorboard needs TensorBoard: pip install 'clfa[track]'") from None
    return SummaryWriter(run / "tensorboard")


def _opening_line(model: Classifier, rows: int, validation: int, accelerator: Accelerator) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return (
        f"{rows:,} posts to train on, {validation:,} to validate; {trained / 1e6:.1f} M of {total / 1e6:.1f} M "
        f"parameters trained on {accelerator.device}"
    )


def _progress_line(line: dict[str, Any], progress: dict[str, Any], config: RunConfig) -> str:
    left = progress["seconds"] / progress["epoch"] * (config.train.epochs - progress["epoch"])
    star = " *" if progress["best_epoch"] == progress["epoch"] else ""
    return (
        f"epoch {line['epoch']:>2}/{config.train.epochs}  loss {line['loss']:.3f}  validation {config.train.monitor} "
        f"{line['validation'][config.train.monitor]:.3f}{star}  {line['examples_per_second']:.0f} posts/s  "
        f"at most {left / 60:.1f} min left"
    )


def _validation_scores(logits: Tensor, labels, classes: int) -> dict[str, float]:
    matrix = confusion(np.array(labels), logits.argmax(1).numpy(), classes)
    return {name: float(value) for name, value in scores(matrix).items()}


def _save_best(run: Path, model: Classifier, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        (run / "checkpoints").mkdir(exist_ok=True)
        partial = run / "checkpoints" / "best.partial"
        save_file(trained_state(model), partial)
        partial.replace(run / "checkpoints" / "best.safetensors")
