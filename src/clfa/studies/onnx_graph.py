"""A classifier as a graph of ONNX: a function of named tensors, for any number of posts and texts of any length."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clfa.data.cells import Post
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Classifier
from clfa.model.pipeline import Pipeline
from clfa.serving.onnx import KNOWLEDGE

OPSET = 20
ONE_FILE = 1_800_000_000
"""Bytes of weights from which on they are in a file of their own: a file of the format holds two gigabytes."""


def shared_inputs(pipeline: Pipeline) -> dict[str, str]:
    """Fused modality -> the input that it reads, by the name of the first modality that reads the same in the same way."""
    config, first = pipeline.config, dict[tuple, str]()
    return {
        name: first.setdefault((id(pipeline.preparers[name]), config.column(name), one.part, one.max_length), name)
        for name, one in config.modalities.items()
        if one.fused
    }


def inputs_of(pipeline: Pipeline, reads: dict[str, str], rows: Sequence[Post]) -> dict[str, Tensor]:
    """The inputs of the graph, as the run's own preparers make them."""
    batch, given = pipeline.collate(rows), dict[str, Tensor]()
    for name in dict.fromkeys(reads.values()):
        inputs = batch.modalities[name]
        given[f"{name}.present"] = inputs.present
        given |= {f"{name}.{key}": value for key, value in inputs.inputs.items()}
    for name in reads:
        known = {key: getattr(batch.modalities[name], key) for key in KNOWLEDGE}
        given |= {f"{name}.{key}": value for key, value in known.items() if value is not None}
    return given


def write_graph(pipeline: Pipeline, reads: dict[str, str], posts: list[dict[str, Any]], path: Path) -> None:
    """`model.onnx` with any number of posts, and texts of any length."""
    model = pipeline.model.cpu().eval()
    pipeline.device = torch.device("cpu")
    longest = sorted(posts, key=lambda post: sum(len(cell) for cell in post.values() if isinstance(cell, str)))[-5:]
    given = inputs_of(pipeline, reads, longest)
    free = torch.export.Dim.DYNAMIC
    shapes = {key: dict.fromkeys(range(1 if value.ndim == 4 else value.ndim), free) for key, value in given.items()}
    names = list(given)
    graph = _Graph(model, reads).eval()
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            graph,
            kwargs={"inputs": given},
            dynamic_shapes={"inputs": shapes},
            input_names=names,
            output_names=["logits", *reads],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.clfa.lstm.default: _lstm},
        )
        assert program is not None
        weights = sum(parameter.nbytes for parameter in model.state_dict().values())
        program.save(path, external_data=weights > ONE_FILE)


class _Graph(nn.Module):
    """The classifier as a function of named tensors."""

    def __init__(self, model: Classifier, reads: dict[str, str]):
        super().__init__()
        self.model, self.reads = model, reads

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Logits, and the embedding of each modality that is fused."""
        modalities = {}
        for name, read in self.reads.items():
            own = {key.removeprefix(f"{read}."): value for key, value in inputs.items() if key.startswith(f"{read}.")}
            encoded = {key: own[key] for key in own.keys() - {"present", *KNOWLEDGE}}
            known = {key: inputs.get(f"{name}.{key}") for key in KNOWLEDGE}
            modalities[name] = Inputs(own["present"], encoded, **known)
        output = self.model(Batch(modalities))
        return (output.logits, *(output.embeds[name] for name in self.reads))


def _lstm(states: Any, lengths: Any, of_input: Any, of_state: Any, biases: Any, hidden: Any, cell: Any) -> Any:
    """`clfa.fusion.graphs.run_lstm` as the operator of ONNX, which reads each text to its own end."""
    from onnxscript import opset20

    op: Any = opset20
    steps = op.Transpose(states, perm=[1, 0, 2])
    lengths = op.Cast(lengths, to=6)  # int32
    sizes = {"direction": "bidirectional", "hidden_size": of_state.shape[2]}
    found, _, _ = op.LSTM(steps, of_input, of_state, biases, lengths, hidden, cell, **sizes)
    return op.Reshape(op.Transpose(found, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)
