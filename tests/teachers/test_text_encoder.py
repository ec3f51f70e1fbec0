"""The text encoder against open_clip's, which pads to 77 tokens and pools at the arg-max id."""

from __future__ import annotations

import pytest
import torch
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from torch import Tensor, nn

from pivl_distill.errors import PivlError
from teachers.text_encoder import UNKNOWN_ROW, TextEncoder, Tokenizer, used_token_ids

TEXTS = [
    "a photo of a person",
    "a photo of a person wearing a red hat, upper clothes and the left shoe.",
    "hat",
    "A Photo of a   PERSON",
    "",
]


def random_clip(vocabulary: int) -> CLIP:
    """Return a CLIP with a small text encoder, all of its parameters random."""
    torch.manual_seed(0)
    vision = {"image_size": 16, "patch_size": 16, "layers": 1, "width": 16, "head_width": 16}
    text = {"context_length": 77, "vocab_size": vocabulary, "width": 32, "heads": 4, "layers": 2}
    clip = CLIP(12, vision_cfg=vision, text_cfg=text).eval()
    for parameter in clip.transformer.parameters():
        nn.init.normal_(parameter, std=0.2)
    nn.init.normal_(clip.positional_embedding, std=0.5)
    nn.init.normal_(clip.token_embedding.weight, std=0.5)
    return clip


@pytest.fixture(scope="module")
def reduced(table) -> tuple[CLIP, TextEncoder]:
    clip = random_clip(len(table) + 1)
    return clip, TextEncoder(clip, Tokenizer(table))


def padded_ids(texts: list[str], table: list[int] | None) -> Tensor:
    """Return open_clip's padded ids [B, 77], mapped to rows of a reduced token table if given."""
    ids = SimpleTokenizer()(texts)
    if table is None:
        return ids
    for row in ids:
        for position in range(int(row.argmax()) + 1):
            bpe = int(row[position])
            row[position] = 1 + table.index(bpe) if bpe in table else 0
    return ids


def test_features_equal_open_clips_with_the_reduced_table(reduced, table):
    clip, encoder = reduced
    texts = [*TEXTS, "a photo of a person with an umbrella"]
    expected = clip.encode_text(padded_ids(texts, table))
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(encoder.encode(texts), expected, rtol=1e-5, atol=1e-5)


def test_features_equal_open_clips_with_the_full_table():
    clip = random_clip(49408)
    encoder = TextEncoder(clip, Tokenizer())
    expected = clip.encode_text(padded_ids(TEXTS, None))
    torch.testing.assert_close(encoder.encode(TEXTS), expected, rtol=1e-5, atol=1e-5)


def test_features_do_not_depend_on_the_batch(reduced):
    _, encoder = reduced
    together = encoder.encode(TEXTS)
    for text, features in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(encoder.encode([text])[0], features, rtol=1e-5, atol=1e-5)


def test_tokens_after_the_end_do_not_affect_features(reduced):
    _, encoder = reduced
    ids, ends = encoder.tokenizer(TEXTS)
    embeddings = encoder.token_embedding(ids).detach()
    garbage = torch.cat([embeddings, torch.zeros(len(TEXTS), 5, encoder.width)], dim=1)
    for row, end in enumerate(ends.tolist()):
        garbage[row, end + 1 :] = 100 * torch.randn(garbage.shape[1] - end - 1, encoder.width)
    expected = encoder(embeddings, ends)
    torch.testing.assert_close(encoder(garbage, ends), expected, rtol=1e-5, atol=1e-5)


def test_every_token_up_to_the_end_affects_features(reduced):
    _, encoder = reduced
    ids, ends = encoder.tokenizer(TEXTS[:1])
    embeddings = encoder.token_embedding(ids).detach().requires_grad_()
    encoder(embeddings, ends).sum().backward()
    assert embeddings.grad is not None
    assert (embeddings.grad[0].abs().sum(1) > 0).tolist() == [True] * int(ends[0] + 1)


def test_learned_tokens_have_the_same_gradients_as_in_padded_prompts(reduced):
    clip, encoder = reduced
    ids, ends = encoder.tokenizer(TEXTS)
    tokens = torch.randn(len(TEXTS), 2, encoder.width, requires_grad=True)
    embeddings = encoder.token_embedding(ids).detach()
    # Two learned tokens after the start token shift the end token by two positions.
    prompt = torch.cat([embeddings[:, :1], tokens, embeddings[:, 1:]], dim=1)
    ours = encoder(prompt, ends + 2)

    padding = clip.token_embedding(torch.zeros(len(TEXTS), 77 - prompt.shape[1], dtype=torch.long))
    x = torch.cat([prompt, padding], dim=1) + clip.positional_embedding
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
    theirs = x[torch.arange(len(TEXTS)), ends + 2] @ clip.text_projection

    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((f * weights).sum(), tokens)[0] for f in (ours, theirs)]
    assert gradients[1].abs().mean() > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_prompt_longer_than_the_context_is_an_error(reduced):
    _, encoder = reduced
    assert encoder.encode(["hat " * 75]).shape == (1, 12)
    with pytest.raises(PivlError, match="A prompt has 78 tokens but this CLIP reads at most 77"):
        encoder.encode(["hat", "hat " * 76])


def test_tokenizer_adds_start_and_end_and_pads_to_the_longest_text(table):
    tokenizer = Tokenizer(table)
    ids, ends = tokenizer(["hat", "red hat shoes"])
    assert ids.shape == (2, 5)
    assert ends.tolist() == [2, 4]
    assert ids[:, 0].tolist() == [tokenizer.start] * 2
    assert [ids[0, 2], ids[1, 4]] == [tokenizer.end] * 2
    assert ids[0, 3:].tolist() == [0, 0]
    assert tokenizer.end == len(table) == max(range(len(table) + 1))


def test_token_outside_the_table_gets_the_unknown_row(table):
    tokenizer = Tokenizer(table)
    assert tokenizer.encode("umbrella") == [UNKNOWN_ROW]
    assert UNKNOWN_ROW not in tokenizer.encode("a photo of a person wearing red shoes")


def test_used_token_ids_are_sorted_and_unique():
    bpe = SimpleTokenizer()
    texts = ["red hat", "hat, red"]
    ids = {bpe.sot_token_id, bpe.eot_token_id, *bpe.encode(texts[0]), *bpe.encode(texts[1])}
    assert used_token_ids(texts) == sorted(ids)
    assert used_token_ids(texts)[-1] == bpe.eot_token_id
    assert used_token_ids([]) == [bpe.sot_token_id, bpe.eot_token_id]
