"""Posts and models to measure with: the paper's sizes, random weights, texts as long as MMSD's, photographs' size."""

import io
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from clfa.config import RunConfig, build_config, override
from clfa.data.records import Record
from clfa.data.writing import write_dataset
from clfa.studies.tiny import word_tokenizer, write_encoder
from clfa.training.sampler import LengthBuckets
from clfa.training.setup import Setup

WORDS, MEDIAN, SPREAD = 30_518, 21, 0.42
"""Of BERT's vocabulary; of the number of words of a text: MMSD's, without special tokens."""
SIDES = (500, 375)
FIXED = 77
"""Tokens that the released code, and who writes a loop first, pads each text to."""


def config_of(folder: Path, layers: int, posts: int, **changes: Any) -> RunConfig:
    """A run of `clfa.yaml` on generated posts and untrained encoders, which are written where they are missing."""
    if not (folder / "data" / "dataset.json").is_file():
        write_models(folder, layers)
        write_posts(folder / "data", posts)
    values = yaml.safe_load((files("clfa") / "systems" / "clfa.yaml").read_text())
    own = {
        "output": str(folder / "run"),
        "data.path": str(folder / "data"),
        "teacher": str(folder / "clip"),
        "model.modalities.text.encoder": str(folder / "bert"),
        "model.modalities.image.encoder": str(folder / "vit"),
        "model.modalities.text.pretrained": False,
        "model.modalities.image.pretrained": False,
    }
    return build_config(RunConfig, override(values, own | changes))


def write_models(folder: Path, layers: int) -> None:
    """BERT-base and ViT-B/32 without weights, with so many layers, and a teacher of one layer."""
    from transformers import BertConfig, CLIPConfig, ViTConfig

    tokenizer = word_tokenizer([f"w{number}" for number in range(WORDS)])
    small = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}
    teacher = CLIPConfig(
        text_config={**small, "vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3},
        vision_config=small,
        projection_dim=512,
    )
    text = BertConfig(num_hidden_layers=layers, vocab_size=len(tokenizer))
    image = ViTConfig(num_hidden_layers=layers, patch_size=32)
    for name, config in {"bert": text, "vit": image, "clip": teacher}.items():
        write_encoder(folder / name, config, tokenizer, 224, weights=name == "clip")


def write_posts(folder: Path, count: int) -> None:
    """So many posts to train on, a few to validate."""

    def rows():
        generator = np.random.default_rng(0)
        for split, size in {"train": count, "validation": 8, "test": 8}.items():
            for number in range(size):
                words = " ".join(f"w{word}" for word in generator.integers(0, WORDS, words_of_a_text(generator)))
                yield split, Record(f"{split}-{number}", words, photograph(generator), "ab"[number % 2], {})

    about = {"reader": "bench", "name": "bench", "filters": [], "columns": {}}
    write_dataset(rows(), folder, ["a", "b"], about)


def words_of_a_text(generator: np.random.Generator) -> int:
    """As many as MMSD's texts have."""
    return int(np.clip(generator.lognormal(math.log(MEDIAN), SPREAD), 1, FIXED - 2))


def padded_lengths(setup: Setup, batches: list[list[int]], posts: int = 10_000) -> dict[str, float]:
    """Mean tokens of a text with its padding: of the plain loop, of these batches, of the batches of a long epoch."""
    taken = [setup.batches.collate_fn([setup.rows[place] for place in places]) for places in batches]
    generator = np.random.default_rng(1)
    lengths = np.array([2 + words_of_a_text(generator) for _ in range(posts)])
    epoch = LengthBuckets(lengths, setup.sampler.batch_size, seed=0).all_batches()
    return {
        "plain": FIXED,
        "ours": float(np.mean([batch.modalities["text"].length for batch in taken])),
        f"ours, in an epoch of {posts:,} posts": float(np.mean([lengths[batch].max() for batch in epoch])),
    }


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG with the sides of a small photograph."""
    small = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(SIDES, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
