"""Does a tokenizer read these texts: unknown tokens, texts that it cuts, texts that it spells byte by byte."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SAMPLE = 2_000
UNKNOWN, CUT, SPELLED = 0.05, 0.10, 0.10
"""Shares from which on a misreading is worth a warning."""
OTHER = "choose an encoder for the languages of these texts (a multilingual one)"


@dataclass(frozen=True)
class Misreading:
    """One way in which a tokenizer fails these texts."""

    kind: str
    """`unknown`, `cut` or `spelled`."""
    share: float
    """Of unknown tokens among all; of the texts that are cut, or spelled."""
    texts: int
    """Texts with an unknown token, or that are cut, or spelled."""
    text: str
    """A sentence without its end: what happens, with its figures."""
    advice: str
    """What to do, likewise."""


def misreadings(tokenizer: Any, texts: Sequence[str], max_length: int, fixed: bool = True) -> list[Misreading]:
    """What a tokenizer of Hugging Face does to a sample of 2,000 of the texts (seed 0); empty if it reads them well.

    `unknown`: over 5 % of the tokens are its unknown token. `cut`: over 10 % of the texts have more than `max_length`
    tokens, special ones included. `spelled`: over 10 % have more tokens than characters (white space not counted), as
    byte-level tokenizers, which know no unknown token, make of scripts that they were not trained on.

    Args:
        tokenizer: the tokenizer.
        texts: N texts.
        max_length: tokens that the encoder is given.
        fixed: whether its vocabulary was there before these texts; else unknown are the rare words, on purpose.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(texts))[:SAMPLE])
    sample = [text for number in chosen if (text := texts[number]).strip()]
    if not sample:
        return []
    # without special tokens: the unknown token of CLIP and GPT-2 is also the one that ends a text
    encoded = tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"]
    lengths = np.array([len(tokens) for tokens in encoded])
    unknown = np.array([tokens.count(tokenizer.unk_token_id) for tokens in encoded])
    full = lengths + tokenizer.num_special_tokens_to_add()
    cut, spelled = full > max_length, lengths > [len("".join(text.split())) for text in sample]
    count, found = f"{len(sample):,} sampled texts", []
    if fixed and (share := float(unknown.sum() / max(1, lengths.sum()))) > UNKNOWN:
        what = f"the tokenizer turns {100 * share:.1f} % of the tokens of {count} into unknown ones"
        found.append(Misreading("unknown", share, int((unknown > 0).sum()), what, OTHER))
    if (share := float(cut.mean())) > CUT:
        what = f"{100 * share:.1f} % of {count} are cut: they have more than {max_length} tokens"
        enough = int(np.ceil(np.quantile(full, 0.99)))
        found.append(
            Misreading("cut", share, int(cut.sum()), what, f"raise max_length; 99 % have up to {enough} tokens")
        )
    if (share := float(spelled.mean())) > SPELLED:
        what = f"{100 * share:.1f} % of {count} become more tokens than they have characters: bytes, not words"
        found.append(Misreading("spelled", share, int(spelled.sum()), what, OTHER))
    return found
