"""A trained run as Hugging Face has models: `AutoModelForSequenceClassification`, `AutoProcessor`, `pipeline`.

Examples:
    >>> import clfa.serving.hub  # doctest: +SKIP
    >>> from transformers import pipeline  # doctest: +SKIP
    >>> classify = pipeline("post-classification", model="runs/mvsa_single/clfa")  # doctest: +SKIP
    >>> classify({"text": "what a lovely day", "image": "storm.jpg"})  # doctest: +SKIP
    [{'label': 'negative', 'score': 0.83}]

Importing this module registers the classes; a run brings no code of its own, and none is run from it.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
    BatchFeature,
    Pipeline,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines import PIPELINE_REGISTRY

from clfa.config import ModelConfig, build_config
from clfa.data.atomic import read_json, write_text
from clfa.data.cells import Post, clean_post
from clfa.errors import UserError
from clfa.model.batch import Batch, Collator, Inputs
from clfa.model.blend import load_classifier
from clfa.model.classifier import MODEL_TYPE, Classifier
from clfa.model.encoders import resolve
from clfa.model.modalities import kind_of
from clfa.runs import Run

TASK = "post-classification"
TENSORS = [one.name for one in fields(Inputs) if one.name != "inputs" and not one.name.startswith("teacher")]
"""Of `Inputs`, besides what its encoder takes."""


class ClfaConfig(PreTrainedConfig):
    """`config.json` of a run: its classes. All else is in `model.json`."""

    model_type = MODEL_TYPE

    def __init__(self, **given: Any):
        super().__init__(**given)


class ClfaProcessor(ProcessorMixin):
    """Posts -> what a run's model takes: `<modality>.present` (B,), `<modality>.input_ids` (B, L), … as PyTorch tensors.

    Args:
        model: the modalities.
        preparers: modality -> tokenizer or image processor.
        text_cleaning: of the data set that the run was trained on.
    """

    def __init__(self, model: ModelConfig, preparers: Mapping[str, Any], text_cleaning: str):
        super().__init__()
        self.model, self.text_cleaning = model, text_cleaning
        self.collate = Collator(model, preparers)

    @classmethod
    def from_pretrained(cls, name: Any, **given: Any) -> "ClfaProcessor":  # type: ignore[override]
        """That of a run directory, or of a repository of a hub.

        Raises:
            UserError: there is no run.
        """
        folder = _folder(name, given)
        described = read_json(folder / "model.json")
        model = build_config(ModelConfig, described["model"])
        places = {name: _place(folder, model, name) for name in model.modalities if not model.modalities[name].shares}
        loaded = {name: kind_of(model.modalities[name]).load_preparer(place) for name, place in places.items()}
        return cls(model, {name: loaded[model.owner(name)] for name in model.modalities}, described["text"])

    def __call__(
        self,
        posts: Any = None,
        text: Any = None,
        images: Any = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Posts as mappings or as texts, or texts and images beside each other; one or several.

        Raises:
            UserError: a value cannot be read.
        """
        if posts is None:
            posts = _beside(text, images)
        elif isinstance(posts, Mapping | str):
            posts = [posts]
        if return_tensors != "pt":
            raise UserError(f"return_tensors={return_tensors!r}: the model is PyTorch's, so are its inputs (pt)")
        each = [{"text": post} if isinstance(post, str) else post for post in posts]
        if wrong := [post for post in each if not isinstance(post, Mapping)]:
            raise UserError(
                f"a post is a text, or a mapping with the keys text and image, found {type(wrong[0]).__name__}"
            )
        rows = [clean_post(post, self.model, self.text_cleaning) for post in each]
        return BatchFeature(_flat(self.collate(rows)))


