"""Downloading a file: resumed after a broken connection, and kept only if its hash is right.

Bytes are written to `NAME.part` beside the target; this file survives broken connections, Ctrl-C and killed processes,
and the next try asks the server for the rest. The file appears under its own name only when its SHA-256 is the
promised one. Proxies come from the usual environment variables (http_proxy, https_proxy, no_proxy),
certificates from SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and PIP_CERT.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from nextword.base.atomic import disk_room_needed, flush_to_disk, locked, rename, require_room
from nextword.errors import ChecksumMismatch, DownloadFailed

# Called with the number of bytes fetched so far and the total, which is None if the server does not say.
OnProgress = Callable[[int, int | None], None]

_TIMEOUT = 30.0  # seconds: without a byte from the server
_PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds: before each new try
_READ_BYTES = 1 << 16  # bytes: read from a connection at a time
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses: after which another try may succeed


def download(url: str, path: Path, *, sha256: str, size: int | None = None, progress: OnProgress | None = None) -> None:
    """Download a file, unless the file is there already. A second process with the same target waits for the first.

    Args:
        url: An http, https or file URL.
        path: The target, in a folder that exists.
        sha256: SHA-256 (hex) of the file.
        size: Size of the file in bytes, if it is known.
        progress: Called with the number of bytes fetched so far and the total (None if it is not known).

    Raises:
        DownloadFailed: The network or the server gave up; the bytes fetched so far are kept for the next try.
        ChecksumMismatch: The file has another hash; it is deleted.
        NoDiskRoom: The disk is full.
        OSError: The folder cannot be written to.
    """
    with locked(path.with_name(path.name + ".lock")):
        if path.exists() and sha256_of(path) == sha256:
            return
        part = path.with_name(path.name + ".part")
        with disk_room_needed(part), part.open("ab") as file:
            _gather(url, file, path, size, progress)
            flush_to_disk(file)
        if sha256_of(part) != sha256:
            part.unlink()
            raise ChecksumMismatch(
                f"What {_host(url)} sent as {path.name} is not the promised file (its SHA-256 differs); "
                "it was deleted, so try again."
            )
        rename(part, path)


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gather(url: str, file: IO[bytes], path: Path, size: int | None, progress: OnProgress | None) -> None:
    """Append the rest of the URL's bytes to `file`, over up to five connections."""
    for pause in (*_PAUSES, None):
        try:
            _append(url, file, path, size, progress)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            if pause is None or not _is_passing(error):
                raise DownloadFailed(
                    f"{path.name} could not be fetched from {_host(url)}: {_reason(error)}; "
                    "what was fetched is kept, so try again when that is mended."
                ) from error
            time.sleep(pause)


def _append(url: str, file: IO[bytes], path: Path, size: int | None, progress: OnProgress | None) -> None:
    """Append the rest of the URL's bytes to `file`, over one connection. Raises ConnectionError if it broke off."""
    if size is not None and file.tell() > size:
        _empty(file)
    if file.tell() == size:
        return
    response, total = _connect(url, file)
    with response:
        if size is not None and total not in (size, None):
            raise DownloadFailed(f"{_host(url)} offers {total:,} bytes as {path.name}, which should have {size:,}.")
        total = total if size is None else size
        if total is not None:
            require_room(path.parent, total - file.tell())
        while chunk := response.read(_READ_BYTES):
            with disk_room_needed(path):
                file.write(chunk if total is None else chunk[: total - file.tell()])
            if progress is not None:
                progress(file.tell(), total)
            if file.tell() == total:
                return
    if total is not None:
        raise ConnectionError(f"the connection broke off after {file.tell():,} of {total:,} bytes")


def _connect(url: str, file: IO[bytes]) -> tuple[Any, int | None]:
    """A response with the bytes that come after those in `file`, and the size of the whole file, None if unknown.

    Empties `file` where the server cannot resume.
    """
    if file.tell():
        try:
            response = _request(url, {"Range": f"bytes={file.tell()}-"})
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 416:  # range not satisfiable: the server's file is shorter
                raise
        else:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if response.status == 206 and span and int(span[1]) == file.tell():
                return response, None if span[2] == "*" else int(span[2])
            response.close()
        _empty(file)
    response = _request(url, {})
    length = response.headers.get("Content-Length", "")
    return response, int(length) if length.isdecimal() else None


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _request(url: str, headers: dict[str, str]) -> Any:
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise ValueError(f"it is not an http, https or file address but {scheme!r}")
    context = _certificates() if scheme == "https" else None  # loading them takes 0.25 s
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
    return urllib.request.urlopen(request, timeout=_TIMEOUT, context=context)


def _certificates() -> ssl.SSLContext:
    """The system's certificates, and those that the environment names for other download tools."""
    context = ssl.create_default_context()
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"):
        bundle = os.environ.get(name, "")
        if os.path.isfile(bundle):
            context.load_verify_locations(cafile=bundle)
        elif os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
    return context


def _is_passing(error: Exception) -> bool:
    """Whether another try may succeed: not after a wrong address, an unknown host or a bad certificate."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSING
    if isinstance(error, urllib.error.URLError):
        return isinstance(error.reason, TimeoutError | ConnectionError)
    return not isinstance(error, ValueError)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _host(url: str) -> str:
    return urlsplit(url).hostname or "this machine"
