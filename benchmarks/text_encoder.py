"""The text side of stage 1 against plain encoders: `python benchmarks/text_encoder.py`.

CLIP ViT-B/16's text encoder (12 blocks, width 512, random weights, which do not affect the cost),
two threads. The baselines follow the paper and the reference code and use open_clip's own forward
pass:

- 77 tokens: every prompt padded to CLIP's context length, one prompt per image (CLIP-ReID);
- trimmed: every distinct prompt in full, cut at the longest of the batch, nothing shared.

The limit is the time of the matrix products alone, in the shapes of the unpadded tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import click
import open_clip
import torch
from harness import (
    Row,
    bound,
    clocked,
    interleaved,
    on_device,
    overhead,
    peak_bytes,
    report,
    speedup,
)
from torch import Tensor

from pivl_distill.config import PromptSettings
from pivl_distill.data.vocabulary import LIP20
from teachers.prompts import IdentityPrompts
from teachers.text_encoder import TextEncoder, Tokenizer
from teachers.tuning import encode_bank_texts

ROUNDS = 3
IDENTITIES, CROPS, PARTS = 16, 4, 12
BANK_IDENTITIES, BASELINE_SAMPLE = 751, 20
SETTINGS = PromptSettings()


class Plain:
    """Reference encoder: full prompts through open_clip's transformer."""

    def __init__(self, clip: open_clip.CLIP, tokenizer: Tokenizer) -> None:
        self.clip, self.tokenizer = clip, tokenizer

    def embeddings(self, tokens: Tensor, words: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Tokens [B, M, width] inside "a photo of a … person <words>", padded to `length`."""
        before = [self.tokenizer.start, *self.tokenizer.encode("a photo of a")]
        after = [[*self.tokenizer.encode(f"person {w}"), self.tokenizer.end] for w in words]
        room = length - len(before) - tokens.shape[1]
        padded = torch.tensor([row + [0] * (room - len(row)) for row in after])
        table = self.clip.token_embedding
        prefix = table(torch.tensor(before)).expand(len(tokens), -1, -1)
        ends = len(before) + tokens.shape[1] + torch.tensor([len(row) - 1 for row in after])
        return torch.cat([prefix, tokens, table(padded)], dim=1), ends

    def encode(self, tokens: Tensor, words: list[str], length: int = 77) -> Tensor:
        x, ends = self.embeddings(tokens, words, length)
        x = x + self.clip.positional_embedding[:length]
        x = self.clip.transformer(x, attn_mask=self.clip.attn_mask[:length, :length])
        x = self.clip.ln_final(x)
        return x[torch.arange(len(x)), ends] @ self.clip.text_projection


def step(prompts: IdentityPrompts, encode: Callable[[], Tensor]) -> Callable[[], None]:
    """Encoding and its gradient with respect to the learned tokens, as in a training step."""

    def run() -> None:
        prompts.tokens.grad = None
        encode().square().sum().backward()

    return run


def identity_step(prompts: IdentityPrompts, plain: Plain) -> Iterator[Row]:
    rows = torch.arange(IDENTITIES, device="cpu")
    per_image = torch.arange(IDENTITIES).repeat_interleave(CROPS)
    seconds = interleaved(
        {
            "ours": step(prompts, lambda: prompts.identity(rows)),
            "77": step(prompts, lambda: plain.encode(prompts.tokens[per_image], [""] * 64)),
            "limit": matmuls(IDENTITIES * 6, IDENTITIES),
        },
        ROUNDS,
    )
    name = "stage-1 identity step, 16 × 4"
    yield speedup(
        f"{name}, against 64 prompts × 77 tokens", seconds["ours"], seconds["77"], "s", 15
    )
    yield overhead(
        f"{name}, against its matrix products", seconds["ours"], seconds["limit"], "s", None
    )


def part_step(prompts: IdentityPrompts, plain: Plain) -> Iterator[Row]:
    parts = torch.arange(1, PARTS + 1, device="cpu").repeat(IDENTITIES)
    rows = torch.arange(IDENTITIES, device="cpu").repeat_interleave(PARTS)
    per_part = rows.to(torch.get_default_device())
    words = [LIP20.words[part] for part in parts.tolist()]
    trimmed = 10 + 1 + max(len(plain.tokenizer.encode(word)) for word in words)
    real = IDENTITIES * 5 + sum(len(plain.tokenizer.encode(word)) + 1 for word in words)
    seconds = interleaved(
        {
            "ours": step(prompts, lambda: prompts.part(rows, parts)),
            "trimmed": step(
                prompts, lambda: plain.encode(prompts.tokens[per_part], words, trimmed)
            ),
            "77": step(prompts, lambda: plain.encode(prompts.tokens[per_part], words)),
            "limit": matmuls(real, len(words)),
        },
        ROUNDS,
    )
    name = "stage-1 part step, 16 × 12"
    yield speedup(
        f"{name}, against trimmed unshared", seconds["ours"], seconds["trimmed"], "s", 2.5
    )
    yield speedup(f"{name}, against 77 tokens", seconds["ours"], seconds["77"], "s", 12)
    yield overhead(
        f"{name}, against its matrix products", seconds["ours"], seconds["limit"], "s", None
    )


def matmuls(tokens: int, ends: int) -> Callable[[], None]:
    """The bare matrix products of 12 blocks over a number of tokens, forward and backward.

    After the keys and values of the last block only the `ends` go on.
    """
    shapes = ((512, 1536), (512, 512), (512, 2048), (2048, 512))
    weights = [torch.randn(12, *shape) for shape in shapes]
    inputs = [torch.randn(tokens, shape[0]) for shape in shapes]
    outputs = [torch.randn(tokens, shape[1]) for shape in shapes]

    def run() -> None:
        for layer in range(12):
            for number, (weight, x, grad) in enumerate(zip(weights, inputs, outputs, strict=True)):
                count = ends if layer == 11 and number else tokens
                x[:count] @ weight[layer]
                grad[:count] @ weight[layer].T

    return run


def bank(prompts: IdentityPrompts, plain: Plain) -> Iterator[Row]:
    """The texts of a bank; the 77-token encoder runs a sample of identities, ours also all."""
    parts = len(LIP20)
    every_part = torch.ones(BANK_IDENTITIES, parts, dtype=torch.bool, device="cpu")
    some_part = every_part[:BASELINE_SAMPLE]
    sample = prompts.tokens[:BASELINE_SAMPLE]

    @torch.inference_mode()
    def plain_sample() -> None:
        plain.encode(sample, [""] * len(sample))
        for tokens in sample.split(1):  # 20 prompts at a time
            plain.encode(tokens.expand(parts, -1, -1), list(LIP20.words))

    seconds = interleaved(
        {"ours": lambda: encode_bank_texts(prompts, some_part), "77": plain_sample},
        ROUNDS,
    )
    whole: list[float] = []
    peak = peak_bytes(lambda: whole.append(clocked(lambda: encode_bank_texts(prompts, every_part))))
    kept = BANK_IDENTITIES * (parts + 1) * plain.clip.text_projection.shape[1] * 4
    extrapolated = seconds["77"] * BANK_IDENTITIES / BASELINE_SAMPLE
    name = f"bank of {BANK_IDENTITIES} × {parts} prompts"
    sampled = f"against the 77-token encoder on {BASELINE_SAMPLE} identities"
    yield speedup(f"{name}, {sampled}, scaled up", whole[0], extrapolated, "s", 12)
    yield speedup(
        f"bank of {BASELINE_SAMPLE} × {parts} prompts, {sampled}",
        seconds["ours"],
        seconds["77"],
        "s",
        12,
    )
    yield bound(f"{name}, memory beyond the texts", (peak - kept) / 2**20, "MiB", 256)


@click.command()
@on_device
def main() -> None:
    """Measure and print all rows."""
    clip = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    clip.to(torch.get_default_device())
    tokenizer = Tokenizer()
    generator = torch.Generator(torch.get_default_device())
    text = TextEncoder(clip, tokenizer)
    prompts = IdentityPrompts(text, SETTINGS, BANK_IDENTITIES, LIP20, generator)
    plain = Plain(clip, tokenizer)
    sides = (identity_step, part_step, bank)
    report("Text encoder", itertools.chain.from_iterable(rows(prompts, plain) for rows in sides))


if __name__ == "__main__":
    main()
