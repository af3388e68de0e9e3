"""The laws of docs/architecture.md, for every family, on tiny random models. Referee: transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import nextword
from nextword.model.hooks import point_names
from nextword.model.kv_cache import KVCache
from nextword.model.transformer import Transformer
from nextword.parameters.export import export_hf
from nextword.parameters.open import open_stored
from nextword.predict.score import log_probabilities
from nextword.predict.torch_engine import TorchEngine
from nextword.sample.settings import Sampling
from tests import tiny

Folder = Callable[[str], Path]
every_variant = pytest.mark.parametrize("variant", tiny.VARIANTS)
LENGTH = 40


def ids(seed: int = 0, length: int = LENGTH) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny.VOCAB, length).tolist()


def definition(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    stored = open_stored(folder)
    weights = {name: torch.tensor(tensor.dequantize()).to(dtype) for name, tensor in stored.tensors.items()}
    return Transformer.of(stored.architecture, weights).requires_grad_(False)


def engine(folder: Path) -> TorchEngine:
    stored = open_stored(folder)
    return TorchEngine(stored.architecture, stored.tensors)


def reference(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def largest_difference(a: object, b: object) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


class Recorder:
    """A hook that looks at everything, or at everything but attention's opened softmax."""

    def __init__(self, open_attention: bool = True) -> None:
        self.seen: dict[str, torch.Tensor] = {}
        self._open = open_attention

    def wants(self, name: str) -> bool:
        return self._open or not name.endswith((".scores", ".pattern"))

    def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        assert name not in self.seen
        self.seen[name] = tensor
        return tensor


@every_variant
def test_law_1_logits_are_those_of_transformers(variant: str, tiny_folder: Folder) -> None:
    row = torch.tensor([ids(0), ids(1)])
    with torch.no_grad():
        theirs = reference(tiny_folder(variant))(row).logits
    assert theirs.std() > 0.5, "logits too alike to tell mistakes apart"
    assert largest_difference(definition(tiny_folder(variant))(row), theirs) <= 1e-4


@every_variant
def test_law_2_reading_in_chunks_or_one_by_one_is_reading_at_once(variant: str, tiny_folder: Folder) -> None:
    whole = definition(tiny_folder(variant))(torch.tensor([ids()]))[0]
    for cuts in ([LENGTH], [17, 23], [1] * LENGTH, [30, 1, 1, 8]):
        session, at, logits = engine(tiny_folder(variant)).open_session(), 0, []
        for cut in cuts:
            logits.append(session.feed_all(ids()[at : at + cut]))
            at += cut
        assert largest_difference(np.concatenate(logits), whole) <= 2e-5


@every_variant
def test_law_3_open_attention_is_fused_attention(variant: str, tiny_folder: Folder) -> None:
    model, row = definition(tiny_folder(variant)), torch.tensor([ids()])
    recorder = Recorder()
    assert largest_difference(model(row, hook=recorder), model(row)) <= 2e-5
    assert list(recorder.seen) == list(point_names(model.architecture))
    pattern = recorder.seen["blocks.1.attention.pattern"]
    assert largest_difference(pattern.sum(-1), 1) <= 1e-5
    assert pattern.triu(1).abs().max() == 0


@every_variant
def test_law_3_a_probe_that_edits_nothing_changes_no_bit(variant: str, tiny_folder: Folder) -> None:
    model, row = definition(tiny_folder(variant)), torch.tensor([ids()])
    assert torch.equal(model(row, hook=Recorder(open_attention=False)), model(row))

    class OnlyOpen(Recorder):
        def wants(self, name: str) -> bool:
            return name.endswith(".pattern")

    assert torch.equal(model(row, hook=Recorder()), model(row, hook=OnlyOpen()))


@every_variant
def test_law_3_open_attention_reads_the_memory_too(variant: str, tiny_folder: Folder) -> None:
    model, kv_cache = definition(tiny_folder(variant)), None
    kv_cache = KVCache(model.architecture, LENGTH)
    model(torch.tensor([ids()[:25]]), kv_cache)
    kv_cache.advance(25)
    late = model(torch.tensor([ids()[25:]]), kv_cache, Recorder())
    assert largest_difference(late, model(torch.tensor([ids()]))[:, 25:]) <= 2e-5


