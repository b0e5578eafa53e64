"""Everything a system needs, as small as it can be: generated posts, and random models of each architecture.

`clfa reproduce --tiny` trains all systems on them in minutes: it shows that they run, and nothing about how good they are.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from clfa.data import congruity
from clfa.data.records import Record
from clfa.data.writing import write_dataset

POSTS = {"train": 80, "validation": 20, "test": 40}
DIM = 32
PIXELS = 32
MODELS = {
    "bert-base-uncased": "bert",
    "roberta-base": "roberta",
    "google/vit-base-patch32-224-in21k": "vit",
    "microsoft/resnet-50": "resnet",
    "microsoft/resnet-152": "resnet",
    "openai/clip-vit-base-patch32": "clip",
}


def write_tiny_posts(folder: Path, labels: list[str]) -> None:
    """A dataset directory of generated posts with every optional column (knowledge, attributes, dependencies, regions).

    Args:
        folder: to write.
        labels: class names; the first two get the generated classes, further ones an equal share of the posts.
    """

    def rows():
        for seed, (split, count) in enumerate(POSTS.items()):
            for number, post in enumerate(congruity.posts(count, seed, PIXELS)):
                generator = np.random.default_rng([seed, number])
                words = f"{post['text']} #{post['topic']}"
                buffer = io.BytesIO()
                post["image"].save(buffer, "PNG")
                label = int(post["label"] == "sarcastic") if number % len(labels) < 2 else number % len(labels)
                yield (
                    split,
                    Record(
                        f"{split}-{post['id']}",
                        words,
                        buffer.getvalue(),
                        labels[label],
                        {
                            "knowledge": congruity.scene_caption(post["topic"], post["state"], generator),
                            "attributes": f"{post['topic']} {post['state']}",
                            # each word hangs on the one before it, the first is the root
                            "dependencies": " ".join(map(str, range(len(words.split())))),
                            "regions": f"{post['state']} {post['topic']}",
                        },
                    ),
                )

    columns = dict.fromkeys(("knowledge", "attributes", "dependencies", "regions"), "string")
    write_dataset(rows(), folder, labels, {"reader": "tiny", "name": "tiny", "filters": [], "columns": columns})


def word_tokenizer(words: list[str]) -> Any:
    """A BERT-like tokenizer over whole words in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def small_configs(words: int, dim: int, pixels: int) -> dict[str, Any]:
    """Name -> Hugging Face configuration of a small encoder: bert, roberta, vit, resnet, clip.

    Args:
        words: size of the vocabulary of `word_tokenizer`.
        dim: width of the states, and of CLIP's common space.
        pixels: height and width of the images.
    """
    from transformers import BertConfig, CLIPConfig, ResNetConfig, RobertaConfig, ViTConfig

    sizes: dict[str, Any] = {
        "hidden_size": dim,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 2 * dim,
    }
    text: dict[str, Any] = {**sizes, "vocab_size": words, "max_position_embeddings": 64, "pad_token_id": 0}
    image: dict[str, Any] = {**sizes, "image_size": pixels, "patch_size": 8}
    return {
        "bert": BertConfig(**text),
        "roberta": RobertaConfig(**text),
        "vit": ViTConfig(**image),
        "resnet": ResNetConfig(
            embedding_size=dim // 4, hidden_sizes=[dim // 4, dim // 2, dim], depths=[1, 1, 1], layer_type="basic"
        ),
        "clip": CLIPConfig(
            text_config={**text, "bos_token_id": 2, "eos_token_id": 3}, vision_config=image, projection_dim=dim
        ),
    }


def write_encoder(folder: Path, config: Any, tokenizer: Any, pixels: int, weights: bool = True) -> None:
    """A Hugging Face folder with a configuration, random weights if asked for, and what prepares texts and images."""
    from transformers import AutoModel, ViTImageProcessorPil

    tokenizer.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": pixels, "width": pixels}, image_std=[0.25] * 3).save_pretrained(folder)
    (AutoModel.from_config(config) if weights else config).save_pretrained(folder)


def write_tiny_models(folder: Path) -> dict[str, str]:
    """Random models of a few thousand weights; hub name -> folder that stands in for it."""
    import torch

    tokenizer = word_tokenizer(["#", *congruity.words()])
    torch.manual_seed(0)
    for name, config in small_configs(len(tokenizer), DIM, PIXELS).items():
        write_encoder(folder / name, config, tokenizer, PIXELS)
    return {hub: str(folder / name) for hub, name in MODELS.items()}


def tiny_changes(values: dict[str, Any], models: dict[str, str]) -> dict[str, Any]:
    """What makes a system's configuration tiny, as overrides by dotted names.

    Args:
        values: the system's configuration.
        models: `write_tiny_models`.
    """
    changes: dict[str, Any] = {
        "model.dim": DIM,
        "model.projection_hidden": min(DIM, values["model"]["projection_hidden"]),
        "model.fusion.heads": 4,
        "model.fusion.feedforward": DIM,
        "train.epochs": 2,
        "train.batch_size": 20,
        "train.encoder_learning_rate": 1e-3,
        "train.head_learning_rate": 1e-3,
    }
    if values.get("teacher"):
        changes["teacher"] = models[values["teacher"]]
    for name, modality in values["model"]["modalities"].items():
        if modality.get("encoder"):
            changes[f"model.modalities.{name}.encoder"] = models[modality["encoder"]]
        if modality.get("words"):
            changes[f"model.modalities.{name}.words.size"] = DIM
            changes[f"model.modalities.{name}.words.lstm"] = min(DIM, modality["words"].get("lstm", 0))
    return changes
