"""nextword.parameters.bundled: the model that comes with nextword."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nextword
from nextword.errors import ChecksumMismatch, ModelNotFound
from nextword.parameters import bundled
from nextword.parameters.bundled import BUNDLED, FOLDER, find_bundled
from nextword.parameters.open import open_stored


@pytest.mark.parametrize("name", BUNDLED)
def test_it_is_the_file_that_was_measured_and_small(name: str) -> None:
    path = find_bundled(name)
    assert path is not None
    assert path.stat().st_size == BUNDLED[name].size
    card = json.loads((FOLDER / f"{name}.json").read_text())
    assert card["file"] == {"sha256": BUNDLED[name].sha256, "size": BUNDLED[name].size}
    # The card tells of the run's tokenizer.json, the model holds a GGUF file's: other files, the same ids.
    assert card["corpus"]["tokenizer"] == nextword.open(name).tokenizer.hash
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 25e6


def test_it_writes_at_once() -> None:
    gpt = nextword.open("tales")
    assert "".join(step.text for step in gpt.generate("Once upon a time", max_tokens=20, seed=0)).strip()
    assert gpt.score("The king had a daughter.").bits_per_byte < gpt.score("Xqz pfff rrrt wklm jjjj").bits_per_byte / 2


def test_no_such_name() -> None:
    assert find_bundled("nonesuch") is None


def test_an_incomplete_or_altered_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(ModelNotFound, match="without its model tales"):
        open_stored("tales")
    (tmp_path / "tales.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ChecksumMismatch, match="install nextword again"):
        open_stored("tales")