def test_a_probe_edits_what_it_returns(tiny_folder: Folder) -> None:
    model, row = definition(tiny_folder("qwen3")), torch.tensor([ids()])

    class Remove(Recorder):
        def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(tensor) if name in ("blocks.1.attention", "blocks.1.mlp") else tensor

    class Remember(Recorder):
        pass

    seen = Remember()
    model(row, hook=seen)
    after = Remember()

    class RemoveAndRemember(Remove):
        def __call__(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
            return after(name, super().__call__(name, tensor))

    model(row, hook=RemoveAndRemember())
    assert torch.equal(after.seen["blocks.1"], after.seen["blocks.0"])
    assert torch.equal(after.seen["blocks.0"], seen.seen["blocks.0"])


@pytest.mark.parametrize("variant", ["gpt2", "llama", "qwen2-windows", "qwen3", "gpt_neox"])
def test_law_5_same_seed_same_text_whatever_the_cache_and_the_threads(variant: str, tiny_folder: Folder) -> None:
    def write(prompt: list[int], count: int) -> list[int]:
        gpt = nextword.open(tiny_folder(variant))
        written = gpt.generate(prompt, max_tokens=count, seed=7, sampling=Sampling(temperature=0.7)).finish()
        return [choice.id for choice in written.tokens]

    prompt = ids()[:10]
    text = write(prompt, 30)
    assert len(set(text)) > 5
    assert write(prompt + text[:12], 30 - 12) == text[12:], "replayed from the middle"
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert write(prompt, 30) == text
    finally:
        torch.set_num_threads(threads)


@every_variant
def test_law_8_exported_models_open_in_transformers_with_the_same_logits(
    variant: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    stored = open_stored(tiny_folder(variant))
    export_hf(stored, tmp_path / "exported")
    row = torch.tensor([ids()])
    with torch.no_grad():
        theirs = reference(tmp_path / "exported")(row).logits
    assert largest_difference(definition(tiny_folder(variant))(row), theirs) <= 1e-4
    again = open_stored(tmp_path / "exported")
    assert again.architecture == stored.architecture
    assert again.stop_ids == stored.stop_ids
    # Not AutoTokenizer, which gives every Qwen 2 model Qwen's own word pattern, whatever tokenizer.json says.
    tokens = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "exported")
    assert tokens(tiny.TEXT)["input_ids"] == stored.tokenizer.encode(tiny.TEXT, begin=True)


@pytest.mark.parametrize("variant", ["gpt2", "llama", "qwen2", "qwen3", "gpt_neox"])
def test_scores_are_transformers_log_softmax(variant: str, tiny_folder: Folder) -> None:
    row = torch.tensor([ids()])
    with torch.no_grad():
        theirs = reference(tiny_folder(variant))(row).logits.log_softmax(-1)[0]
    expected = theirs[torch.arange(LENGTH - 1), row[0, 1:]]
    assert largest_difference(log_probabilities(engine(tiny_folder(variant)), ids()), expected) <= 1e-4


def test_a_text_longer_than_the_context_is_scored_in_windows(tiny_folder: Folder) -> None:
    """Context 64: the first window scores the tokens 1 to 64, each later one 32 more after 32 read again."""
    reader, text = engine(tiny_folder("llama")), ids(length=150)
    scores = log_probabilities(reader, text)
    assert len(scores) == 149
    for start, first, last in ((0, 0, 64), (32, 64, 96), (64, 96, 128), (96, 128, 149)):
        window = log_probabilities(reader, text[start : last + 1])
        assert largest_difference(scores[first:last], window[first - start :]) <= 1e-5


def test_original_gpt2_files_without_prefix_and_with_masks_open(tiny_folder: Folder, tmp_path: Path) -> None:
    """The published GPT-2 files name their tensors without "transformer." and carry causal masks."""
    from safetensors.torch import load_file, save_file

    source = tiny_folder("gpt2")
    weights = {
        name.removeprefix("transformer."): tensor for name, tensor in load_file(source / "model.safetensors").items()
    }
    weights |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(3)}
    save_file(weights, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    row = torch.tensor([ids()])
    assert torch.equal(definition(tmp_path)(row), definition(source)(row))


@pytest.mark.parametrize("variant", ["llama3-scaling", "gpt_neox"])
def test_older_configurations_mean_the_same(variant: str, tiny_folder: Folder, tmp_path: Path) -> None:
    """Before transformers 5, rotary settings stood beside the others."""
    from nextword.parameters.families import FAMILIES

    stored = open_stored(tiny_folder(variant))
    old = FAMILIES[stored.family.model_type].config(stored.architecture)
    assert "rope_parameters" not in old
    for file in tiny_folder(variant).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": stored.family.model_type, **old}))
    assert open_stored(tmp_path).architecture == stored.architecture
