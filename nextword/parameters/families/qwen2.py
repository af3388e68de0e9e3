"""Qwen 2 and 2.5 (Yang et al., 2024): Llama's shape with biases on query, key and value, optional windows."""

from typing import Any

from nextword.model.architecture import Architecture, Biases
from nextword.parameters.config import Config
from nextword.parameters.families.family import Family, GGUFLayout, read_windows, write_windows
from nextword.parameters.families.llama import GGUF_KEYS, decoder, decoder_config, decoder_mappings


def architecture(config: Config) -> Architecture:
    """The architecture that a configuration of this family describes. Raises UnsupportedModel or CorruptFile."""
    windows = read_windows(config)
    return decoder(config, Biases(query_key_value=True), windows=windows)


def config(a: Architecture) -> dict[str, Any]:
    """The configuration of an architecture: the inverse of `architecture`."""
    return {**decoder_config(a), **write_windows(a.windows)}


FAMILY = Family(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    architecture=architecture,
    config=config,
    mappings=decoder_mappings,
    gguf=GGUFLayout(name="qwen2", keys=GGUF_KEYS),
    prefix="model.",
)
