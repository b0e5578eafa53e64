"""Several classifiers as one: the mean of their log probabilities."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clfa.config import ModelConfig
from clfa.data.atomic import read_json
from clfa.data.seal import MANIFEST, refuse_changed, seal
from clfa.fusion import Tokens
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Classifier, Output


class Blend(Classifier):
    """Members, each with encoders of its own: logits = 1/M sum_m log p_m, the logarithmic opinion pool with equal weights
    (Genest and Zidek 1986).

    Its modalities are those of the members under the names `<member>_<modality>`. Frozen encoders that several members have
    in common are kept in memory, and run, once.

    Args:
        members: name -> classifier; all with the same classes and cleaning of texts.
        offsets: see `Classifier.decide`; the members' own are not read.
    """

    def __init__(self, members: Mapping[str, Classifier], offsets: list[float] | None = None):
        nn.Module.__init__(self)
        first = next(iter(members.values()))
        self.class_names, self.text_cleaning = first.class_names, first.text_cleaning
        self.offsets = offsets or [0.0] * len(self.class_names)
        self.members: Any = nn.ModuleDict(members)
        self.config = ModelConfig(
            {f"{m}_{name}": own for m, member in members.items() for name, own in _modalities(m, member).items()},
            members={m: member.config for m, member in members.items()},
        )
        self.query, self.contexts = self.config.query(), self.config.contexts()
        self._share_frozen_encoders()

    @property
    def encoders(self) -> dict[str, Any]:  # type: ignore[override]
        """Modality -> encoder of the member that has it."""
        return {f"{m}_{name}": one for m, member in self.members.items() for name, one in member.encoders.items()}

    def project(self, batch: Batch) -> dict[str, Tokens]:
        """What each member's `project` gives, under the names of this model."""
        encoded: dict[tuple, tuple[Tensor, Tensor]] = {}
        tokens: dict[str, Tokens] = {}
        for m, member in self.members.items():
            own = {name: batch.modalities[f"{m}_{name}"] for name in member.config.modalities}
            own = {name: self._encoded(member, name, inputs, encoded) for name, inputs in own.items()}
            tokens |= {f"{m}_{name}": one for name, one in member.project(Batch(own)).items()}
        return tokens

    def fuse(self, tokens: dict[str, Tokens]) -> Output:
        """The mean of the members' log probabilities; `fused` are their fused vectors behind each other."""
        outputs = {
            m: member.fuse(
                {name: tokens[f"{m}_{name}"] for name in member.config.modalities if f"{m}_{name}" in tokens}
            )
            for m, member in self.members.items()
        }
        logits = torch.stack([output.logits.float().log_softmax(1) for output in outputs.values()]).mean(0)
        return Output(
            logits=logits,
            states={name: one.states for name, one in tokens.items()},
            masks={name: one.mask for name, one in tokens.items()},
            embeds={name: one.pool("mean") for name, one in tokens.items()},
            fused=torch.cat([output.fused for output in outputs.values()], 1),
        )

    def train(self, mode: bool = True) -> "Blend":
        """Each member as it does."""
        nn.Module.train(self, mode)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """A folder for each member, `model.json` and `config.json`."""
        folder = Path(folder)
        for m, member in self.members.items():
            member.save_pretrained(folder / m)
        seal(folder, [*self.describe(folder), *(folder / m / MANIFEST for m in self.members)])

    def _encoded(self, member: Classifier, name: str, inputs: Inputs, encoded: dict) -> Inputs:
        """The inputs of a frozen encoder become its states, computed once for all members that read them."""
        owner = member.config.owner(name)
        if inputs.states is not None or not member.config.modalities[owner].frozen:
            return inputs
        own = member.config.modalities[name]
        key = (id(member.encoders[owner]), member.config.column(name), own.part, own.max_length)
        if key not in encoded:
            encoded[key] = member.encode(name, inputs)
        states, mask = encoded[key]
        return replace(inputs, states=states, mask=mask)

    def _share_frozen_encoders(self) -> None:
        known: dict[str, Any] = {}
        for member in self.members.values():
            for name, encoder in member.encoders.items():
                if member.config.modalities[name].frozen:
                    member.encoders[name] = known.setdefault(encoder.fingerprint(), encoder)


def load_classifier(folder: str | Path) -> Classifier:
    """What `save_pretrained` wrote, be it a blend or a classifier, in evaluation mode.

    Raises:
        UserError: as `Classifier.from_pretrained`.
    """
    try:
        described = read_json(Path(folder) / "model.json") or {}
    except ValueError:  # which is told when the seal is looked at
        described = {}
    members = described.get("model", {}).get("members")
    if not members:
        return Classifier.from_pretrained(folder)
    refuse_changed(Path(folder))
    return Blend({m: Classifier.from_pretrained(Path(folder) / m) for m in members}, described["offsets"]).eval()


def _modalities(m: str, member: Classifier) -> dict[str, Any]:
    """Modality -> its configuration as part of the blend: the column, the modality that it shares, and whether it is read as
    a mean, which for a member follow from its name and its kind."""
    return {
        name: replace(
            own,
            column=member.config.column(name),
            shares=f"{m}_{own.shares}" if own.shares else None,
            averaged=member.config.reads_mean(name),
        )
        for name, own in member.config.modalities.items()
    }
