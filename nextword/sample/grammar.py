"""Constrained decoding: a text is a JSON object, or JSON after a schema. llguidance compiles the schema.

Promise: a text that ends by itself is valid; one that is cut off by max_tokens is the beginning of a valid one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import llguidance
import numpy as np

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError
from nextword.sample.sampler import Mask

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_COMPACT: JsonCompileOptions = {"whitespace_flexible": False}  # else a small model writes spaces without end
_LONGEST = 100_000  # characters: of a schema


class Grammars:
    """Grammars over one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, n_logits: int, stop_ids: frozenset[int]) -> None:
        """Prepare the tokenizer for llguidance.

        Args:
            tokenizer: The model's.
            n_logits: Size of the model's output, at least the number of tokens.
            stop_ids: The tokens that end a text.

        Raises:
            InputError: The model has no token that ends a text.
        """
        if not stop_ids:
            raise InputError("This model has no token that ends a text, so no JSON can be asked of it.")
        self._tokens = llguidance.LLTokenizer(
            json.dumps(tokenizer.spec()), n_vocab=n_logits, eos_token=sorted(stop_ids)
        )

    def json(self, schema: Mapping[str, Any]) -> JsonGrammar:
        """The grammar of JSON after a schema. Raises InputError for a schema that cannot be followed."""
        text = json.dumps(schema)
        if len(text) > _LONGEST:
            raise InputError(f"The JSON schema is {len(text):,} characters long; at most {_LONGEST:,} are taken.")
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        except ValueError as error:
            raise InputError(_sentence(str(error))) from error
        matcher = llguidance.LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise InputError(_sentence(matcher.get_error()))
        return JsonGrammar(matcher)


class JsonGrammar:
    """The state of one text in a grammar. Implements nextword.sample.generation.Grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> Mask:
        """The tokens that may come next, bool [n_logits]."""
        bits = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8)
        if self._matcher.is_error() or not bits.any():
            raise InputError(_sentence(self._matcher.get_error() or "it came to a dead end"))
        allowed: Mask = bits > 0
        return allowed

    def advance(self, id: int) -> bool:
        """Add a token to the text. Returns True if nothing can follow."""
        self._matcher.consume_token(id)
        return bool(self._matcher.is_stopped())


def _sentence(reason: str) -> str:
    return f"The JSON schema cannot be followed: {' '.join(reason.split())[:300].rstrip('.')}."
