"""Reading a model's configuration so that no key of it is overlooked.

A family takes the keys that it understands from a `Config`; `close` then refuses by name every key that is left,
unless the key is known to be harmless or is switched off (None, False or empty). A new key that changes the
mathematics is therefore never skipped in silence. Values are checked for type and range when they are taken.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from nextword.errors import CorruptFile, UnsupportedModel

# Keys that do not change the result of an inference pass: book-keeping, training noise, output switches, token ids
# (which the tokenizer and the generation settings state).
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation architectures model_type dtype torch_dtype transformers_version
    transformers.js_config auto_map license use_cache return_dict output_attentions output_hidden_states
    bos_token_id eos_token_id pad_token_id unk_token_id decoder_start_token_id
    attention_dropout attn_pdrop embd_pdrop resid_pdrop hidden_dropout classifier_dropout
    initializer_range gradient_checkpointing chunk_size_feed_forward is_encoder_decoder is_decoder
    id2label label2id num_labels _num_labels problem_type task_specific_params is_llama_config
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    pretraining_tp reorder_and_upcast_attn n_ctx n_special predict_special_tokens output_past
    """.split()
)
LARGEST = 1 << 31  # the largest whole number that a setting may have
MOST_LAYERS = 4096  # layers: far beyond any published model; bounds the tables that a false header makes us build
_REQUIRED: Any = object()


class Config:
    """The keys and values of a configuration; `source` is its name in errors.

    >>> config = Config({"n_layer": 2, "scale": None, "rope_type": "new"}, "config.json")
    >>> config.layers("n_layer")
    2
    >>> config.close()
    Traceback (most recent call last):
    nextword.errors.UnsupportedModel: config.json: nextword does not know the setting rope_type = 'new' and will not ...
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values = values
        self._left = set(values) - HARMLESS
        self.source = source

    def integer(self, key: str, default: Any = _REQUIRED, most: int = LARGEST) -> int:
        """A positive integer.

        Args:
            key: The key.
            default: The value where the key is missing or None; without a default, a missing key is an error.
            most: The largest value.

        Raises:
            CorruptFile: The key is missing, or its value is no whole number from 1 to `most`.
        """
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise CorruptFile(f"{self.source}: {key} must be a whole number from 1 to {most}, not {value!r}.")
        return value

    def layers(self, key: str) -> int:
        """A number of layers. Raises CorruptFile if the key is missing or its value is no number of layers."""
        return self.integer(key, most=MOST_LAYERS)

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A positive finite number. Raises CorruptFile if the key is missing or its value is no such number."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise CorruptFile(f"{self.source}: {key} must be a positive number, not {value!r}.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean. Raises CorruptFile for any other value."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise CorruptFile(f"{self.source}: {key} must be true or false, not {value!r}.")
        return value

    def choice(self, key: str, allowed: Mapping[str, Any], default: Any = _REQUIRED) -> Any:
        """The meaning of a word.

        Args:
            key: The key.
            allowed: The meaning of each word that is supported.
            default: The word where the key is missing or None; without a default, a missing key is an error.

        Raises:
            UnsupportedModel: The value is not among the words of `allowed`.
            CorruptFile: The key is missing.
        """
        value = self._take(key, default)
        if not isinstance(value, str) or value not in allowed:
            known = ", ".join(allowed)
            raise UnsupportedModel(f"{self.source}: {key} = {value!r} is not supported, only {known}.")
        return allowed[value]

    def section(self, key: str) -> Config | None:
        """A nested configuration, or None without the key. Raises CorruptFile if the value is no object."""
        value = self._take(key, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise CorruptFile(f"{self.source}: {key} must be an object, not {value!r}.")
        return Config(value, f"{self.source}: {key}")

    def strings(self, key: str) -> list[str] | None:
        """A list of strings, or None without the key. Raises CorruptFile for any other value."""
        value = self._take(key, None)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise CorruptFile(f"{self.source}: {key} must be a list of strings.")
        return value

    def ignore(self, key: str) -> None:
        """Take a key that is understood and has no effect."""
        self._left.discard(key)

    def expect(self, key: str, value: Any) -> None:
        """Take a key for which one value is supported. Raises UnsupportedModel for any other value."""
        found = self._take(key, value)
        if found != value:
            raise UnsupportedModel(f"{self.source}: {key} = {found!r} changes the mathematics and is not supported.")

    def close(self) -> None:
        """Refuse the keys that nobody took. Raises UnsupportedModel, unless they are switched off."""
        for key in sorted(self._left):
            value = self._values[key]
            empty = isinstance(value, str | list | dict) and not value
            if value is not None and value is not False and not empty:
                raise UnsupportedModel(
                    f"{self.source}: nextword does not know the setting {key} = {value!r:.60} "
                    "and will not guess whether it changes the mathematics."
                )

    def _take(self, key: str, default: Any) -> Any:
        self._left.discard(key)
        value = self._values.get(key)
        if value is None:
            value = default
        if value is _REQUIRED:
            raise CorruptFile(f"{self.source}: {key} is missing.")
        return value