class ClfaForSequenceClassification(PreTrainedModel):
    """The model of a run: `ClfaProcessor`'s tensors -> logits (B, C).

    Labels follow `config.id2label`. A run of `clfa fit` may decide for another class than the most probable one; the
    pipeline does as it does.
    """

    config_class = ClfaConfig
    base_model_prefix = "clfa"

    def __init__(self, config: ClfaConfig, classifier: Classifier | None = None, card: str = ""):
        super().__init__(config)
        if classifier is None:
            raise UserError(
                "a clfa model comes from a run: from_pretrained(RUN); a new one is trained with `clfa train`"
            )
        self.classifier, self.card = classifier, card

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, config: Any = None, **given: Any):  # type: ignore[override]
        """That of a run directory, or of a repository of a hub; its files are verified, in fp32.

        Raises:
            UserError: there is no run, or its files are not those that were written.
        """
        folder = _folder(name, given)
        card = Run(folder).card_file
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        return cls(config or ClfaConfig.from_pretrained(folder), load_classifier(folder), text).eval()

    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False, **given: Any) -> None:  # type: ignore[override]
        """Write the model as a run has it, with its card; nothing leaves this machine but with `push_to_hub`."""
        self.classifier.save_pretrained(folder)
        if self.card:
            write_text(Run(folder).card_file, self.card)
        if push_to_hub:
            self.push_to_hub(given.pop("repo_id", Path(folder).name), **given)

    def push_to_hub(self, repo_id: str, **given: Any) -> str:  # type: ignore[override]
        """Make the repository, if there is none, and upload the model with its card; its address.

        Args:
            repo_id: `owner/name`.
            given: `private`, `token`, `revision`, `commit_message`, as Hugging Face has them.
        """
        api = HfApi(token=given.get("token"))
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            address = api.create_repo(repo_id, private=given.get("private"), exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=given.get("revision"),
                commit_message=given.get("commit_message") or "Upload a model of clfa",
            )
        return str(address)

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> SequenceClassifierOutput:
        """Logits, and with labels (B,) the cross entropy."""
        logits: Tensor = self.classifier(_batch(inputs)).logits
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class PostClassificationPipeline(Pipeline):
    """`pipeline("post-classification", model=RUN)`: a post with the keys `text` and `image` -> labels with their scores, the
    one that the run decides for first; `top_k` of them, 1 by default."""

    model: ClfaForSequenceClassification
    processor: ClfaProcessor
    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False

    def _sanitize_parameters(self, top_k: int | None = None, **given: Any):
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, input_: Any, **given: Any) -> dict[str, Any]:
        """A batch of one."""
        return dict(self.processor([input_]))

    def _forward(self, input_tensors: Any, **given: Any) -> SequenceClassifierOutput:
        return self.model(**input_tensors)

    def postprocess(self, model_outputs: Any, top_k: Any = 1, **given: Any) -> list[dict[str, Any]]:
        """Names and probabilities."""
        classifier: Any = self.model.classifier
        logits = model_outputs.logits[0].double()
        order = (logits + torch.tensor(classifier.offsets)).argsort(descending=True, stable=True)
        names, probabilities = classifier.class_names, logits.softmax(0)
        return [{"label": names[place], "score": probabilities[place].item()} for place in order[:top_k].tolist()]


def _beside(text: Any, images: Any) -> list[Post]:
    """Posts of texts and of images, one or several, or of one of them alone."""
    given = {"text": text, "image": images}
    columns = {
        name: list(one) if isinstance(one, list | tuple) else [one] for name, one in given.items() if one is not None
    }
    if len({len(column) for column in columns.values()}) != 1:
        counts = " and ".join(f"{len(column)} of {name}" for name, column in columns.items())
        raise UserError(f"texts and images beside each other are as many: {counts or 'none'} were given")
    return [dict(zip(columns, post)) for post in zip(*columns.values())]


def _folder(name: str | Path, given: Mapping[str, Any]) -> Path:
    """A run directory, or what a hub has under that name."""
    folder = Path(resolve(str(name)))  # a mistyped path is never asked for on a hub
    if not folder.exists():
        asked = {key: given[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in given}
        try:
            folder = Path(snapshot_download(str(name), **asked))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name} is no folder, and no repository that could be read: {str(error).splitlines()[0]}"
            ) from None
    if not (folder / "model.json").is_file():
        raise UserError(f"{folder} holds no trained model (no model.json): train one with `clfa train`")
    return folder


def _place(folder: Path, model: ModelConfig, name: str) -> Path:
    """Where the preparer of a modality is; of a blend in the folder of the member."""
    for member in model.members:
        if name.startswith(f"{member}_"):
            return folder / member / name.removeprefix(f"{member}_")
    return folder / name


def _flat(batch: Batch) -> dict[str, Tensor]:
    tensors = {
        f"{name}.{field}": value
        for name, inputs in batch.modalities.items()
        for field in TENSORS
        if (value := getattr(inputs, field)) is not None
    }
    return tensors | {
        f"{name}.{field}": value for name, inputs in batch.modalities.items() for field, value in inputs.inputs.items()
    }


def _batch(inputs: Mapping[str, Any]) -> Batch:
    """What `_flat` was made of."""
    own: dict[str, dict[str, Any]] = {}
    for key, value in inputs.items():
        name, _, field = key.rpartition(".")
        if not name:
            raise UserError(f"the model does not take {key!r}: give it what its processor returns")
        own.setdefault(name, {})[field] = value
    return Batch(
        {
            name: Inputs(
                **{field: value for field, value in values.items() if field in TENSORS},
                inputs={field: value for field, value in values.items() if field not in TENSORS},
            )
            for name, values in own.items()
        }
    )


AutoConfig.register(MODEL_TYPE, ClfaConfig)
AutoProcessor.register(ClfaConfig, ClfaProcessor)
AutoModel.register(ClfaConfig, ClfaForSequenceClassification)
AutoModelForSequenceClassification.register(ClfaConfig, ClfaForSequenceClassification)
PIPELINE_REGISTRY.register_pipeline(
    TASK, PostClassificationPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal"
)
