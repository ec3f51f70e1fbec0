"""Exports and prompt banks on the Hugging Face hub, or on a server like it (HF_ENDPOINT).

Only files that a manifest names, with the hashes it names, are uploaded and downloaded. What is
pulled becomes a plain folder: the hub's own cache consists of links, which the Extractor refuses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import BANK_FILE, MANIFEST_FILE
from pivl_distill.storage.files import atomic_folder, sha256
from pivl_distill.storage.readers import check_inside

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

    from pivl_distill.bank import PromptBank

PREFIX = "hf-hub:"
"""Of a repository's name, where a file or run could be named too."""
CARD = "README.md"
CACHE = ".cache"
"""Folder that huggingface_hub leaves beside what it downloads."""


@dataclass(frozen=True)
class Repository:
    """A repository OWNER/NAME, at a revision; None: the newest."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Parse OWNER/NAME or OWNER/NAME@REVISION, with or without `hf-hub:`; raises PivlError."""
        name, _, revision = text.removeprefix(PREFIX).partition("@")
        owner, separator, short = name.partition("/")
        if not (owner and separator and short) or "/" in short:
            raise PivlError(f"A repository of the hub looks like OWNER/NAME, not '{text}'.")
        return cls(name, revision or None)

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def push(source: Path, repository: str, *, licence: str = "other", public: bool = False) -> str:
    """Upload the hub folder of an export, or the bank of a teach run; return the address.

    Args:
        source: an export with a folder `hub`, a teach run, or a bank file.
        repository: OWNER/NAME; it is made if it does not exist.
        licence: identifier of the hub, for the card.
        public: whether a new repository is public.

    Raises: PivlError if there is nothing to upload, a file was changed or failed its verification,
        or the hub refuses it.
    """
    from huggingface_hub import HfApi

    target = Repository.parse(repository)
    if target.revision is not None:
        raise PivlError(f"Upload to OWNER/NAME, without a revision, not to '{repository}'.")
    if (source / MANIFEST_FILE).is_file():
        operations = _export_files(source, licence)
    else:
        operations = _bank_files(source / BANK_FILE if source.is_dir() else source, licence)
    api = HfApi(endpoint=_endpoint())
    with _hub_errors(f"upload to {target}"):
        api.create_repo(target.name, private=not public, exist_ok=True)
        commit = api.create_commit(target.name, operations, commit_message="Upload")
    return str(commit.commit_url)


def pull(repository: str, out: Path | None = None) -> Path:
    """Download an export or a bank to a new folder, check its files, and return the folder.

    Args:
        repository: OWNER/NAME, or OWNER/NAME@REVISION.
        out: the folder; default: NAME.

    Raises: PivlError if the folder exists, the hub refuses, or a file is not that of the manifest.
    """
    source = Repository.parse(repository)
    target = out or Path(source.name.partition("/")[2])
    if target.exists():
        raise PivlError(f"{target} exists; name another folder with --out.")
    with atomic_folder(target) as folder:
        if _download(source, MANIFEST_FILE, folder) is not None:
            _pull_export(source, folder)
        elif _download(source, BANK_FILE, folder) is None:
            raise PivlError(f"{source} has neither {MANIFEST_FILE} nor {BANK_FILE}.")
        _download(source, CARD, folder)
        shutil.rmtree(folder / CACHE, ignore_errors=True)
    return target


def download_bank(name: str) -> Path:
    """Return the bank of the repository `hf-hub:OWNER/NAME`, downloaded to the cache of the hub.

    Raises PivlError if there is none.
    """
    source = Repository.parse(name)
    if (path := _download(source, BANK_FILE, None)) is None:
        raise PivlError(f"{source} has no {BANK_FILE}.")
    return path


