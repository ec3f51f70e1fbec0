"""Learned prompts equal plain text if their tokens are word embeddings; only tokens are trained."""

from __future__ import annotations

import copy

import pytest
import torch

from pivl_distill.config import PromptSettings
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from teachers.prompts import IdentityPrompts, PromptTemplate

IDENTITIES = 3


@pytest.fixture
def prompts(frozen_clip):
    def make(seed: int = 0, **settings: object) -> IdentityPrompts:
        generator = torch.Generator().manual_seed(seed)
        prompt_settings = PromptSettings(**settings)
        return IdentityPrompts(frozen_clip.text, prompt_settings, IDENTITIES, LIP20, generator)

    return make


def set_words(prompts: IdentityPrompts, text, row: int, words: str) -> None:
    """Set the learned tokens of one identity to the embeddings of words."""
    ids = torch.tensor(text.tokenizer.encode(words))
    with torch.no_grad():
        prompts.tokens[row] = text.token_embedding(ids)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_word_embeddings_as_learned_tokens_equal_the_plain_text(prompts, frozen_clip):
    text, learned = frozen_clip.text, prompts()
    phrases = ["X X X X", "red hat blue coat", "a person wearing shoes"]
    for row, words in enumerate(phrases):
        set_words(learned, text, row, words)
    rows = torch.arange(IDENTITIES)
    expected = text.encode([f"a photo of a {words} person" for words in phrases])
    assert_close(learned.identity(rows), expected)
    for part in ("Hat", "Upper-clothes", "Left-shoe"):
        number = LIP20.index(part)
        sentences = [f"a photo of a {words} person {LIP20.words[number]}" for words in phrases]
        ours = learned.part(rows, torch.full((IDENTITIES,), number))
        assert_close(ours, text.encode(sentences))


def test_texts_follow_the_order_of_the_given_rows_and_parts(prompts, frozen_clip):
    text, learned = frozen_clip.text, prompts()
    for row, words in enumerate(["red red red red", "blue hat hat hat", "coat coat coat coat"]):
        set_words(learned, text, row, words)
    rows = torch.tensor([2, 0, 2])
    parts = torch.tensor([LIP20.index(part) for part in ("Upper-clothes", "Hat", "Face")])
    expected = text.encode(
        [
            "a photo of a coat coat coat coat person upper clothes",
            "a photo of a red red red red person hat",
            "a photo of a coat coat coat coat person face",
        ]
    )
    assert_close(learned.part(rows, parts), expected)


def test_part_words_before_the_tokens_may_differ_in_length(prompts, frozen_clip):
    template = "the {part} of a {X} person"
    learned = prompts(part=template, learned_tokens=2)
    set_words(learned, frozen_clip.text, 1, "blue coat")
    names = ("Hat", "Upper-clothes", "Left-shoe", "Hat")
    parts = torch.tensor([LIP20.index(name) for name in names])
    words = [LIP20.words[part] for part in parts]
    expected = frozen_clip.text.encode([f"the {word} of a blue coat person" for word in words])
    assert_close(learned.part(torch.ones(4, dtype=torch.long), parts), expected)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (
            "a photo of a {X} person wearing the {part}.",
            "a photo of a red hat person wearing the hat.",
        ),
        ("{X} {part}", "red hat hat"),
        ("the {X}'s {part}, a photo", "the red hat's hat, a photo"),
        ("the {part} of a {X} person", "the hat of a red hat person"),
        ("{part} {X}", "hat red hat"),
    ],
)
def test_templates_are_configurable(prompts, frozen_clip, template, sentence):
    learned = prompts(part=template, learned_tokens=2)
    set_words(learned, frozen_clip.text, 0, "red hat")
    ours = learned.part(torch.tensor([0]), torch.tensor([LIP20.index("Hat")]))
    assert_close(ours, frozen_clip.text.encode([sentence]))


def test_only_learned_tokens_get_gradients(prompts, frozen_clip):
    learned = prompts()
    assert [name for name, _ in learned.named_parameters()] == ["tokens"]
    assert learned.state_dict().keys() == {"tokens"}
    assert learned.tokens.shape == (IDENTITIES, 4, frozen_clip.text.width)
    rows = torch.tensor([0, 2])
    (learned.identity(rows).sum() + learned.part(rows, torch.tensor([1, 5])).sum()).backward()
    has_gradient = learned.tokens.grad.abs().sum((1, 2)) > 0
    assert has_gradient.tolist() == [True, False, True]
    assert all(p.grad is None for p in frozen_clip.text.parameters())


def test_initial_tokens_depend_on_the_seed_and_have_the_given_standard_deviation(prompts):
    assert torch.equal(prompts(seed=1).tokens, prompts(seed=1).tokens)
    assert not torch.equal(prompts(seed=1).tokens, prompts(seed=2).tokens)
    std = prompts(init_std=0.5, learned_tokens=40).tokens.std().item()
    assert std == pytest.approx(0.5, rel=0.05)


def test_too_many_learned_tokens_are_refused(prompts):
    with pytest.raises(PivlError, match="87 tokens but this CLIP reads at most 77; shorten the"):
        prompts(learned_tokens=80)


PART_TEMPLATES = {
    "template of the paper": "a photo of a {X} person {part}",
    "words after the part": "a photo of a {X} person wearing the {part}, a photo.",
    "part directly after the tokens": "{X} {part}",
    "no shared words": "{X}{part}",
}


