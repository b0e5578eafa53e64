"""An exported model in use: ONNX Runtime, with tokenizers, Pillow and NumPy in the place of PyTorch and transformers.

`clfa export` writes the folder, and has shown that what is prepared here is what training prepared, to the bit.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from clfa.config import ModelConfig, build_config
from clfa.data.cells import CELLS, Post, by_length, clean_post, value_of
from clfa.data.progress import progress
from clfa.data.seal import refuse_changed
from clfa.errors import UserError
from clfa.model.knowledge import Words, bias_of, edges_of, read_words

MODEL, ABOUT = "model.onnx", "model.json"
KNOWLEDGE = ("edges", "bias")
"""What a graph takes of words, beside what its encoders take."""
SIZES = ({"height", "width"}, {"shortest_edge"})
"""Keys of an image processor's `size` that `ImageReader` understands."""


class OnnxPipeline:
    """What `clfa.model.pipeline.Pipeline` is for a run, for the folder of an export: on one or more CPU cores.

    Args:
        folder: written by `clfa export`; or the run directory, in which it is `onnx`.
        batch_size: posts per pass; of eight, feature maps of images stay in the cache of a core.
        threads: of ONNX Runtime; by default as many as there are cores that this process may use.

    Raises:
        UserError: the folder holds no export, or its files are not those that were written.
    """

    def __init__(self, folder: str | Path, batch_size: int = 8, threads: int = 0):
        import onnxruntime

        self.folder = find_export(folder)
        refuse_changed(self.folder)
        about = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
        self.class_names, self.text_cleaning = about["labels"], about["text"]
        # activations are rounded by the largest of their batch: with others in it, a post would have another answer
        self.batch_size = 1 if about.get("int8") else batch_size
        self.config = build_config(ModelConfig, about["model"])
        self.offsets = np.array(about["offsets"])
        self.readers: dict[str, TextReader | ImageReader] = {
            name: READERS[self.config.modalities[name].kind](self.folder / name)
            for name in dict.fromkeys(about["reads"].values())
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        self.session = onnxruntime.InferenceSession(self.folder / MODEL, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.reads: dict[str, str] = about["reads"]
        """Modality -> the input that it reads: several that read the same share one."""

    def prepare(self, post: Post) -> dict[str, Any]:
        """A user's post as a row, see `clfa.data.cells.clean_post`."""
        return clean_post(post, self.config, self.text_cleaning)

    def inputs(self, rows: Sequence[Post]) -> dict[str, NDArray]:
        """What the graph takes of some rows: `<input>.present`, and what its encoder takes, in Hugging Face names."""
        found: dict[str, NDArray] = {}
        for name, reader in self.readers.items():
            cells = CELLS[self.config.modalities[name].kind]
            values = [value_of(row, name, self.config) for row in rows]
            found[f"{name}.present"] = np.array([value is not None for value in values])
            decoded = [cells.blank if value is None else cells.decode(value) for value in values]
            found |= {f"{name}.{key}": array for key, array in reader(decoded).items()}
        for name in self.reads:
            found |= self._known(name, rows, found)
        return found

    def _known(self, name: str, rows: Sequence[Post], found: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Graphs and polarities of the words of a modality that has them, see `clfa.model.knowledge`."""
        modality, query = self.config.modalities[name], self.config.query()
        if not (modality.graph or modality.polarity):
            return {}
        words = [self._words(name, row) for row in rows]
        length, asking = (found[f"{self.reads[each]}.input_ids"].shape[1] for each in (name, query))
        known = {}
        if modality.graph:
            known[f"{name}.edges"] = edges_of(words, length)
        if modality.polarity:
            first = [self._words(query, row) for row in rows]
            known[f"{name}.bias"] = bias_of(first, words, modality.polarity, (asking, length))
        return known

    def _words(self, name: str, row: Post) -> Words:
        reader, modality = self.readers[self.reads[name]], self.config.modalities[name]
        assert isinstance(reader, TextReader)
        text = str(value_of(row, name, self.config) or "")
        return read_words(reader.tokenizer, row, text, modality.graph, modality.max_length)

    def logits(self, rows: Sequence[Post], what: str = "predicting") -> Float[NDArray, "rows classes"]:
        """Logits of all rows in their order; posts of similar length share a batch."""
        logits = np.empty((len(rows), len(self.class_names)), dtype=np.float32)
        with progress(what, len(rows)) as bar:
            for places in by_length([len(row.get("text") or "") for row in rows], self.batch_size):
                logits[places] = self.output([rows[place] for place in places])
                bar.add(len(places))
        return logits

    def output(self, rows: Sequence[Post]) -> Float[NDArray, "rows classes"]:
        """Logits of one batch of rows."""
        return self.session.run(["logits"], self.inputs(rows))[0]

    def decide(self, scores: Float[NDArray, "posts classes"]) -> NDArray[np.int64]:
        """Logits or log probabilities -> class numbers, as the run decides."""
        return (scores + self.offsets).argmax(-1)

    def embeds(self, rows: Sequence[Post]) -> dict[str, Float[NDArray, "posts dim"]]:
        """Modality -> mean projected token of all rows in order (of a probe: the encoder's); NaN where it is missing."""
        names = [name for name in self.outputs if name != "logits"]
        blocks: dict[str, list[NDArray]] = {name: [] for name in names}
        with progress("reading features", len(rows)) as bar:
            for start in range(0, len(rows), self.batch_size):
                given = self.inputs(rows[start : start + self.batch_size])
                for name, values in zip(names, self.session.run(names, given)):
                    present = given[f"{self.reads[name]}.present"]
                    blocks[name].append(np.where(present[:, None], values, np.nan))
                bar.add(len(rows[start : start + self.batch_size]))
        return {name: np.concatenate(own) for name, own in blocks.items()}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_export(folder: str | Path) -> Path:
    """The folder of an export, be it given itself or as the run directory that holds it.

    Raises:
        UserError: there is none.
    """
    for path in (Path(folder), Path(folder) / "onnx"):
        if (path / MODEL).is_file():
            return path
    raise UserError(
        f"{folder} holds no exported model (no {MODEL}): make one with `clfa export {folder} --format onnx`"
    )


class TextReader:
    """Texts -> `input_ids`, `attention_mask` (B, L), padded to the longest, by the tokenizer of the folder."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # marks such as [SEP] in a post are text, which the file cannot say

    def __call__(self, texts: list[str]) -> dict[str, NDArray]:
        """Truncated and padded as the file says."""
        encoded = self.tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
        }


class ImageReader:
    """RGB images -> `pixel_values` (B, 3, h, w), as the image processors of transformers with the PIL backend do: resize,
    cut out the middle, scale, normalise."""

    def __init__(self, folder: Path):
        self.settings: Mapping[str, Any] = json.loads((folder / "image.json").read_text(encoding="utf-8"))

    def __call__(self, images: list[Image.Image]) -> dict[str, NDArray]:
        return {"pixel_values": np.stack([self._prepared(image) for image in images])}

    def _prepared(self, image: Image.Image) -> NDArray:
        how = self.settings
        if how["do_resize"]:
            image = image.resize(_new_size(image.size, how["size"]), how["resample"])
        values = np.asarray(image).transpose(2, 0, 1)
        if how["do_center_crop"]:
            values = _middle(values, how["crop_size"]["height"], how["crop_size"]["width"])
        if how["do_rescale"]:
            values = (values.astype(np.float64) * how["rescale_factor"]).astype(np.float32)
            if how["rescale_offset"]:
                values -= 1
        if how["do_normalize"]:
            values = _normalised(values, how["image_mean"], how["image_std"])
        if how["include_top"]:
            values = _normalised(values, [0] * 3, how["image_std"])
        return values


READERS: dict[str, type[TextReader] | type[ImageReader]] = {"text": TextReader, "image": ImageReader}


def _new_size(size: tuple[int, int], wanted: Mapping[str, int]) -> tuple[int, int]:
    """(width, height) of an image of this width and height, where both or the shorter edge are given."""
    if "shortest_edge" not in wanted:
        return wanted["width"], wanted["height"]
    width, height = size
    short = wanted["shortest_edge"]
    long = int(short * max(size) / min(size))
    return (short, long) if width <= height else (long, short)


def _middle(values: NDArray, height: int, width: int) -> NDArray:
    """(3, height, width) of the middle; black around an image that is smaller."""
    missing = [max(0, wanted - have) for wanted, have in zip((height, width), values.shape[1:])]
    values = np.pad(values, [(0, 0), *((-(-each // 2), each // 2) for each in missing)])
    top, left = (values.shape[1] - height) // 2, (values.shape[2] - width) // 2
    return values[:, top : top + height, left : left + width]


def _normalised(values: NDArray, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    values = values.astype(np.float32, copy=False)
    shape = (-1, 1, 1)
    return (values - np.array(mean, np.float32).reshape(shape)) / np.array(std, np.float32).reshape(shape)
