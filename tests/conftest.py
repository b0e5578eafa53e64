"""Tiny random models and data that every test can use; nothing is downloaded."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would reach for the network fails at once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what it starts in the background

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from PIL import Image

# shapes in signatures are checked in tests only
install_import_hook(["clfa"], "shapes.checked")

from clfa.config import DataConfig, FusionConfig, LossConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig
from clfa.data.records import Record
from clfa.data.writing import write_dataset
from clfa.studies.tiny import small_configs, word_tokenizer, write_encoder

torch.set_num_threads(1)
WORDS = [f"word{number}" for number in range(40)]
DIM = 32
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
SHARED = Path(__file__).resolve().parents[2] / "shared"


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A small PNG of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def text(seed: int, length: int = 6) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> Path:
    """Folder with tiny untrained Hugging Face models: bert, roberta, vit, deit, swin, resnet, mobilenet, clip."""
    from transformers import DeiTConfig, MobileNetV2Config, SwinConfig

    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    tokenizer = word_tokenizer(WORDS)
    configs = small_configs(len(tokenizer), DIM, 32)
    configs["deit"] = DeiTConfig(**{key: getattr(configs["vit"], key) for key in SIZES}, image_size=32, patch_size=8)
    configs["swin"] = SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    configs["mobilenet"] = MobileNetV2Config(depth_multiplier=0.25, image_size=32)
    for name, config in configs.items():
        write_encoder(folder / name, config, tokenizer, 32)
    return folder


def make_dataset(folder: Path, counts: dict[str, int], post: Callable[[str, int], Record], **changes) -> Path:
    """Write a dataset directory of `counts` posts a split, made by `post(split, number)`, and return it.

    Args:
        folder: to make.
        counts: split -> number of posts.
        post: the post of a split and a number.
        changes: of the description (`columns` are those of the first post by default), or `class_names` (those of the
            first posts by default), `images`.
    """
    posts = [(split, post(split, number)) for split, count in counts.items() for number in range(count)]
    names = sorted({str(record.label) for _, record in posts})
    columns = {name: "string" for _, record in posts for name in record.values}
    described = {"reader": "test", "name": folder.name, "filters": [], "columns": columns}
    images = changes.pop("images", "embedded")
    write_dataset(iter(posts), folder, changes.pop("class_names", names), described | changes, images=images)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A dataset directory: 24/8/8 posts, two classes; one training post has no image, every other a knowledge text."""

    def post(split: str, number: int) -> Record:
        seed = number + 100 * len(split)
        image = None if (split, number) == ("train", 0) else picture(seed)
        values = {"knowledge": text(seed + 7)} if number % 2 else {}
        return Record(f"{split}-{number}", text(seed, 3 + number % 5), image, ["no", "yes"][number % 2], values)

    return make_dataset(tmp_path_factory.mktemp("data") / "posts", {"train": 24, "validation": 8, "test": 8}, post)


@pytest.fixture
def checkpoints_stay(monkeypatch):
    """Runs that are finished keep their checkpoints, to be looked at."""
    monkeypatch.setattr("clfa.training.train.clear_checkpoints", lambda folder: None)


@pytest.fixture
def start_process():
    """`start_process(*arguments, **environment)`: Python with these, as a process without a Ray cluster around it."""
    children = []

    def start(*arguments, **environment):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        child = subprocess.Popen([sys.executable, *map(str, arguments)], env=environment, **piped)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def run_config(encoders, dataset, tmp_path):
    """`run_config(**changes)`: a tiny CLFA run; dotted names as in sweeps."""
    from dataclasses import asdict

    from clfa.config import build_config, override

    def build(**changes) -> RunConfig:
        modalities = {
            "text": ModalityConfig("text", str(encoders / "bert"), max_length=16),
            "image": ModalityConfig("image", str(encoders / "vit")),
        }
        config = RunConfig(
            data=DataConfig(str(dataset)),
            model=ModelConfig(modalities, DIM, 32, FusionConfig(layers=2, heads=2, feedforward=32)),
            output=str(tmp_path / "run"),
            teacher=str(encoders / "clip"),
            loss=LossConfig(),
            train=TrainConfig(epochs=3, batch_size=6, encoder_learning_rate=1e-3, head_learning_rate=1e-3),
        )
        return build_config(RunConfig, override(asdict(config), {k.replace("__", "."): v for k, v in changes.items()}))

    return build


@pytest.fixture
def run(run_config):
    """The folder of a tiny run, trained for an epoch without alignment."""
    from clfa.training.train import train

    return train(run_config(train__epochs=1, loss__alignment_weight=0))


@pytest.fixture
def served(run):
    """`served(predictor, keys)`: a client of a service of that run, or of another predictor."""
    from servers import serving

    with serving(run) as start:
        yield start


def needs_shared(name: str):
    """Skip mark for tests on research data that cannot be distributed."""
    return pytest.mark.skipif(not (SHARED / name).exists(), reason=f"research data not here: ../shared/{name}")
