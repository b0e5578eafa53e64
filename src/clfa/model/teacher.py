"""Teachers: frozen dual encoders whose text and image embeddings share a space.

`load_teacher` takes any Hugging Face dual encoder (CLIP, SigLIP, Chinese-CLIP, AltCLIP …) or a folder that
`train_teacher` wrote. `embed_dataset` caches a teacher's embeddings next to the data, keyed by the teacher's weights and
by the content of each post.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from clfa.config import Precision, TeacherConfig, build_config
from clfa.data.atomic import read_json, write_json
from clfa.data.cache import Cache, Compute, Engine, OnCluster
from clfa.data.rows import fill_split
from clfa.data.seal import refuse_changed, seal
from clfa.errors import UserError
from clfa.fusion import pool
from clfa.model.arithmetic import by_products, products_in_use
from clfa.model.encoders import Encoder, fingerprint, load_encoder, resolve
from clfa.model.modalities import KINDS

MODEL_TYPE = "clfa_dual_encoder"

log = logging.getLogger(__name__)


class DualEncoder(nn.Module):
    """A text and an image encoder, each with masked mean pooling and an MLP into one space."""

    def __init__(self, text: Encoder, image: Encoder, config: TeacherConfig):
        super().__init__()
        self.config = config
        self.encoders: Any = nn.ModuleDict({"text": text, "image": image})
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.LayerNorm(encoder.width),
                    nn.Linear(encoder.width, config.projection_hidden),
                    nn.GELU(),
                    nn.Dropout(config.dropout),
                    nn.Linear(config.projection_hidden, config.dim),
                )
                for name, encoder in (("text", text), ("image", image))
            }
        )

    def features(self, kind: str, values: list) -> Float[Tensor, "batch width"]:
        """Pooled encoder states of texts or RGB images, before the projection."""
        encoder = self.encoders[kind]
        device = next(self.parameters()).device
        inputs = encoder.prepare(values, self.config.max_length)
        states, mask = encoder({name: value.to(device) for name, value in inputs.items()})
        return pool(states, mask, "mean")

    def embed(self, kind: str, values: list) -> Float[Tensor, "batch dim"]:
        """Embeddings of texts or RGB images in the shared space (not normalised)."""
        return self.projections[kind](self.features(kind, values))

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json`, `model.safetensors`, a folder per encoder, and `manifest.json`, by which they are known."""
        for name, encoder in self.encoders.items():
            encoder.save(folder / name)
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / "model.safetensors")
        write_json(folder / "config.json", {"model_type": MODEL_TYPE, **asdict(self.config)})
        seal(folder, [path for path in folder.rglob("*") if path.is_file()])

    @classmethod
    def from_pretrained(cls, folder: Path) -> "DualEncoder":
        """Load what `save_pretrained` wrote, in evaluation mode.

        Raises:
            UserError: a file is not what was written.
        """
        refuse_changed(folder)
        described = read_json(folder / "config.json")
        described.pop("model_type")
        text, image = (load_encoder(str(folder / kind), kind, pretrained=False) for kind in ("text", "image"))
        model = cls(text, image, build_config(TeacherConfig, described))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


