"""Exported GGUF files. Referees: our reader, the gguf package and, where it is installed, llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

from nextword.cli import app
from nextword.encode.train import train_bpe
from nextword.errors import InputError, UnsupportedModel
from nextword.parameters.export import export_gguf
from nextword.parameters.gguf import read_gguf
from nextword.parameters.gguf_write import NewTensor, write_gguf
from nextword.parameters.open import Stored, open_stored
from nextword.predict.torch_engine import TorchEngine
from tests import tiny
from tests.encode.samples import CORPUS

PUBLISHED_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SAYABLE: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-untied": {},
    "llama": {},
    "llama-tied": {},
    "llama-linear-scaling": {},
    "llama3-scaling": {"rope_parameters": PUBLISHED_LLAMA3},
    "qwen2": {},
    "qwen3": {},
    "gpt_neox": {},
}
IDS = np.random.default_rng(0).integers(0, tiny.tokenizer().get_vocab_size(), 40).tolist()


@pytest.fixture(scope="module", params=SAYABLE)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    model = tiny.make(request.param, **SAYABLE[request.param])
    return open_stored(tiny.save(model, tmp_path_factory.mktemp(request.param)))


@pytest.fixture
def exported(stored: Stored, tmp_path: Path) -> Path:
    export_gguf(stored, tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def logits(stored: Stored) -> np.ndarray:
    return TorchEngine(stored.architecture, stored.tensors).open_session().feed_all(IDS)


def test_what_is_written_is_read_back(stored: Stored, exported: Path) -> None:
    again = open_stored(exported)
    assert again.tensors.keys() == stored.tensors.keys()
    for name, tensor in stored.tensors.items():
        assert np.array_equal(again.tensors[name].dequantize(), tensor.dequantize()), name
    assert np.abs(logits(again) - logits(stored)).max() <= 1e-5  # epsilon and theta are float32 in the file
    assert again.tokenizer.encode(tiny.TEXT, begin=True) == stored.tokenizer.encode(tiny.TEXT, begin=True)
    assert (again.tokenizer.vocab_size, again.stop_ids) == (stored.tokenizer.vocab_size, stored.stop_ids)


def test_the_gguf_package_reads_the_same(exported: Path) -> None:
    theirs, ours = gguf.GGUFReader(exported), read_gguf(exported)
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        assert np.array_equal(tensor.data, ours.tensors[tensor.name].dequantize())
    for key, value in ours.metadata.items():
        assert theirs.fields[key].contents() == (value.tolist() if isinstance(value, np.ndarray) else value)


def llama_cpp() -> ModuleType:
    return pytest.importorskip("llama_cpp", reason="llama.cpp is an optional referee: nextword[peers]")


def test_llama_cpp_computes_the_same(stored: Stored, exported: Path) -> None:
    """With its memory of keys and values in float32; by default llama.cpp rounds it to float16."""
    options = {"logits_all": True, "n_ctx": 64, "n_threads": 1, "type_k": 0, "type_v": 0, "verbose": False}
    model = llama_cpp().Llama(str(exported), **options)
    model.eval(IDS)
    theirs, ours = np.array(model.scores[: len(IDS)]), logits(stored)
    assert np.abs(theirs - ours).max() <= 1e-2
    assert np.array_equal(theirs.argmax(axis=1), ours.argmax(axis=1))
    assert model.tokenize(tiny.TEXT.encode(), add_bos=True) == stored.tokenizer.encode(tiny.TEXT, begin=True)
    model.close()


@pytest.mark.parametrize("form", ["F16", "Q8_0", "Q4_1"])
def test_packed_weights_are_the_gguf_packages(form: str, tmp_path: Path) -> None:
    """Rows of 48 are no whole blocks, those of 64 are; embeddings keep 8 bits."""
    stored = open_stored(tiny.save(tiny.make("qwen3", hidden_size=64, intermediate_size=48), tmp_path / "hf"))
    export_gguf(stored, tmp_path / "plain.gguf")
    export_gguf(stored, tmp_path / "packed.gguf", form)
    plain, packed = gguf.GGUFReader(tmp_path / "plain.gguf"), gguf.GGUFReader(tmp_path / "packed.gguf")
    for before, after in zip(plain.tensors, packed.tensors, strict=True):
        wanted = "F32" if before.data.ndim == 1 else "F16" if before.data.shape[1] == 48 else form
        wanted = "Q8_0" if wanted == "Q4_1" and before.name in ("token_embd.weight", "output.weight") else wanted
        kind = gguf.GGMLQuantizationType[wanted]
        assert after.tensor_type == kind
        assert np.array_equal(after.data.view(np.uint8), gguf.quants.quantize(before.data, kind).view(np.uint8))
    assert np.abs(logits(open_stored(tmp_path / "packed.gguf")) - logits(stored)).max() < (1 if form == "Q4_1" else 0.3)


@pytest.mark.parametrize("form", ["Q8_0", "Q4_1"])
def test_blocks_are_ggmls_for_awkward_weights(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((400, 64)) * 10.0 ** rng.integers(-9, 3, (400, 1))).astype(np.float32)
    weights[0] = 0
    weights[1, ::2] = np.arange(-16, 16) / 2  # halves, after the scale of 1
    weights[1, 0] = weights[1, -1] = 127
    write_gguf(tmp_path / "w.gguf", {}, [NewTensor("w", form, weights.shape, lambda: weights)])
    theirs = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[form])
    assert np.array_equal(read_gguf(tmp_path / "w.gguf").tensors["w"].data, theirs)


def test_every_kind_of_value_is_read_back(tmp_path: Path) -> None:
    metadata = {
        "flag": True,
        "number": 4_000_000_000,
        "share": 0.25,
        "words": "Äpfel\n猫",
        "list": ["", "a", "🙂"],
        "integers": np.arange(-3, 3, dtype=np.int32),
        "floats": np.linspace(0, 1, 5, dtype=np.float32),
    }
    write_gguf(tmp_path / "m.gguf", metadata, [])
    read = read_gguf(tmp_path / "m.gguf").metadata
    assert {key: np.asarray(value).tolist() for key, value in read.items()} == {
        key: np.asarray(value).tolist() for key, value in metadata.items()
    }
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in metadata.items()}


@pytest.mark.parametrize("bad", [1e5, np.inf, np.nan])
@pytest.mark.parametrize("form", ["F16", "Q8_0", "Q4_1"])
def test_weights_that_a_form_cannot_hold_are_refused(bad: float, form: str, tmp_path: Path) -> None:
    weights = np.full((2, 32), bad * (100 if form == "Q8_0" else 1), np.float32)
    with pytest.raises(UnsupportedModel, match=f"tensor w has weights that {form} cannot hold"):
        write_gguf(tmp_path / "w.gguf", {}, [NewTensor("w", form, weights.shape, lambda: weights)])
    assert not list(tmp_path.iterdir())


def test_rows_beyond_the_vocabulary_stand_for_no_token(tmp_path: Path) -> None:
    stored = open_stored(tiny.save(tiny.make("qwen3", vocab_size=tiny.VOCAB + 9), tmp_path / "hf"))
    export_gguf(stored, tmp_path / "model.gguf")
    assert len(read_gguf(tmp_path / "model.gguf").metadata["tokenizer.ggml.tokens"]) == tiny.VOCAB + 9
    again = open_stored(tmp_path / "model.gguf")
    assert again.architecture.vocab == tiny.VOCAB + 9
    assert again.tokenizer.vocab_size == stored.tokenizer.vocab_size


def test_the_tokens_of_a_trained_tokenizer_are_llama_cpps(tmp_path: Path) -> None:
    """What nextword trains: its pattern, its begin token and the chat template of its conversations."""
    tokenizer = train_bpe([CORPUS], tiny.VOCAB, chat=True)
    tiny.make("qwen3", vocab_size=tokenizer.vocab_size).save_pretrained(tmp_path / "hf")
    tokenizer.save(tmp_path / "hf")
    export_gguf(open_stored(tmp_path / "hf"), tmp_path / "model.gguf")
    again = open_stored(tmp_path / "model.gguf")
    assert again.tokenizer.encode(CORPUS, begin=True) == tokenizer.encode(CORPUS, begin=True)
    assert again.stop_ids == tokenizer.eos_ids
    asked = [{"role": "user", "content": "a pie?"}]
    assert again.tokenizer.chat(asked) == tokenizer.chat(asked)
    model = llama_cpp().Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    assert model.tokenize(CORPUS.encode(), add_bos=True) == tokenizer.encode(CORPUS, begin=True)
    model.close()


@pytest.mark.parametrize(
    ("variant", "what"),
    [
        ("llama-biased", "biases"),
        ("qwen2-windows", "windows"),
        ("gpt_neox-serial", "biases"),
        ("llama3-scaling", "rotary positions"),  # of a context that no published model has
    ],
)
def test_what_gguf_has_no_words_for_is_refused(
    variant: str, what: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=f"{what}.*export it to hf|export it to hf.*{what}"):
        export_gguf(open_stored(tiny_folder(variant)), tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_text("mine")
    with pytest.raises(InputError, match="new file"):
        export_gguf(open_stored(tiny_folder("qwen3")), tmp_path / "mine.gguf")
    assert (tmp_path / "mine.gguf").read_text() == "mine"


def test_the_command_line(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model, out = str(tiny_folder("qwen3")), str(tmp_path / "new" / "model.gguf")
    said = CliRunner().invoke(app, ["export", model, "--to", "gguf", "--weights", "f16", "--out", out])
    assert (said.exit_code, said.stdout) == (0, f"{out}\n")
    forms = {tensor.form for tensor in read_gguf(out).tensors.values() if len(tensor.shape) == 2}
    assert forms == {"F16"}
    again = CliRunner().invoke(app, ["export", model, "--to", "gguf", "--out", out])
    assert (again.exit_code, again.stdout) == (1, "")
    wrong = CliRunner().invoke(app, ["export", model, "--to", "hf", "--weights", "f16", "--out", str(tmp_path / "hf")])
    assert wrong.exit_code == 2
