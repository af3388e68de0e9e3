"""Qwen 3 (Yang et al., 2025): Llama's shape with normed queries and keys. nextword trains models of this family."""

from typing import Any

from nextword.model.architecture import Architecture, Biases
from nextword.parameters.config import Config
from nextword.parameters.families.family import Family, GGUFLayout, read_windows, write_windows
from nextword.parameters.families.llama import GGUF_KEYS, decoder, decoder_config, decoder_mappings


def architecture(config: Config) -> Architecture:
    """The architecture that a configuration of this family describes. Raises UnsupportedModel or CorruptFile."""
    windows = read_windows(config)
    attention = config.flag("attention_bias", False)
    return decoder(config, Biases(attention, attention), qk_norm=True, windows=windows)


def config(a: Architecture) -> dict[str, Any]:
    """The configuration of an architecture: the inverse of `architecture`."""
    return {**decoder_config(a), **write_windows(a.windows), "attention_bias": a.biases.query_key_value}


FAMILY = Family(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    architecture=architecture,
    config=config,
    mappings=decoder_mappings,
    gguf=GGUFLayout(name="qwen3", keys=GGUF_KEYS),
    prefix="model.",
)
