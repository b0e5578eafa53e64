"""Training and inference of the paper's full-size model against a plain Hugging Face loop, in one run, on a CPU or a GPU.

    python benchmarks/train.py --batch 128 --precision bf16 --workers 12 --out /somewhere/with/3/GB

BERT-base, ViT-B/32 and three layers of cross-attention (configs of `clfa.yaml`, random weights), texts with the lengths of
MMSD's, JPEG files of 500 x 375. `plain` is the same network in the loop that one writes first: each text padded to 77
tokens, each image read and prepared in the process that trains, AdamW as it comes. `ours` is an epoch of `clfa train`.
Both see the same posts; epochs alternate. `step` is the same without preparing: batches that lie in the device's memory.
The share of the peak is counted FLOPs (matrix products and attention, forward and backward) through the time of a step
through the rate of one large matrix product, measured beside it.
"""

import argparse
import io
import json
import math
import platform
import shutil
import statistics
import time
from contextlib import nullcontext
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from clfa.config import RunConfig, build_config, override
from clfa.data.records import Record
from clfa.data.writing import write_dataset
from clfa.model.batch import Batch, Inputs
from clfa.studies.tiny import word_tokenizer, write_encoder
from clfa.training import train as training
from clfa.training.objective import objective
from clfa.training.setup import one_pass, set_up

