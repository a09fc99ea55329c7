"""Files of the Hugging Face hub: what of them is on this machine, without asking the network.

A repository is ORG/NAME, or ORG/NAME@REVISION: a commit, branch or tag of it.
"""

from __future__ import annotations

from pathlib import Path

from clipeval.configs.errors import ClipevalError, first_line
from clipeval.data.library_logs import errors_only

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

TOKENIZER_PATTERNS = ("tokenizer*", "vocab*", "merges*", "*.model", "*.tiktoken")
"""Further files that a tokenizer's config can name."""


class OutOfReach(ClipevalError):  # noqa: N818 - what it is, in the words of its users
    """The hub cannot be reached from here."""


def split(repository: str) -> tuple[str, str | None]:
    """ORG/NAME, and the revision that is named behind it."""
    name, _, revision = repository.partition("@")
    return name, revision or None


def cached(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """The file in the hub's cache, of a revision, or of what `main` was when it was fetched; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache  # with its HTTP client; a folder's model needs neither

    name, pinned = split(repository)
    found = try_to_load_from_cache(name, filename, revision=revision or pinned)
    return Path(found) if isinstance(found, str) else None


def cached_any(repository: str, filenames: tuple[str, ...], revision: str | None = None) -> Path | None:
    """The first of several files that is in the cache."""
    return next((path for name in filenames if (path := cached(repository, name, revision)) is not None), None)


def weight_names(filename: str) -> tuple[str, ...]:
    """The names under which open_clip looks for weights, best first: safetensors before pickles."""
    if not filename:
        return WEIGHTS
    if filename == WEIGHTS[1]:
        return WEIGHTS
    if filename.endswith((".bin", ".pth")):
        return filename[:-4] + ".safetensors", filename
    return (filename,)


def tokenizer_files(source: str) -> list[Path]:
    """The files of a tokenizer, of a folder or of a cached repository, in a fixed order; none if there are none."""
    folder = Path(source)
    if folder.is_dir():
        found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
        more = {path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern) if path.is_file()}
        return found + sorted(more - set(found)) if found else []
    return [path for name in TOKENIZER_FILES if (path := cached(source, name)) is not None]


def download(repository: str, filenames: tuple[str, ...], revision: str | None = None) -> Path:
    """Fetch the first of several files that the repository has. ClipevalError says why it cannot be fetched."""
    for filename in filenames:
        path = fetch_one(repository, filename, revision)
        if path is not None:
            return path
    raise ClipevalError(f"{repository} has none of {', '.join(filenames)}")


def download_tokenizer(repository: str) -> None:
    """Fetch every tokenizer file that the repository has, and its config, which transformers reads to choose a class."""
    found = [fetch_one(repository, filename) for filename in (*TOKENIZER_FILES, "config.json")]
    if not any(found):
        raise ClipevalError(f"{repository} has no tokenizer files")


def fetch_one(repository: str, filename: str, revision: str | None = None) -> Path | None:
    """Fetch one file; None if the repository has none of that name. ClipevalError says why it cannot be fetched."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, pinned = split(repository)
    revision = revision or pinned
    try:
        # It logs each of its tries; whether they came to something is said here.
        with errors_only("huggingface_hub.utils._http"):
            return Path(hf_hub_download(repository, filename, revision=revision))
    except LocalEntryNotFoundError as error:  # no network; it derives from the error of a file that does not exist
        raise OutOfReach(f"{filename} of {repository} cannot be downloaded: the hub is out of reach") from error
    except EntryNotFoundError:
        return None
    except GatedRepoError:
        raise ClipevalError(
            f"{repository} is gated: accept its terms at https://huggingface.co/{repository}, then log in with a token of the "
            "same account (hf auth login, or HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise ClipevalError(
            f"{repository} is not there, or is private: see https://huggingface.co/{repository}; a private one wants a token "
            "(hf auth login, or HF_TOKEN)"
        ) from None
    except RevisionNotFoundError:
        raise ClipevalError(
            f"{repository} has no revision {revision}: see https://huggingface.co/{repository}/commits/main"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = first_line(error)
        raise ClipevalError(f"{filename} of {repository} cannot be downloaded: {reason}") from error
