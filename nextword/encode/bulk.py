"""Encoding whole corpora, by gigatoken where its ids are the same as those of tokenizers, else by tokenizers.

Promise: the ids are those of `Tokenizer.encode(text)` for every text. gigatoken cannot load every tokenizer,
so it is used only where it agrees with tokenizers on awkward probe texts and on a sample of the corpus
itself. gigatoken always obeys special tokens, so it is given a vocabulary without them: in a corpus, the text of a
special token is text like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError

Ids = npt.NDArray[np.uint32]

_SAMPLE = 64  # texts: of the corpus, which are encoded by both libraries
_SAMPLE_SIZE = 2_000  # characters: of each of these texts

_PROBES = (
    "",
    " ",
    "The quick brown fox's 12345 tricks, they'LL say: \"don't!\" (x_1 += 2.5e-3)",
    "def f(x):\n    return x  # tab\there\r\n\r\n\n  \n   trailing   ",
    "naïve café, Ω≈ç√, e\u0301 and e\u0301\u0301, \u017f'\u017f K 'S, ﬁ, ½ ² Ⅷ ٣٤٥",
    "一二三 한국어 ไทย हिन्दी עברית",
    "👩\u200d👩\u200d👧\u200d👦 🇩🇪🏳️\u200d🌈 \u00a0\u2003\u3000\u2028\u0085\u200b\ufeff\x00\x01\x1c\x7f",
    "<s></s><|endoftext|><|im_start|>user<|im_end|>▁▁<0x0A>[INST]<unk>\ufffd\U0001f9ff\U0010ffff\ue000",
    "a" * 300 + " " * 300 + "\n" * 99 + " \n" * 77,
    "\t \t" * 50 + "1" * 200 + "!" * 200 + "中" * 200 + "ab" * 200,
)


class BulkEncoder:
    """An encoder of many texts at once; one encoder serves all portions of a corpus.

    >>> from nextword.encode.train import train_bpe
    >>> encoder = BulkEncoder(train_bpe(["low lower lowest"], 300))
    >>> [ids.tolist() for ids in encoder.encode(["low", "lowest"])]
    [[258], [258, 69, 83, 84]]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._fast: Any = _gigatoken(tokenizer)
        if not self._agrees([text for text in _PROBES if _holds(tokenizer, text)]):
            self._fast = None

    @property
    def engine(self) -> str:
        """The library that does the work: "gigatoken" or "tokenizers"."""
        return "tokenizers" if self._fast is None else "gigatoken"

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, uint32 [length]. The text of a special token stays text. Raises InputError."""
        if not texts:
            return []
        data = [self._tokenizer.check_text(text) for text in texts]
        step = max(1, len(texts) // _SAMPLE)
        if self._agrees([text[:_SAMPLE_SIZE] for text in texts[::step]]):
            return _split(self._fast.encode_batch(data))
        return [np.array(ids, np.uint32) for ids in self._tokenizer.encode_batch(texts)]

    def _agrees(self, texts: Sequence[str]) -> bool:
        if self._fast is None:
            return False
        expected = self._tokenizer.encode_batch(texts)
        try:
            found = _split(self._fast.encode_batch([text.encode() for text in texts]))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # any failure, a panic too: tokenizers encodes these texts
            return False
        return [ids.tolist() for ids in found] == expected


def encode_bulk(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """The ids of each text, uint32 [length], as `tokenizer.encode(text)` gives them. Raises InputError."""
    return BulkEncoder(tokenizer).encode(texts)


def _gigatoken(tokenizer: Tokenizer) -> Any:
    try:
        import gigatoken

        return gigatoken.Tokenizer.from_json(tokenizer.without_special())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # not installed, or a tokenizer that gigatoken does not know; it may panic
        return None


def _split(batch: Any) -> list[Ids]:
    """The rows of an awkward array, as views of its one buffer of ids."""
    layout = batch.layout
    ids, offsets = np.asarray(layout.content.data, np.uint32), np.asarray(layout.offsets.data)
    return [ids[start:end] for start, end in pairwise(offsets)]


def _holds(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.check_text(text)
    except InputError:
        return False
    return True