WORDS = 30_518
MEDIAN, SPREAD = 21, 0.42
"""Of the number of words of a text: MMSD's, without special tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=2_048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="of each encoder; fewer to try the script")
    parser.add_argument("--compile", action="store_true", help="also time a step with compiled encoders")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    found = {**vars(options), "out": "", **machine()}
    config = prepare(options)
    setup = set_up(config)
    found |= epochs(setup, config, options.rounds)
    print(json.dumps({name: found[name] for name in ("ours", "plain", "ratio")}), flush=True)
    found |= steps(setup, config, options.compile)
    path = options.out / f"train_{options.precision}_{options.batch}.json"
    path.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


def machine() -> dict:
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
    }


def prepare(options: argparse.Namespace) -> RunConfig:
    """Posts and encoders, unless they are there, and the configuration of a run on them."""
    folder = options.out / f"{options.posts}-{options.layers}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_models(folder, options.layers)
        write_posts(folder / "data", options.posts)
        (folder / "done").touch()
    values = yaml.safe_load((files("clfa") / "systems" / "clfa.yaml").read_text())
    changes = {
        "output": str(options.out / "run"),
        "data.path": str(folder / "data"),
        "teacher": str(folder / "clip"),
        "model.modalities.text.encoder": str(folder / "bert"),
        "model.modalities.image.encoder": str(folder / "vit"),
        "train.batch_size": options.batch,
        "train.precision": options.precision,
        "train.workers": options.workers,
    }
    return build_config(RunConfig, override(values, changes))


def write_models(folder: Path, layers: int) -> None:
    from transformers import BertConfig, CLIPConfig, ViTConfig

    tokenizer = word_tokenizer([f"w{number}" for number in range(WORDS)])
    sizes = {"num_hidden_layers": layers}
    text = {**sizes, "vocab_size": len(tokenizer)}
    image = {**sizes, "patch_size": 32}
    teacher = CLIPConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3},
        vision_config={"num_hidden_layers": 1},
        projection_dim=512,
    )
    for name, config in {"bert": BertConfig(**text), "vit": ViTConfig(**image), "clip": teacher}.items():
        write_encoder(folder / name, config, tokenizer, 224)


def write_posts(folder: Path, count: int) -> None:
    def rows():
        generator = np.random.default_rng(0)
        for split, size in {"train": count, "validation": 64, "test": 64}.items():
            for number in range(size):
                length = int(np.clip(generator.lognormal(math.log(MEDIAN), SPREAD), 1, 75))
                words = " ".join(f"w{word}" for word in generator.integers(0, WORDS, length))
                small = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                buffer = io.BytesIO()
                small.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
                yield split, Record(f"{split}-{number}", words, buffer.getvalue(), "ab"[number % 2], {})

    write_dataset(
        rows(), folder, ["a", "b"], {"reader": "benchmark", "name": "benchmark", "filters": [], "columns": {}}
    )


def epochs(setup, config: RunConfig, rounds: int) -> dict:
    """Milliseconds a post of whole epochs, preparing included; alternating, after one epoch of each that does not count."""
    ways = {"plain": partial(plain_epoch, setup, config), "ours": partial(our_epoch, setup, config)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=number % 2 == 1):
            setup.sampler.set_epoch(number, 0)
            began = time.perf_counter()
            ways[name]()
            finish()
            if number:
                times[name].append(1_000 * (time.perf_counter() - began) / len(setup.rows))
    ratios = [plain / ours for plain, ours in zip(times["plain"], times["ours"])]
    return {
        **{name: statistics.mean(one) for name, one in times.items()},
        "rounds_ms": times,
        "ratio": statistics.mean(ratios),
    }


def our_epoch(setup, config: RunConfig) -> None:
    state = training.State()
    with one_pass(setup.batches) as batches:
        training._train_epoch(setup, config, state, batches, lambda: None)


def plain_epoch(setup, config: RunConfig) -> None:
    model, device = setup.model.train(), setup.pipeline.device
    optimizer = torch.optim.AdamW(setup.optimizer.param_groups, lr=1e-5)
    collate = padded(setup.batches.collate_fn, setup)
    order = torch.randperm(len(setup.rows), generator=torch.Generator().manual_seed(0)).tolist()
    size = config.train.batch_size
    for start in range(0, len(order), size):
        batch = collate([setup.rows[place] for place in order[start : start + size]]).to(device)
        with autocast(config, device):
            output = model(batch)
        loss = objective(output, batch, config.loss, model.config, setup.class_weights)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        optimizer.zero_grad()


def padded(collate, setup):
    """The same batches with texts of 77 tokens each."""

    def made(rows) -> Batch:
        batch = collate(rows)
        text = batch.modalities["text"]
        more = 77 - text.inputs["input_ids"].shape[1]
        inputs = {name: torch.nn.functional.pad(value, (0, more)) for name, value in text.inputs.items()}
        return Batch(
            {
                **batch.modalities,
                "text": Inputs(text.present, inputs, None, None, None, None, text.teacher_embeds, text.teacher_entries),
            },
            batch.labels,
        )

    return made


def autocast(config: RunConfig, device: torch.device):
    bf16 = config.train.precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def steps(setup, config: RunConfig, compiled: bool) -> dict:
    """Milliseconds a post of a training step and of inference, on batches that are there already."""
    device, model = setup.pipeline.device, setup.model
    rate = matmul_rate(device, config)
    chosen = setup.sampler.all_batches()[:: max(1, len(setup.batches) // 8)][:8]
    rows = [[setup.rows[place] for place in places] for places in chosen if len(places) == config.train.batch_size]
    ours = [setup.batches.collate_fn(one).to(device) for one in rows]
    plain = [padded(setup.batches.collate_fn, setup)(one).to(device) for one in rows]
    found: dict = {"matmul_tflops": rate / 1e12}

    def step(optimizer, batch) -> None:
        with autocast(config, device):
            output = model(batch)
        objective(output, batch, config.loss, model.config, setup.class_weights)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        optimizer.zero_grad()

    def timed(name: str, batches: list, one_step, counted: bool = True) -> None:
        for batch in batches:
            one_step(batch)
        finish()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        repeats = 4 if device.type == "cuda" else 1
        for _ in range(repeats):
            for batch in batches:
                one_step(batch)
        finish()
        seconds = (time.perf_counter() - began) / repeats
        posts = len(batches) * config.train.batch_size
        with FlopCounterMode(display=False) as counter:
            for batch in batches:
                one_step(batch)
        flops = counter.get_total_flops() if counted else found["step_ours"]["gflops_a_post"] * posts * 1e9
        found[name] = {
            "ms_a_post": 1_000 * seconds / posts,
            "gflops_a_post": flops / posts / 1e9,
            "share_of_matmul_rate": flops / seconds / rate,
            "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        }
        print(name, json.dumps(found[name]), flush=True)

    model.train()
    timed("step_plain", plain, partial(step, torch.optim.AdamW(setup.optimizer.param_groups, lr=1e-5)))
    timed("step_ours", ours, partial(step, setup.optimizer))
    if compiled:
        for encoder in model.encoders.values():
            encoder.backbone.compile(dynamic=True)
        timed("step_ours_compiled", ours, partial(step, setup.optimizer), counted=False)

    def infer(batch) -> None:
        with torch.no_grad(), autocast(config, device):
            model(batch)

    model.eval()
    if not compiled:
        timed("inference_plain", plain, infer)
        timed("inference_ours", ours, infer)
    return found


def matmul_rate(device: torch.device, config: RunConfig) -> float:
    """FLOPs a second of one large matrix product on random data, in the precision of the run."""
    size = 8_192 if device.type == "cuda" else 2_048
    kind = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    for _ in range(3):
        left @ right
    finish()
    began = time.perf_counter()
    for _ in range(10):
        left @ right
    finish()
    return 10 * 2 * size**3 / (time.perf_counter() - began)


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
