"""Learning a vocabulary from the user's own text.

The result is a byte-level BPE of the shape that Qwen uses: every byte is a token, so any text can be held;
words, punctuation and single digits are cut apart before the merges; nothing is normalised, so decoding gives
the text back exactly. Only merges that occur at least twice are learned.

A vocabulary for conversations also has ChatML's two special tokens, and the chat template that writes them.

Promise: the same texts, in any number of threads, give the same vocabulary, and it is the one that the reference
implementation learns (`reference.train`): of equally frequent pairs, the one with the lower ids is merged first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from nextword.encode.bytelevel import BYTE_TO_CHAR, QWEN2
from nextword.encode.conversations import CHATML, TURN_BEGINS, TURN_ENDS
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import InputError


def train_bpe(
    texts: Iterable[str], vocab: int, *, special: Sequence[str] = ("<|endoftext|>",), chat: bool = False
) -> Tokenizer:
    """Learn a tokenizer: the special tokens first, then the 256 bytes, then the merges.

    Args:
        texts: The texts to learn from.
        vocab: The largest number of tokens. There are fewer if no pair is left that occurs twice.
        special: The special tokens. The first one begins a text (`encode(text, begin=True)`) and ends a text
            (`eos_ids`).
        chat: Whether to add ChatML's special tokens, which begin and end a turn, and its chat template. The token
            that ends a turn is then one of `eos_ids`.

    Raises:
        InputError: `vocab` has no room for special tokens and bytes, a special token is empty or given twice, or a
            text holds half a surrogate pair.

    >>> tokenizer = train_bpe(["low lower lowest"], 300)
    >>> tokenizer.vocab_size, tokenizer.begin_id
    (261, 0)
    >>> [tokenizer.token_text(id) for id in tokenizer.encode("lowest low")]
    ['low', 'e', 's', 't', ' low']
    """
    if chat:
        special = (*special, TURN_BEGINS, TURN_ENDS)
    if vocab < 256 + len(special):
        raise InputError(
            f"A vocabulary of {vocab} is too small for 256 bytes and {len(special)} special tokens; "
            f"ask for at least {256 + len(special)}."
        )
    if not all(special) or len(set(special)) != len(special):
        raise InputError("The special tokens must be different from each other, and not empty.")
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(QWEN2), behavior="isolated")
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, spelled])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=list(BYTE_TO_CHAR),
        show_progress=False,
    )
    backend.train_from_iterator(_checked(texts), trainer)
    if not special:
        return Tokenizer.from_json(backend.to_str())
    first = special[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, 0)]
    )
    config = {"bos_token": first, "eos_token": first}
    if chat:
        config |= {"eot_token": TURN_ENDS, "chat_template": CHATML}
    return Tokenizer.from_json(backend.to_str(), config)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"Character {error.start} of text {number} is half a surrogate pair; remove it."
            ) from error
        yield text
