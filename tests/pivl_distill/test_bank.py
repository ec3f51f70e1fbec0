"""The prompt bank: lookup by pid, checks of images and files, control experiments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from pivl_distill.bank import KIND, PromptBank
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import LIP20
from pivl_distill.errors import PivlError
from pivl_distill.storage.tensors import load_tensors, save_tensors

TENSORS = ("identity", "part", "label", "present")


def test_load_returns_what_was_saved(prompt_bank, tmp_path):
    path = tmp_path / "new folder" / "bank.safetensors"
    prompt_bank.save(path)
    loaded = PromptBank.load(path)
    for name in TENSORS:
        assert torch.equal(getattr(loaded, name), getattr(prompt_bank, name)), name
    assert loaded.present.dtype == torch.bool
    assert loaded.pids == prompt_bank.pids
    assert loaded.vocabulary is LIP20
    assert loaded.provenance == prompt_bank.provenance
    assert loaded.image_digests == prompt_bank.image_digests == frozenset()
    assert loaded.dim == 16


def test_float16_halves_the_file_and_loads_as_float32(prompt_bank, tmp_path):
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("float32", "float16")}
    for precision, path in paths.items():
        prompt_bank.save(path, precision)
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    numbers = sum(getattr(prompt_bank, name).numel() for name in ("identity", "part", "label"))
    assert sizes["float32"] - sizes["float16"] == pytest.approx(2 * numbers, abs=64)
    loaded = PromptBank.load(paths["float16"])
    assert loaded.part.dtype == torch.float32
    assert torch.equal(loaded.part, prompt_bank.part.half().float())
    assert torch.equal(loaded.present, prompt_bank.present)


def test_rows_are_found_by_pid(prompt_bank):
    chosen = prompt_bank.select([21, 3, 12])
    assert chosen.pids == (21, 3, 12)
    rows = [5, 0, 3]
    for name in ("identity", "part", "present"):
        assert torch.equal(getattr(chosen, name), getattr(prompt_bank, name)[rows]), name
    assert torch.equal(chosen.label, prompt_bank.label)


def test_select_accepts_any_iterable_and_keeps_the_same_pids(prompt_bank):
    same = prompt_bank.select(pid for pid in prompt_bank.pids)
    assert same.pids == prompt_bank.pids
    assert torch.equal(same.part, prompt_bank.part)


def test_unknown_identities_are_named(prompt_bank):
    with pytest.raises(PivlError, match=r"2 of 3 identities \(pid 5, 99\).*made from bands"):
        prompt_bank.select([5, 7, 99])


def test_at_most_ten_unknown_identities_are_named(prompt_bank):
    with pytest.raises(PivlError, match=r"50 of 50 .*\(pid 100, .*, 109, …\)"):
        prompt_bank.select(range(100, 150))


@pytest.fixture
def people(tmp_path) -> Callable[..., tuple[Record, ...]]:
    """`people({3: 10, 7: 20})` writes two images of each pid, with that many bytes."""

    def write(lengths: dict[int, int], folder: str = "here") -> tuple[Record, ...]:
        paths = [
            (pid, length, tmp_path / folder / str(pid) / f"{number}.jpg")
            for pid, length in lengths.items()
            for number in (1, 2)
        ]
        for _, length, path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * length)
        return tuple(Record(path, pid, None) for pid, _, path in paths)

    return write


@pytest.fixture
def loaded_bank(prompt_bank, people, tmp_path) -> PromptBank:
    """A bank loaded from a file, with the digests of the images of pid 3, 7 and 8."""
    images = frozenset(record.digest for record in people({3: 10, 7: 20, 8: 30}))
    dataclasses.replace(prompt_bank, image_digests=images).save(tmp_path / "bank.safetensors")
    return PromptBank.load(tmp_path / "bank.safetensors")


def test_the_same_images_are_accepted_in_any_folder(loaded_bank, people):
    elsewhere = people({3: 10, 7: 20, 8: 30}, "elsewhere")
    loaded_bank.check_images(elsewhere)
    loaded_bank.check_images(elsewhere[2:4])  # fewer identities
    loaded_bank.check_images(elsewhere[::2])  # fewer images of each


def test_additional_images_of_the_same_people_are_accepted(loaded_bank, people):
    loaded_bank.check_images((*people({3: 10}), *people({3: 99}, "more")))


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ({3: 11, 7: 21, 8: 31}, r"3 of 3 identities \(pid 3, 7, 8\)"),  # other people
        ({3: 10, 7: 30, 8: 20}, r"2 of 3 identities \(pid 7, 8\)"),  # other pids
    ],
)
def test_other_people_with_the_same_pids_are_named(loaded_bank, people, lengths, named):
    with pytest.raises(PivlError, match=rf"made from bands and .*{named}.*trust_pids=true"):
        loaded_bank.check_images(people(lengths, "other"))


def test_label_only_has_the_same_part_features_for_all_identities(prompt_bank):
    control = prompt_bank.label_only()
    assert control.part.shape == prompt_bank.part.shape
    for row in range(len(prompt_bank.pids)):
        assert torch.equal(control.part[row], prompt_bank.label)
    assert torch.equal(control.identity, prompt_bank.identity)
    assert torch.equal(control.present, prompt_bank.present)


@pytest.mark.parametrize("seed", range(8))
def test_permuted_gives_each_identity_the_rows_of_another(prompt_bank, seed):
    control = prompt_bank.permuted(seed)
    assert control.pids == prompt_bank.pids
    sources = []
    for row in range(len(prompt_bank.pids)):
        (source,) = (prompt_bank.identity == control.identity[row]).all(1).nonzero().tolist()
        sources += source
        assert torch.equal(control.part[row], prompt_bank.part[source[0]])
        assert torch.equal(control.present[row], prompt_bank.present[source[0]])
    assert sorted(sources) == list(range(len(prompt_bank.pids)))
    assert all(source != row for row, source in enumerate(sources))


def test_permuted_depends_on_the_seed_alone(prompt_bank):
    assert torch.equal(prompt_bank.permuted(1).part, prompt_bank.permuted(1).part)
    different = [prompt_bank.permuted(seed).identity for seed in range(6)]
    assert any(not torch.equal(different[0], other) for other in different)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": torch.zeros(6, 15)}, r"identity is \(6, 15\), not \(6, 16\)"),
        ({"label": torch.zeros(19, 16)}, r"label is \(19, 16\), not \(20, 16\)"),
        ({"present": torch.zeros(5, 20)}, r"present is \(5, 20\), not \(6, 20\)"),
        ({"pids": (1, 2, 3)}, "3 distinct pids for 6 rows"),
        ({"pids": (1, 1, 2, 3, 4, 5)}, "5 distinct pids for 6 rows"),
        (
            {
                "part": torch.zeros(6, 3, 16),
                "label": torch.zeros(3, 16),
                "present": torch.zeros(6, 3),
            },
            "3 parts for the 20 of the vocabulary",
        ),
    ],
)
def test_inconsistent_shapes_are_refused(prompt_bank, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(prompt_bank, **change)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PivlError, match=r"No prompt bank at .*none"):
        PromptBank.load(tmp_path / "none.safetensors")


def test_a_damaged_file_is_refused(prompt_bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    prompt_bank.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PivlError, match="is not a prompt bank"):
        PromptBank.load(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "student.safetensors"
    save_tensors(path, "student", {"weight": torch.zeros(2)}, {})
    with pytest.raises(PivlError, match="is not a prompt bank, but a student"):
        PromptBank.load(path)


def test_an_unknown_vocabulary_is_named(prompt_bank, tmp_path):
    path = tmp_path / "bank.safetensors"
    prompt_bank.save(path)
    _, tensors, metadata = load_tensors(path, KIND)
    save_tensors(path, KIND, tensors, metadata | {"vocabulary": "lip21"})
    with pytest.raises(
        PivlError,
        match=r"Unknown part vocabulary in .*: 'lip21'; did you mean 'lip20'",
    ):
        PromptBank.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": torch.zeros(3)},
        {"identity": torch.zeros(2, 2)},
        {"part": torch.zeros(6, 20, 0)},
        {"present": torch.zeros(6, 20)},
        {"pids": torch.tensor(3)},
        {"pids": torch.zeros(6)},
        {"pids": torch.zeros(6, dtype=torch.long)},
        {"label": None},
        {"image_digests": torch.zeros(2, 2, dtype=torch.long)},
    ],
)
def test_tensors_that_do_not_fit_are_refused(prompt_bank, tmp_path, change):
    path = tmp_path / "bank.safetensors"
    prompt_bank.save(path)
    _, tensors, metadata = load_tensors(path, KIND)
    tensors = {name: t for name, t in (tensors | change).items() if t is not None}
    save_tensors(path, KIND, tensors, metadata)
    with pytest.raises(PivlError, match=r"is damaged: .*make it again with"):
        PromptBank.load(path)


@pytest.mark.parametrize(
    "change", [{"vocabulary": ["lip20"]}, {"vocabulary": "x" * 10**6}, {"provenance": "me"}]
)
def test_metadata_of_other_types_is_refused_briefly(prompt_bank, tmp_path, change):
    path = tmp_path / "bank.safetensors"
    prompt_bank.save(path)
    _, tensors, metadata = load_tensors(path, KIND)
    save_tensors(path, KIND, tensors, metadata | change)
    with pytest.raises(PivlError, match=r"Unknown part vocabulary|its provenance") as raised:
        PromptBank.load(path)
    assert len(str(raised.value)) < 500