def plain_texts(text, learned, template: str, rows, part_words: list[str]) -> torch.Tensor:
    """Return features of prompts padded to 77 tokens, by open_clip's own transformer and mask."""
    before, after = template.split("{X}")
    ids = text.tokenizer
    mask = torch.full((77, 77), -torch.inf, dtype=torch.float64).triu(1)
    features = []
    for row, part in zip(rows.tolist(), part_words, strict=True):
        head = [ids.start, *ids.encode(before.format(part=part))]
        tail = [*ids.encode(after.format(part=part)), ids.end]
        room = 77 - len(head) - len(tail) - learned.tokens.shape[1]
        head, tail, padding = (
            text.token_embedding(torch.tensor(part, dtype=torch.long))
            for part in (head, tail, [0] * room)
        )
        x = torch.cat([head, learned.tokens[row], tail, padding])[None]
        x = text.transformer(x + text.positional_embedding, attn_mask=mask)
        end = 77 - room - 1
        features.append(text.ln_final(x[0, end]) @ text.text_projection)
    return torch.stack(features)


def assert_same_with_gradients(ours, plain, learned) -> None:
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)
    weights = torch.randn_like(ours)
    gradients = [
        torch.autograd.grad((texts * weights).sum(), learned.tokens)[0] for texts in (ours, plain)
    ]
    assert gradients[1].abs().mean() > 1e-3
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)


@pytest.fixture
def exact_prompts(frozen_clip):
    """`exact_prompts(part=…)` returns a text encoder and prompts in double precision."""

    def make(**settings: object):
        text = copy.deepcopy(frozen_clip.text).double()
        generator = torch.Generator().manual_seed(0)
        prompt_settings = PromptSettings(init_std=0.5, **settings)
        return text, IdentityPrompts(text, prompt_settings, IDENTITIES, LIP20, generator).double()

    return make


@pytest.mark.parametrize("template", PART_TEMPLATES.values(), ids=PART_TEMPLATES)
def test_part_texts_and_gradients_equal_those_of_padded_prompts(exact_prompts, template):
    text, learned = exact_prompts(part=template, learned_tokens=3)
    rows = torch.tensor([2, 0, 2, 2, 1, 0])
    parts = torch.tensor(
        [LIP20.index(p) for p in ("Hat", "Left-shoe", "Face", "Hat", "Coat", "Hat")]
    )
    words = [LIP20.words[part] for part in parts.tolist()]
    plain = plain_texts(text, learned, template, rows, words)
    assert_same_with_gradients(learned.part(rows, parts), plain, learned)


def test_part_words_may_be_parser_labels(exact_prompts):
    text, learned = exact_prompts(part_words="raw")
    rows, parts = torch.tensor([2, 0]), torch.tensor([14, 5])
    template = "a photo of a {X} person {part}"
    plain = plain_texts(text, learned, template, rows, ["Left-arm", "Upper-clothes"])
    assert_same_with_gradients(learned.part(rows, parts), plain, learned)


@pytest.mark.parametrize("template", ["a photo of a {X} person", "{X}", "the {X} person, a photo."])
def test_identity_texts_and_gradients_equal_those_of_padded_prompts(exact_prompts, template):
    text, learned = exact_prompts(identity=template)
    rows = torch.tensor([1, 2, 0])
    plain = plain_texts(text, learned, template, rows, [""] * 3)
    assert_same_with_gradients(learned.identity(rows), plain, learned)


def test_template_may_name_the_part_before_the_tokens(exact_prompts):
    text, learned = exact_prompts()
    template = "the {part} of a {X} person"
    sentence = PromptTemplate(text, template, LIP20.words, learned.tokens.shape[1])
    rows, parts = torch.tensor([0, 2, 0]), torch.tensor([1, 5, 18])
    words = [LIP20.words[part] for part in parts.tolist()]
    plain = plain_texts(text, learned, template, rows, words)
    assert_same_with_gradients(sentence.encode(learned.tokens, rows, parts), plain, learned)


def test_parts_with_equal_words_keep_their_end_token(exact_prompts):
    text, learned = exact_prompts()
    sentence = PromptTemplate(text, "a {X} person {part}", ["hat", "hat"], 4)
    ours = sentence.encode(learned.tokens, torch.tensor([1, 1]), torch.tensor([0, 1]))
    plain = plain_texts(text, learned, "a {X} person {part}", torch.tensor([1, 1]), ["hat"] * 2)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)


def test_shared_prompt_prefixes_are_encoded_once(exact_prompts):
    text, learned = exact_prompts()
    token_counts: list[int] = []
    mlp = text.transformer.resblocks[0].mlp
    hook = mlp.register_forward_hook(
        lambda _module, inputs, _output: token_counts.append(len(inputs[0]))
    )
    rows, parts = torch.tensor([0, 0, 0, 2]), torch.tensor([1, 13, 18, 1])
    learned.part(rows, parts)
    learned.identity(torch.tensor([0, 1]))
    hook.remove()
    # Part prompts: the start and "a photo of a" once; "X X X X person" of two identities; then
    # "hat", "face", "left shoe" and "hat", each with its end token. Identity prompts: the start and
    # "a photo of a" once; then "X X X X person" and the end token of two identities.
    assert token_counts == [5, 2 * 5, 2 + 2 + 3 + 2, 5, 2 * 6]
