"""A model family: translations of configuration and tensor layout, in both directions.

A family is one file in this folder that defines one `Family`, with Hugging Face's names of its settings and tensors
and the GGUF settings that correspond to them; the equations know none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nextword.errors import UnsupportedModel
from nextword.model.architecture import Architecture, LinearScaling, Llama3Scaling, Rotary
from nextword.parameters.config import Config
from nextword.parameters.layout import TensorMapping


@dataclass(frozen=True)
class GGUFLayout:
    """The layout in which llama.cpp's converter stores a family.

    Args:
        name: llama.cpp's name of the family (`general.architecture`).
        keys: From a setting's name below "NAME." to Hugging Face's name of the setting.
        fused: Whether query, key and value are one tensor.
        interleaved: Whether the rows of query and key are permuted for the rotation of neighbouring pairs.
    """

    name: str
    keys: Mapping[str, str]
    fused: bool = False
    interleaved: bool = False


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        model_type: Hugging Face's name of the family, as in config.json.
        class_name: Hugging Face's name of the model class (`architectures` in config.json).
        architecture: A function from a configuration to the architecture; it takes the keys that it understands.
        config: A function from an architecture to the configuration: the inverse.
        mappings: A function from an architecture to the tensor layout of Hugging Face's files.
        gguf: The layout in GGUF files.
        prefix: The prefix of the body's tensors, which some published files omit.
        leftovers: A regular expression for tensors of published files that hold no weights (masks, constants).
    """

    model_type: str
    class_name: str
    architecture: Callable[[Config], Architecture]
    config: Callable[[Architecture], dict[str, Any]]
    mappings: Callable[[Architecture], list[TensorMapping]]
    gguf: GGUFLayout
    prefix: str
    leftovers: str = r"(?!)"


def read_rotary(config: Config, fraction: float = 1.0, theta: float = 10000.0) -> Rotary:
    """Rotary positions from `rope_theta` and `rope_scaling` or, since transformers 5, `rope_parameters`.

    Args:
        config: The configuration, from which these keys are taken.
        fraction: The fraction of a head's dimensions that is rotated, where the configuration does not say.
        theta: The base of the frequencies, where the configuration does not say.

    Raises:
        UnsupportedModel: The scaling is of an unknown kind, or both ways to write it are used.
        CorruptFile: A value is missing or out of its range.

    >>> read_rotary(Config({"rope_theta": 500000.0}, "config.json"))
    Rotary(theta=500000.0, fraction=1.0, scaling=None)
    """
    section = config.section("rope_parameters")
    theta = config.number("rope_theta", theta)
    scaling = config.section("rope_scaling")
    if section is not None:
        if scaling is not None:
            raise UnsupportedModel(f"{config.source}: rope_parameters and rope_scaling are both given; keep one.")
        theta = section.number("rope_theta", theta)
        fraction = section.number("partial_rotary_factor", fraction)
        scaling = section
    return Rotary(theta, fraction, None if scaling is None else _read_scaling(scaling))


def _read_scaling(section: Config) -> LinearScaling | Llama3Scaling | None:
    kinds = {"default": None, "linear": "linear", "llama3": "llama3"}
    word = section.choice("type", kinds, "default")  # the older name of rope_type
    kind = section.choice("rope_type", kinds, word or "default")
    scaling: LinearScaling | Llama3Scaling | None = None
    if kind == "linear":
        scaling = LinearScaling(section.number("factor"))
    elif kind == "llama3":
        scaling = Llama3Scaling(
            section.number("factor"),
            section.number("low_freq_factor"),
            section.number("high_freq_factor"),
            section.integer("original_max_position_embeddings"),
        )
    section.close()
    return scaling


def write_rotary(position: Rotary) -> dict[str, Any]:
    """The settings that `read_rotary` reads, as all versions of transformers read them."""
    config: dict[str, Any] = {"rope_theta": position.theta}
    match position.scaling:
        case LinearScaling(factor):
            config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, original):
            config["rope_scaling"] = {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return config


def read_windows(config: Config) -> tuple[int | None, ...]:
    """The attention window of each layer in tokens, None for full attention, from the settings of Qwen.

    >>> config = {"num_hidden_layers": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    >>> read_windows(Config(config, "config.json"))
    (None, 4)
    """
    n_layers = config.layers("num_hidden_layers")
    kinds = config.strings("layer_types")
    used = config.flag("use_sliding_window", False)
    first = config.integer("max_window_layers") if used and kinds is None else 0
    config.ignore("max_window_layers")
    window = config.integer("sliding_window") if used else None
    if not used:
        config.integer("sliding_window", 1)  # published files state a window that is not in use
    if kinds is None:
        kinds = ["sliding_attention" if used and layer >= first else "full_attention" for layer in range(n_layers)]
    if len(kinds) != n_layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise UnsupportedModel(f"{config.source}: layer_types must name full or sliding attention for each layer.")
    if "sliding_attention" in kinds and window is None:
        raise UnsupportedModel(f"{config.source}: sliding_attention without use_sliding_window is not supported.")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def write_windows(windows: tuple[int | None, ...]) -> dict[str, Any]:
    """The settings that `read_windows` reads."""
    sizes = {window for window in windows if window is not None}
    assert len(sizes) <= 1
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    return {"use_sliding_window": bool(sizes), "sliding_window": min(sizes, default=None), "layer_types": kinds}