def _export_files(export: Path, licence: str) -> list[CommitOperationAdd]:
    """Return the files of the hub folder of an export; raises PivlError unless they are intact."""
    from huggingface_hub import CommitOperationAdd

    from export.manifest_schema import read_manifest

    entries = {entry.name: entry for entry in read_manifest(export).consumers}
    if "hub" not in entries:
        raise PivlError(
            f"{export} has no folder for the hub; make it with"
            f" `pivl-distill export {export} --for hub`."
        )
    entry = entries["hub"]
    if entry.status == "failed":
        raise PivlError(f"{export / entry.folder} failed its verification: {entry.reason}")
    operations = []
    for name, digest in entry.files.items():
        path = export / entry.folder / name
        check_inside(path)
        if not path.is_file() or sha256(path) != digest:
            raise PivlError(f"{path} is not the file its manifest describes; export it again.")
        content = path.read_bytes()
        if name == CARD:
            content = _with_licence(content.decode(), licence).encode()
        operations.append(CommitOperationAdd(name, content))
    return operations


def _bank_files(bank: Path, licence: str) -> list[CommitOperationAdd]:
    """Return a bank and its card; raises PivlError if the file is no bank."""
    from huggingface_hub import CommitOperationAdd

    from pivl_distill.bank import PromptBank

    if not bank.is_file():
        raise PivlError(
            f"{bank.parent} is neither an export nor a teach run; name one of them, or a bank file."
        )
    card = _bank_card(PromptBank.load(bank))
    return [
        CommitOperationAdd(BANK_FILE, bank.read_bytes()),
        CommitOperationAdd(CARD, _with_licence(card, licence).encode()),
    ]


def _with_licence(card: str, licence: str) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    parsed = ModelCard(card)
    assert isinstance(parsed.data, ModelCardData)
    parsed.data.license = licence
    return str(parsed)


def _bank_card(bank: PromptBank) -> str:
    """Return the card of a prompt bank."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license="other",
        library_name="pivl-distill",
        tags=["person-re-identification", "prompt-bank"],
    )
    return f"---\n{data.to_yaml()}\n---\n" + _BANK_TEXT.format(
        identities=len(bank.pids),
        vocabulary=bank.vocabulary.name,
        dim=bank.dim,
        data=bank.provenance.get("dataset", "other data"),
    )


_BANK_TEXT = """
# Prompt bank

Text features of {identities} identities and their body parts (vocabulary {vocabulary}), of {dim}
dimensions, made by `pivl-distill teach` from {data}. A student learns from them on the same images:

```sh
pivl-distill student --bank hf-hub:OWNER/NAME
```
"""


def _pull_export(source: Repository, folder: Path) -> None:
    """Download what the manifest in `folder` names, and check it."""
    from pivl_distill.runtime.manifest_reader import read_manifest  # `student` loads no runtime
    from pivl_distill.runtime.verified_files import check_file

    manifest = read_manifest(folder)
    for name in (manifest.golden_crop[0], *(artifact.file for artifact in manifest.artifacts)):
        if _download(source, name, folder) is None:
            raise PivlError(f"{source} has no {name}, but its manifest names it.")
    for artifact in manifest.artifacts:
        check_file(folder / artifact.file, artifact.bytes, artifact.sha256)


def _download(source: Repository, name: str, folder: Path | None) -> Path | None:
    """Download a file to `folder`, or to the cache; None if the repository does not have it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _hub_errors(f"download {name} of {source}"):
        try:
            path = hf_hub_download(
                source.name,
                name,
                revision=source.revision,
                local_dir=folder,
                endpoint=_endpoint(),
            )
        except LocalEntryNotFoundError:
            raise  # there is no connection
        except EntryNotFoundError:
            return None
    return Path(path)


def _endpoint() -> str | None:
    """Address of the server; None: the hub."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _hub_errors(action: str) -> Iterator[None]:
    """Turn errors of huggingface_hub and of its connections into PivlError."""
    try:
        yield
    except PivlError:
        raise
    except Exception as error:  # they share no base class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PivlError(
            f"Cannot {action}: {reason.rstrip('.')}. Check the name and the connection, and log in"
            " with `hf auth login` if the repository is private."
        ) from error
