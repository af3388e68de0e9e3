"""Tiny random models of every family, made by transformers, and a tiny tokenizer: the ground the laws stand on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 320
TEXT = (
    "She ate an apple pie. The cat sat on the mat, and the dog sat on the log! "
    "Once upon a time there were 3 bears; they didn't eat an apple tree.\n\nÄpfel, été, 猫 — 🙂."
)


@dataclass(frozen=True)
class Variant:
    """A configuration class of transformers and the settings that make it tiny and test one turn of the family."""

    config: str
    settings: dict[str, Any] = field(default_factory=dict)


_LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
_NEOX = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 64,
}
_GPT2 = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS = {
    "gpt2": Variant("GPT2Config", _GPT2),
    "gpt2-untied": Variant("GPT2Config", {**_GPT2, "tie_word_embeddings": False, "n_inner": 100}),
    "llama": Variant("LlamaConfig", _LLAMA),
    "llama-tied": Variant("LlamaConfig", {**_LLAMA, "tie_word_embeddings": True, "head_dim": 16}),
    "llama-biased": Variant("LlamaConfig", {**_LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama3-scaling": Variant("LlamaConfig", {**_LLAMA, "rope_parameters": _LLAMA3}),
    "llama-linear-scaling": Variant(
        "LlamaConfig",
        {**_LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "qwen2": Variant("Qwen2Config", {k: v for k, v in _LLAMA.items() if k != "head_dim"}),
    "qwen2-windows": Variant(
        "Qwen2Config",
        {
            **{k: v for k, v in _LLAMA.items() if k != "head_dim"},
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": Variant("Qwen3Config", {**_LLAMA, "tie_word_embeddings": True}),
    "gpt_neox": Variant("GPTNeoXConfig", _NEOX),
    "gpt_neox-serial": Variant("GPTNeoXConfig", {**_NEOX, "use_parallel_residual": False, "attention_bias": False}),
}


def make(variant: str, seed: int = 0, **settings: Any) -> transformers.PreTrainedModel:
    """A random model with weights large enough to tell mistakes apart, biases and norms included."""
    chosen = VARIANTS[variant]
    config = getattr(transformers, chosen.config)(
        **{"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, **chosen.settings, **settings}
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
        if parameter.dim() == 1:
            parameter.data += 0.7
    return model.eval()


def tokenizer() -> Tokenizer:
    """A byte-level BPE of at most VOCAB tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return made


def save(model: transformers.PreTrainedModel, folder: Path, **options: Any) -> Path:
    """A Hugging Face folder: the model, and the tiny tokenizer."""
    model.save_pretrained(folder, **options)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder
