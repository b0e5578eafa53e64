"""Text and image encoders from Hugging Face, as one thing: inputs -> token states (B, L, H).

Texts: any `AutoModel` with a tokenizer (BERT, RoBERTa, MiniLM …). Images: encoders with tokens (ViT, DeiT, Swin) as they
are, encoders with feature maps (ResNet, MobileNetV2) flattened to one token per place.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from clfa.errors import UserError
from clfa.model import word_vectors  # noqa: F401  # registers its model with transformers
from clfa.model.layers import freeze_lower, layers, lower, upper
from clfa.model.modalities import KINDS

FEW = 4
"""Images that pass through a convolutional encoder together on a CPU, where nothing is learnt: MobileNetV2 and EfficientNet
take half of what an image costs in batches of 32 (docs/serving.md)."""
logging.disable_progress_bar()
logging.set_verbosity_error()  # unused pooling heads are reported as missing weights on each load


class Encoder(nn.Module):
    """A Hugging Face backbone (`AutoModel`) and its preparer: a tokenizer (texts) or image processor (images).

    With `pooled` the backbone's own summary is the only token. `width` is H, the size of a token state. With
    `trained_layers` only the last layers are trained, see `clfa.model.layers`.
    """

    def __init__(
        self, backbone: Any, preparer: Any, kind: str, pooled: bool = False, trained_layers: int | None = None
    ):
        super().__init__()
        self._weights: str | None = None
        pooler = getattr(backbone, "pooler", None)
        if not pooled and isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            backbone.pooler = None  # never read here: its weights would be kept and saved for nothing
        self.backbone, self.preparer, self.kind, self.pooled = backbone, preparer, KINDS[kind], pooled
        self.width = self.kind.width(backbone, preparer)
        self.convolves = sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) > 1  # not patches alone
        self.trained_layers = trained_layers
        if trained_layers is not None:
            freeze_lower(backbone, trained_layers)

    def forward(
        self, inputs: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        """Token states of `{"input_ids" (B,L), "attention_mask" (B,L)}` or `{"pixel_values" (B,3,h,w)}`, and their mask.

        With `lower_states` among the inputs, the layers that are trained read these, and no others run.
        """
        below = inputs.get("lower_states")
        if below is not None and self.trained_layers is not None:
            inputs = {name: value for name, value in inputs.items() if name != "lower_states"}
            output = upper(self.backbone, self.trained_layers, below, inputs)
            return self._states(output, inputs)
        if self._in_pieces(inputs):
            pieces = [self._states(self.backbone(pixel_values=few), {}) for few in inputs["pixel_values"].split(FEW)]
            states, masks = zip(*pieces)
            return torch.cat(states), torch.cat(masks)
        return self._states(self.backbone(**inputs), inputs)

    def _in_pieces(self, inputs: dict[str, Tensor]) -> bool:
        """Whether few images at a time are faster: feature maps of many do not stay in a CPU's cache."""
        pixels = inputs.get("pixel_values")
        if pixels is None or torch.is_grad_enabled() or torch.compiler.is_exporting():
            return False
        return self.convolves and pixels.device.type == "cpu"

    def _states(self, output: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens and their mask of what a backbone gives."""
        if self.pooled:
            states = output.pooler_output.flatten(1)[:, None]
            return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        states = output.last_hidden_state
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        return states, self.kind.mask(states, inputs)

    def prepare(self, values: list, max_length: int = 77) -> dict[str, Tensor]:
        """Texts (padded to the longest) or RGB images -> inputs, in Hugging Face names."""
        return self.kind.prepare(self.preparer, values, max_length)

    @torch.no_grad()
    def encode(self, values: list, max_length: int = 77) -> list[Float[Tensor, "tokens width"]]:
        """States of each text or undecoded image without padding, in evaluation mode, on the encoder's device."""
        inputs = self.prepare([self.kind.decode(value) for value in values], max_length)
        device, training = next(self.parameters()).device, self.training
        states, masks = self.eval()({name: value.to(device) for name, value in inputs.items()})
        self.train(training)
        return [row[mask] for row, mask in zip(states.cpu(), masks.cpu())]

    @torch.no_grad()
    def encode_lower(self, values: list, max_length: int = 77) -> list[Float[Tensor, "tokens width"]]:
        """What the trained layers read of each text or undecoded image, without padding; see `encode`."""
        assert self.trained_layers is not None
        inputs = self.prepare([self.kind.decode(value) for value in values], max_length)
        device = next(self.parameters()).device
        states = lower(
            self.backbone, self.trained_layers, {name: value.to(device) for name, value in inputs.items()}
        ).cpu()
        return [row[mask] for row, mask in zip(states, self.kind.mask(states, inputs).cpu())]

    def train(self, mode: bool = True) -> "Encoder":
        """Training mode, but for layers that are not trained."""
        super().train(mode)
        if self.trained_layers is not None:
            self.backbone.train(False)
            for layer in layers(self.backbone)[-self.trained_layers :]:
                layer.train(mode)
        return self

    @property
    def positions(self) -> int | None:
        """The longest input in tokens, special ones included, where the encoder has a limit."""
        config = self.backbone.config
        limit = getattr(config, "max_position_embeddings", None)
        # the positions of these start after the padding index
        return limit - 2 if limit and config.model_type in ("roberta", "xlm-roberta", "camembert") else limit

    def fingerprint(self, *settings: str) -> str:
        """16 hex digits that change with the weights, the preparer and further settings; hashed once for a frozen one."""
        if self._weights is None or any(parameter.requires_grad for parameter in self.parameters()):
            preparer = re.sub(
                r"name_or_path='[^']*', ", "", repr(self.preparer)
            )  # the same wherever it was loaded from
            self._weights = fingerprint(self.backbone, preparer)
        return fingerprint(self._weights, *settings, *(["pooled"] if self.pooled else []))

    def lower_fingerprint(self, *settings: str) -> str:
        """The same of what `encode_lower` computes: of all weights but those of the trained layers."""
        assert self.trained_layers is not None
        preparer = re.sub(r"name_or_path='[^']*', ", "", repr(self.preparer))
        frozen = {n: p for n, p in self.backbone.named_parameters() if not p.requires_grad}
        return fingerprint(frozen, preparer, f"below the last {self.trained_layers}", *settings)

    def save(self, folder: Path) -> None:
        """Write `config.json` and the preparer's files; weights are saved by whoever owns the encoder."""
        self.backbone.config.save_pretrained(folder)
        self.kind.save_preparer(self.preparer, folder)


def load_encoder(
    name: str, kind: str, pretrained: bool = True, pooled: bool = False, trained_layers: int | None = None
) -> Encoder:
    """Load a text or image encoder from a local folder, a hub name or `package:NAME/FOLDER`.

    Of a dual encoder (CLIP) the tower of this kind is taken. Without `pretrained` the architecture in its config.json gets
    fresh weights. `pooled` takes the backbone's summary of the whole text or image as its only token (CLIP, BERT, ResNet
    have one).

    Raises:
        UserError: it cannot be loaded (says what to place where).
    """
    folder, of_kind = resolve(name), KINDS[kind]
    try:
        config = AutoConfig.from_pretrained(folder)
        config = getattr(config, of_kind.tower, config)
        if pretrained:
            backbone = AutoModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
        else:
            backbone = AutoModel.from_config(config)
        preparer = of_kind.load_preparer(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot load the {kind} encoder {name!r}: {(str(error) or type(error).__name__).splitlines()[0]}\n"
            f"Give a local folder with config.json, model.safetensors and {of_kind.needs}, or a hub name while online"
        ) from None
    _mend_momentum(backbone)
    # convolutions run about twice as fast on CPUs in this layout; the numbers are the same to rounding
    backbone.to(memory_format=torch.channels_last)
    return Encoder(backbone, preparer, kind, pooled, trained_layers)


def _mend_momentum(backbone: nn.Module) -> None:
    """Some published configurations (MobileNetV2: 0.997, EfficientNet: 0.99) give the momentum of batch norm as TensorFlow
    means it, the share of the old statistics; PyTorch takes it as that of the newest batch, which would then be all that a
    trained encoder remembers."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None and module.momentum > 0.5:
            module.momentum = 1 - module.momentum


@functools.cache
def can_load(name: str) -> bool:
    """Whether a model is here, or can be had from the hub: its configuration is read, nothing more."""
    try:
        AutoConfig.from_pretrained(resolve(name))
    except (OSError, ValueError, KeyError, UserError):
        return bool(name) and Path(name, "config.json").is_file()
    return True


def has_weights(name: str) -> bool:
    """Whether a model has weights: a local folder may hold an architecture alone, to be trained from the start."""
    folder = Path(resolve(name))
    return not folder.is_dir() or any(folder.glob("*.safetensors"))


def resolve(name: str) -> str:
    """Where a model is: `package:NAME/FOLDER` -> the folder inside an installed package; folders and hub names stay.

    Raises:
        UserError: the package is not installed, or the name is a path (absolute, with `.`, `~` or more than one `/`, or in a
            folder that is here) and nothing is there: a mistyped path is never asked for on the hub.
    """
    if name.startswith("package:"):
        package, _, folder = name.removeprefix("package:").partition("/")
        try:
            return str(files(package) / folder)
        except ModuleNotFoundError:
            raise UserError(f"{name}: the Python package {package!r} is not installed; pip install it") from None
    path = Path(name)
    in_a_folder = len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())
    if (in_a_folder or path.is_absolute() or name.startswith((".", "~"))) and not path.exists():
        raise UserError(
            f"no such model folder: {name}; give a folder with config.json and model.safetensors, or a hub name such as "
            "bert-base-uncased"
        )
    return name


def fingerprint(*contents: nn.Module | Mapping[str, Tensor] | str) -> str:
    """16 hex digits of the weights of modules, of named tensors and of strings; names the caches made with them."""
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        if isinstance(content, str):
            digest.update(content.encode())
        else:
            tensors = content.state_dict() if isinstance(content, nn.Module) else content
            for name, tensor in sorted(tensors.items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
