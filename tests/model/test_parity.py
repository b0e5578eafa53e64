"""Our model with the weights of the authors' released code computes what that code computes (../shared/parity)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from transformers import BertConfig, ViTConfig

from clfa.config import RunConfig, build_config, override, read_yaml
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Classifier, build_classifier
from clfa.studies.tiny import word_tokenizer, write_encoder
from clfa.training.objective import objective

CONFIG = Path(__file__).parents[2] / "configs/mmsd/clfa_released_code.yaml"
SOURCES = ("textSelfAttn", "imageCrossAttn", "knowledgeCrossAttn")
VIT = {
    "attention.q_proj": "attn.query",
    "attention.k_proj": "attn.key",
    "attention.v_proj": "attn.value",
    "attention.o_proj": "attn.out",
    "mlp.fc1": "ffn.fc1",
    "mlp.fc2": "ffn.fc2",
    "layernorm_before": "attention_norm",
    "layernorm_after": "ffn_norm",
}


def released(name: str) -> list[str]:
    """Where one of our tensors is in the released model: one name, or three that ours joins (query, key, value)."""
    room, _, rest = name.partition(".")
    kind = name.rsplit(".", 1)[1]
    if room == "encoders":
        modality, tensor = rest.split(".backbone.")
        if modality == "text":
            return [f"bert.{tensor}"]
        if tensor.startswith("layers."):
            _, number, inner = tensor.split(".", 2)
            return [f"model.transformer.encoder.layer.{number}.{VIT[inner.rsplit('.', 1)[0]]}.{kind}"]
        tensor = tensor.replace("patch_embeddings.projection", "patch_embeddings")
        return [f"model.transformer.{tensor.replace('layernorm.', 'encoder.encoder_norm.')}"]
    if room == "projections":
        modality, number, _ = rest.split(".")
        return [f"mlp_{modality}.fc{1 if number == '0' else 2}.{kind}"]
    if room == "fusion":
        _, number, element, place, *tensor = rest.split(".")
        layer = f"attention_net.layer.{number}"
        if element == "attentions":
            attention = f"{layer}.{SOURCES[int(place)]}"
            if tensor[0].startswith("in_proj"):
                return [f"{attention}.bertCoAttn.{one}.{tensor[0][8:]}" for one in ("query", "key", "value")]
            return [f"{attention}.output.dense.{kind}"]
        if element == "norms":
            return [
                f"{layer}.{SOURCES[int(place)]}.output.LayerNorm.{kind}"
                if int(place) < 3
                else f"{layer}.output.LayerNorm.{kind}"
            ]
        return [f"{layer}.{'intermediate' if place == '0' else 'output'}.dense.{kind}"]
    return [name]


@pytest.fixture(scope="module")
def parity():
    """The values of the released model's tensors, its inputs, and what it computes."""
    folder = SHARED / "parity"
    spec = importlib.util.spec_from_file_location("parity_weights", folder / "parity_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, json.loads((folder / "parity_expected.json").read_text())


@pytest.fixture(scope="module")
def released_model(parity, tmp_path_factory) -> tuple[RunConfig, Classifier]:
    """`configs/mmsd/clfa_released_code.yaml` with the released model's values."""
    folder = tmp_path_factory.mktemp("released")
    for name, config in (("text", BertConfig()), ("image", ViTConfig(patch_size=32, layer_norm_eps=1e-6))):
        write_encoder(folder / name, config, word_tokenizer([]), 224, weights=False)
    here = {f"model.modalities.{name}.encoder": str(folder / name) for name in ("text", "image")}
    here |= {f"model.modalities.{name}.pretrained": False for name in ("text", "image")}
    config = build_config(RunConfig, override(read_yaml(CONFIG), here))
    model = build_classifier(config.model, ["no", "yes"]).eval()

    def value(name: str, tensor: torch.Tensor) -> torch.Tensor:
        names = released(name)
        shape = (tensor.shape[0] // len(names), *tensor.shape[1:])
        return torch.from_numpy(np.concatenate([parity[0].values(one, shape) for one in names]))

    model.load_state_dict({name: value(name, tensor) for name, tensor in model.state_dict().items()})
    return config, model


def batch_of(inputs: dict[str, np.ndarray], biased: bool) -> Batch:
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}

    def text(prefix: str, **more) -> Inputs:
        read = {name: tensors[prefix + name] for name in ("input_ids", "attention_mask")}
        return Inputs(torch.ones(4, dtype=torch.bool), read, **more)

    own, knowledge = (tensors["self_bias"], tensors["knowledge_bias"]) if biased else (None, None)
    modalities = {
        "text": text("", bias=own, teacher_embeds=tensors["teacher_text_embeds"]),
        "image": Inputs(
            torch.ones(4, dtype=torch.bool),
            {"pixel_values": tensors["pixel_values"]},
            teacher_embeds=tensors["teacher_image_embeds"],
        ),
        "knowledge": text("knowledge_", bias=knowledge),
    }
    return Batch(modalities, tensors["labels"])


@needs_shared("parity")
@pytest.mark.parametrize("case", ["plain", "bias"])
def test_figures_of_the_released_code(parity, released_model, case):
    """Logits, fused vectors, both losses and the first states of encoders and projection, within 1e-4."""
    (weights, expected), (config, model) = parity, released_model
    batch = batch_of(weights.inputs(), case == "bias")
    with torch.no_grad():
        output = model(batch)
        losses = objective(output, batch, config.loss, config.model)
        tokens = {name: model.encode(name, batch.modalities[name])[0] for name in ("text", "image")}
        # padding that counts as zeros, as the released code pools by maximum; ours ignores it
        query, *contexts = (model.project(batch)[name] for name in ("text", "image", "knowledge"))
        for layer in model.fusion.layers:
            query = layer(query, contexts)
        zeros_win = (query.states * query.mask[:, :, None]).amax(1)
    ours = {
        "logits": output.logits,
        "pooled_first8": output.fused[:, :8],
        "alignment_loss": losses["alignment_loss_text"] + losses["alignment_loss_image"],
        "classification_loss": losses["classification_loss"],
        "max_pool_logits": model.classifier(zeros_win),
    }
    assert set(ours) == set(expected[case])
    for name, value in ours.items():
        assert np.abs(value.detach().numpy() - np.array(expected[case][name])).max() <= 1e-4, name
    states = {
        "bert_state_first8": tokens["text"],
        "vit_state_first8": tokens["image"],
        "text_projection_first8": output.states["text"],
    }
    for name, value in states.items():
        assert np.abs(value[:, 0, :8].numpy() - np.array(expected[name])).max() <= 1e-4, name
    # a post without padding has the same maximum in both
    full = query.pool("max")[0] - zeros_win[0]
    assert full.abs().max() == 0


@needs_shared("parity")
def test_the_bias_of_the_text_with_itself_is_read(parity, released_model):
    """Without either bias the figures of the biased case are missed by far."""
    (weights, expected), (_, model) = parity, released_model
    biased = batch_of(weights.inputs(), True)
    for name in ("text", "knowledge"):
        modalities = dict(biased.modalities)
        modalities[name] = Inputs(modalities[name].present, modalities[name].inputs)
        with torch.no_grad():
            logits = model(Batch(modalities)).logits.numpy()
        assert np.abs(logits - np.array(expected["bias"]["logits"])).max() > 1e-3
