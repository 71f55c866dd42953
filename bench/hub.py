"""Models on the hub: which of their files are missing here, and how these come into the hub's local cache.

The hub's own client lists the files and links them into its cache. It starts a broken download of gigabytes anew in the
next process, so the bytes come by :mod:`bench.transfer`, which continues it.

A token is read from the environment variable HF_TOKEN alone, and goes to the hub alone. A suite file can name a
repository, but neither a host nor a token. HF_ENDPOINT names a mirror of the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from bench.downloads import HubFiles
from bench.transfer import DownloadError, RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# A file of tensors or the index of several: its precision ("fp16", "non_ema", or none) and its form.
_TENSORS = re.compile(
    r"(?:diffusion_pytorch_model|open_clip_pytorch_model|open_clip_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[a-z]\w*?))?(?:-\d+-of-\d+)?\.(?P<form>safetensors|bin)"
    r"(?:\.index(?:\.(?P<index_variant>\w+))?\.json)?"
)
# (precision, form), the preferred one first: the order in which weights are read.
_PREFERRED = ((None, "safetensors"), ("fp16", "safetensors"), (None, "bin"), ("fp16", "bin"))
# Forms of tensors that other programs read.
_FOREIGN = (".msgpack", ".h5", ".ot", ".onnx", ".onnx_data", ".pb", ".xml", ".tflite", ".gguf", ".ckpt")


@dataclass(frozen=True)
class HubListing:
    """The files that the hub has for one :class:`~bench.downloads.HubFiles`, and what of it is missing here."""

    files: HubFiles
    commit: str
    licence: str
    gated: bool
    missing: dict[str, RemoteFile]
    """Name in the repository -> the file to download."""


def endpoint() -> str:
    """The hub's address: ``$HF_ENDPOINT``, else the public hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def token() -> str | None:
    """``$HF_TOKEN``. A token that was stored by a login is not used."""
    return os.environ.get("HF_TOKEN") or None


def page(repository: str) -> str:
    """The address of the page with the licence."""
    return f"{endpoint()}/{repository}"


def list_files(files: HubFiles) -> HubListing:
    """Asks the hub. Raises DownloadError where it does not answer, or does not have the repository or the files."""
    from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    with _readable_errors(files):
        api = HfApi(endpoint=endpoint(), token=token() or False)
        info = api.model_info(files.repository, revision=files.revision, files_metadata=True)
    siblings = {item.rfilename: item for item in info.siblings or () if item.rfilename.isprintable()}
    names = chosen(list(siblings), files.patterns)
    if not names or info.sha is None:
        raise DownloadError(
            f"{page(files.repository)} has none of the files {', '.join(files.patterns)} at revision "
            f"{files.revision}. Check the name and the revision."
        )

    # A blob in the cache is named by its digest: SHA-256 of a large file, git's SHA-1 of a small one.
    cache = Path(constants.HF_HUB_CACHE)
    blobs = cache / repo_folder_name(repo_id=files.repository, repo_type="model") / "blobs"
    missing = {}
    for name in names:
        if isinstance(
            try_to_load_from_cache(files.repository, name, cache_dir=cache, revision=info.sha), str
        ):
            continue
        sha256, git_sha1 = _digests(siblings[name], files)
        missing[name] = RemoteFile(
            url=hf_hub_url(files.repository, name, revision=info.sha, endpoint=endpoint()),
            path=blobs / (sha256 or git_sha1),
            name=f"{files.repository}: {name}",
            size=siblings[name].size,
            sha256=sha256,
            git_sha1=git_sha1,
            token=token(),
        )
    # The card is anybody's text, and is printed.
    stated = info.card_data.get("license") if info.card_data else None
    return HubListing(
        files=files,
        commit=info.sha,
        licence=files.licence or (stated if isinstance(stated, str) and stated.isprintable() else ""),
        gated=bool(info.gated),
        missing=missing,
    )


def link(listing: HubListing, name: str) -> None:
    """Links a downloaded file into the snapshot of its commit, as the hub's client does. Raises DownloadError."""
    from huggingface_hub import constants, hf_hub_download

    with _readable_errors(listing.files):
        hf_hub_download(
            listing.files.repository,
            name,
            # A branch's name, so that the cache knows which commit it is.
            revision=listing.files.revision,
            cache_dir=constants.HF_HUB_CACHE,
            endpoint=endpoint(),
            token=token() or False,
        )


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that match some pattern, with one form of the tensors in each folder.

    A name that is a pattern itself is always taken.
    """
    matching = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    forms: dict[str, set[tuple[str | None, str]]] = {}
    for name in matching:
        if form := _form(name):
            forms.setdefault(name.rpartition("/")[0], set()).add(form)
    best = {
        folder: next((form for form in _PREFERRED if form in present), None)
        for folder, present in forms.items()
    }
    return [
        name
        for name in matching
        if name in patterns
        or (not name.endswith(_FOREIGN) and _form(name) in (None, best.get(name.rpartition("/")[0])))
    ]


def _form(name: str) -> tuple[str | None, str] | None:
    """(precision or None, form) of a file of tensors. None for any other file."""
    match = _TENSORS.fullmatch(name.rpartition("/")[2])
    return (match["variant"] or match["index_variant"], match["form"]) if match else None


def _digests(sibling: RepoSibling, files: HubFiles) -> tuple[str, str]:
    """(SHA-256, git's SHA-1) of a file, one of them empty."""
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else ""
    git_sha1 = "" if sha256 else sibling.blob_id or ""
    # They become a file's name.
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", sha256 or git_sha1):
        raise DownloadError(
            f"{page(files.repository)}: {sibling.rfilename!r} has no digest. Try again later."
        )
    return sha256, git_sha1


@contextmanager
def _readable_errors(files: HubFiles) -> Iterator[None]:
    """Turns the errors of the hub's client into one sentence with the remedy."""
    import httpx2
    from huggingface_hub import errors

    address = page(files.repository)
    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(gated_remedy(files.repository)) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{address} has no revision {files.revision!r}. Correct it.") from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{address} is not there, or it is private. Check the name, and put a token that may read it into the "
            "environment variable HF_TOKEN."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(
            "the environment variable HF_HUB_OFFLINE forbids downloads. Unset it for this command."
        ) from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{files.repository!r} is no name of a repository on the hub: {error}") from error
    except (errors.HfHubHTTPError, httpx2.HTTPError, errors.LocalEntryNotFoundError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DownloadError(f"{address}: {first:.200}. Try again later.") from error


def gated_remedy(repository: str) -> str:
    """The remedy for a repository that wants an account which has accepted the licence."""
    return (
        f"{repository} is gated: accept its licence with your account at {page(repository)}, and put a token of that "
        "account into the environment variable HF_TOKEN."
    )