class HubTeacher(nn.Module):
    """Any Hugging Face model with `get_text_features` and `get_image_features`, behind the same `embed`."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any):
        super().__init__()
        self.model = model
        text = getattr(model.config, "text_config", model.config)
        max_length = getattr(text, "max_position_embeddings", 77)
        if text.model_type in ("xlm-roberta", "altclip_text_model", "roberta"):
            max_length -= 2  # their positions start after the padding index
        # SigLIP was trained on texts padded to their full length, without a mask
        padding = "max_length" if model.config.model_type.startswith("siglip") else True
        prepare_texts = partial(tokenizer, truncation=True, max_length=max_length, padding=padding)
        self.prepare = {"text": prepare_texts, "image": image_processor}

    def embed(self, kind: str, values: list) -> Float[Tensor, "batch dim"]:
        """Embeddings of texts or RGB images (not normalised)."""
        inputs = self.prepare[kind](values, return_tensors="pt")
        embeds = getattr(self.model, f"get_{kind}_features")(**inputs.to(self.model.device))
        return embeds if isinstance(embeds, Tensor) else embeds.pooler_output


Teacher = DualEncoder | HubTeacher


def load_teacher(name: str) -> Teacher:
    """A frozen teacher, in evaluation mode: folder of `clfa teacher train`, or any HF dual encoder.

    Raises:
        UserError: it cannot be loaded, or is no dual encoder.
    """
    source = _source(name)
    teacher: Teacher
    try:
        if (read_json(Path(source, "config.json")) or {}).get("model_type") == MODEL_TYPE:
            teacher = DualEncoder.from_pretrained(Path(source))
        else:
            config = AutoConfig.from_pretrained(source)
            model = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
            if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
                raise UserError(f"{name} is a {config.model_type}, not a dual encoder: give a CLIP-like model")
            teacher = HubTeacher(model, *(KINDS[kind].load_preparer(source) for kind in ("text", "image")))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"cannot load the teacher {name!r}: {str(error).splitlines()[0]}\nGive a local folder with config.json, "
            "model.safetensors, tokenizer and preprocessor files, a hub name while online, or a folder made by "
            "`clfa teacher train`"
        ) from None
    return teacher.requires_grad_(False).eval()


def embed_dataset(
    dataset: Path,
    name: str,
    splits: list[str],
    columns: Mapping[str, str] | None = None,
    batch_size: int = 32,
    engine: Engine = "plain",
) -> tuple[Cache, dict[str, int]]:
    """Cache a teacher's embeddings of the texts and images, or of other `columns` (column -> kind), of a dataset directory.

    Files: `DATASET/teachers/<key>/`, see `teacher_key`. Only these splits are opened; `batch_size` is contents per forward
    pass. With the engine `ray` a cluster computes them, each of its workers with the teacher in memory.

    Returns:
        The cache (width = the teacher's), and split -> number of contents computed now.
    """
    folder = dataset / "teachers" / teacher_key(name)
    computed = dict.fromkeys(splits, 0)
    teacher = cache(partial(_ready, name))  # loaded only if something is missing

    def embed(kind: str, batch: list) -> list[Tensor]:
        return _embed(teacher(), kind, batch)

    for split in splits:
        for column, kind in (columns or {"text": "text", "image": "image"}).items():
            what = f"the teacher's embeddings of {column} of {split}"
            elsewhere = OnCluster(open_embedder, (name, kind, products_in_use())) if engine == "ray" else None
            here = partial(embed, kind)
            computed[split] += fill_split(
                folder, dataset, split, column, kind, here, what, batch_size, on_cluster=elsewhere
            )
    if not (folder / "teacher.json").is_file():
        write_json(folder / "teacher.json", {"teacher": name})
    return Cache(folder), computed


def open_embedder(name: str, kind: str, precision: Precision) -> Compute:
    """What computes a teacher's embeddings of one kind of content in a process of its own."""
    return by_products(precision, partial(_embed, _ready(name), kind))


def _ready(name: str) -> Teacher:
    """A teacher on a GPU, if there is one."""
    log.info("loading the teacher %s", name)
    # fresh weights are drawn before the saved ones are read: a run must not depend on whether this was cached
    with torch.random.fork_rng():
        return load_teacher(name).to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def _embed(teacher: Teacher, kind: str, batch: list) -> list[Tensor]:
    """One (1, D) row for each of a batch of texts, or of undecoded images."""
    values = [KINDS[kind].decode(value) for value in batch]
    return [row[None] for row in teacher.embed(kind, values).cpu()]


def teacher_key(name: str) -> str:
    """16 hex digits that change with the teacher's files (local) or name (hub)."""
    folder = Path(_source(name))
    if not folder.exists():
        return fingerprint(name)
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".txt")):
        # the report says how good the teacher is, not what it computes
        if path.name != "report.json":
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _source(name: str) -> str:
    try:
        return resolve(name)
    except UserError as error:
        raise UserError(f"{error}, or a folder made by `clfa teacher train`") from None
