"""What one writes first: the same network in a loop of Hugging Face models, as tutorials have it.

Each text padded to 77 tokens, each image read, decoded and prepared in each step, AdamW as it comes, the loss read in
each step.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch.nn.functional import pad

from clfa.config import RunConfig
from clfa.model.batch import Batch, Collator
from clfa.studies.bench.material import FIXED
from clfa.training.objective import objective
from clfa.training.setup import Setup


class PlainLoop:
    """The loop around a model that was set up; its own optimizer and preparing."""

    def __init__(self, setup: Setup, config: RunConfig, bf16: bool):
        self.setup, self.config, self.bf16 = setup, config, bf16
        pipeline = setup.pipeline
        teacher = cast(Collator, setup.batches.collate_fn).teacher
        self.collate = Collator(setup.model.config, pipeline.preparers, {}, teacher)
        self.optimizer = torch.optim.AdamW((p for p in setup.model.parameters() if p.requires_grad), lr=1e-5)

    def step(self, places: Sequence[int]) -> int:
        """Train on these posts; their number."""
        setup, model = self.setup, self.setup.model.train()
        batch = self.batch(places)
        with self.autocast():
            output = model(batch)
        loss = objective(output, batch, self.config.loss, model.config, setup.class_weights)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.config.train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()
        return len(places)

    @torch.no_grad()
    def logits(self, places: Sequence[int]) -> torch.Tensor:
        """What the model says of these posts."""
        model = self.setup.model.eval()
        batch = self.batch(places)
        with self.autocast():
            return model(batch).logits.float()

    def batch(self, places: Sequence[int]) -> Batch:
        """Read and prepared anew, texts of 77 tokens each."""
        batch = self.collate([self.setup.rows[place] for place in places])
        text = batch.modalities["text"]
        more = FIXED - text.inputs["input_ids"].shape[1]
        inputs = {name: pad(value, (0, more)) for name, value in text.inputs.items()}
        modalities = {**batch.modalities, "text": replace(text, inputs=inputs)}
        return Batch(modalities, batch.labels).to(self.setup.pipeline.device)

    def autocast(self):
        """The precision of the forward pass."""
        device = self.setup.pipeline.device.type
        return torch.autocast(device, torch.bfloat16) if self.bf16 else nullcontext()
