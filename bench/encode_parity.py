"""Are our ids those of other tokenizers, on 100,000 random strings, and at what speed?

    python bench/encode_parity.py [SmolLM2.gguf]          (needs the extras: pip install '.[test,peers]' bpe-openai)

Referees: tiktoken for OpenAI's encodings; llama.cpp for tokenizers inside GGUF files (the real SmolLM2, GPT-2's
vocabulary under every name of a pre-tokenizer, and a vocabulary of SentencePiece's kind); tokenizers for bulk
encoding. The text for timing is Python's own standard library.
"""

from __future__ import annotations

import random
import sys
import sysconfig
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import tiktoken
import tiktoken_ext.openai_public

from nextword.encode import gguf, openai
from nextword.encode.bulk import BulkEncoder
from nextword.encode.bytelevel import spell
from nextword.encode.gguf import tokenizer_from_gguf
from nextword.encode.openai import ENCODINGS, openai_encoding, openai_ranks
from nextword.encode.tokenizer import Tokenizer
from nextword.errors import FetchError, InputError
from nextword.parameters.gguf import read_gguf

N = 100_000
WORDS = [
    *"the of and apple pie's I'LL don't we'Ve foo_bar http:// x=1 123456 3.14 naïve café 中文 日本語 हिन्दी Ω".split(
        " "
    ),
    *"'\u017f \u212a 👩\u200d👩\u200d👧 🇩🇪 e\u0301 \u00a0 \u3000 \x00 \x1c \x85 \u2028 \r\n \n\n \t".split(" "),
    *("<|endoftext|>", "<|im_end|>", "<s>", "<0x41>", " ", "  ", "\n", " \n", "\t\t", " " * 7),
]
BLOCKS = (
    *((0, 0x80), (0x80, 0x250), (0x300, 0x530), (0x590, 0x700), (0x900, 0xE00), (0x2000, 0x2070), (0x3000, 0x3100)),
    *((0x4E00, 0x5000), (0xAC00, 0xAC80), (0xE000, 0xE010), (0xFE00, 0x10000), (0x1F300, 0x1F700), (0x10000, 0x110000)),
)


def strings(n: int, seed: int) -> Iterator[str]:
    """Words and spaces, characters of one block, all planes, runs of spaces, long repeats."""
    dice = random.Random(seed)

    def character() -> str:
        code = dice.randrange(*dice.choice(BLOCKS))
        return "x" if 0xD800 <= code < 0xE000 else chr(code)

    for _ in range(n):
        kind = dice.random()
        if kind < 0.3:
            parts = (dice.choice(WORDS) + dice.choice(("", "", " ", "\n")) for _ in range(dice.randint(0, 25)))
        elif kind < 0.6:
            low, high = dice.choice(BLOCKS)
            parts = (chr(dice.randrange(low, high)) for _ in range(dice.randint(0, 30)))
        elif kind < 0.8:
            parts = (
                dice.choice((dice.choice(WORDS), character(), dice.choice("aZ09' .!\n") * dice.randint(1, 5)))
                for _ in range(dice.randint(1, 25))
            )
        elif kind < 0.95:
            parts = (
                dice.choice(" \n\t\r\u00a0\u3000a1") * dice.choice((1, 1, 2, 3, 4, 8, 26, 50))
                for _ in range(dice.randint(1, 12))
            )
        else:
            parts = (character() * dice.randint(1, 300), dice.choice(WORDS))
        yield "".join(parts).encode("utf-8", "replace").decode()


def differing(texts: Iterable[str], ours: Tokenizer, theirs: Callable[[str], list[int]], **options: bool) -> str:
    """The number of texts with different ids, of all; texts that our tokenizer refuses are counted apart."""
    wrong = refused = count = 0
    for text in texts:
        count += 1
        try:
            found = ours.encode(text, **options)
        except InputError:
            refused += 1
            continue
        if found != theirs(text):
            wrong += 1
            print(f"  differs: {text[:60]!r}")
    return f"{wrong} of {count:,}" + (f" ({refused:,} refused: no token for a character)" if refused else "")


def tiktokens(name: str, ranks: dict[bytes, int]) -> tiktoken.Encoding:
    """tiktoken's own definition of the encoding, with our table in place of its download."""
    published, load = tiktoken_ext.openai_public, tiktoken_ext.openai_public.load_tiktoken_bpe
    published.load_tiktoken_bpe = lambda url, expected_hash: ranks
    try:
        return tiktoken.Encoding(**getattr(published, name)())
    finally:
        published.load_tiktoken_bpe = load


def against_tiktoken() -> None:
    for name in ENCODINGS:
        try:
            ranks = openai_ranks(name)
        except FetchError as error:
            print(f"{name}: {error}")
            continue
        theirs = tiktokens(name, ranks)
        started = time.perf_counter()
        ours = openai_encoding(name)
        loaded = time.perf_counter() - started
        found = differing(strings(N, 1), ours, theirs.encode_ordinary)
        spaces = differing((" " * length for length in range(1, 3_001)), ours, theirs.encode_ordinary)
        print(f"{name}, tiktoken {tiktoken.__version__}: {found} differ; of runs of spaces {spaces}")
        print(f"  opened in {loaded:.2f} s")


def against_llama_cpp(smollm2: str | None) -> None:
    try:
        import llama_cpp
    except ImportError:
        print("llama.cpp: not installed (pip install '.[peers]')")
        return

    def compare(what: str, path: str, metadata: Any, texts: list[str]) -> None:
        llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        ours = tokenizer_from_gguf(metadata)
        for special in (False, True):
            tokenize = partial(llama.tokenize, add_bos=False, special=special)
            found = differing(texts, ours, lambda text, of=tokenize: of(text.encode()) if text else [], special=special)
            print(f"{what}, special={special}, llama.cpp {llama_cpp.__version__}: {found} differ")

    if smollm2:
        compare("SmolLM2's GGUF file", smollm2, read_gguf(Path(smollm2)).metadata, list(strings(N // 4, 2)))
    ranks = openai_ranks("r50k_base")
    vocab = {spell(token): rank for token, rank in ranks.items()}
    normal = [unicodedata.normalize("NFC", text) for text in strings(N // 20, 3)]
    with tempfile.TemporaryDirectory() as folder:
        for pre in gguf._PRE:
            metadata = {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": [*vocab, "<|endoftext|>", "<tool>"],
                "tokenizer.ggml.token_type": [1] * len(vocab) + [3, 4],
                "tokenizer.ggml.merges": [f"{left} {right}" for left, right in openai._pairs(vocab)],
                "tokenizer.ggml.bos_token_id": 50256,
                "tokenizer.ggml.eos_token_id": 50256,
            }
            compare(f"GPT-2's vocabulary cut as {pre!r}", write(metadata, folder), metadata, normal)
        plain = [text.replace("<", "(") for text in strings(N // 10, 4)]  # llama.cpp takes <0x41> and <s> for tokens
        for runs in (False, True):
            metadata = sentencepiece(plain[:3_000], runs)
            what = "a SentencePiece vocabulary" + (" with runs of spaces of one score" if runs else "")
            compare(what, write(metadata, folder), metadata, [" " * n for n in range(1, 99)] + plain)


def write(metadata: dict[str, Any], folder: str) -> str:
    """A GGUF file with a vocabulary and no weights."""
    from gguf import GGUFWriter

    path = f"{folder}/vocabulary.gguf"
    writer = GGUFWriter(path, "llama")
    for name in ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"llama.{name}", 64)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in metadata.items():
        add = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sentencepiece(texts: list[str], runs: bool) -> dict[str, Any]:
    """A vocabulary of 3,000 pieces learned from `texts`, scored by rank; llama.cpp cannot hold U+0000."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=3_000, special_tokens=first, limit_alphabet=300, show_progress=False)
    backend.train_from_iterator([text.replace("\x00", "") for text in texts], trainer)
    tokens = sorted(backend.get_vocab(), key=backend.token_to_id)
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(tokens) - 259)]
    if runs:
        lengths = range(2, 17)
        scores = [0.0 if set(token) == {"▁"} else score for token, score in zip(tokens, scores, strict=True)]
        new = ["▁" * length for length in lengths if "▁" * length not in tokens]
        tokens, scores = tokens + new, scores + [0.0] * len(new)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*tokens, "<tool>"],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259), 4],
        "tokenizer.ggml.scores": [*scores, -1000.0],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def bulk_speed() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in sorted(library.glob("**/*.py"))][:2_000]
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = openai_encoding("r50k_base")
    ranks = openai_ranks("r50k_base")
    theirs = tiktokens("r50k_base", ranks)
    encoder = BulkEncoder(tokenizer)
    found = [ids.tolist() for ids in encoder.encode(texts)]
    print(
        f"{len(texts):,} files, {size:.1f} MB, r50k_base; {encoder.engine} differs from tokenizers on "
        f"{sum(a != b for a, b in zip(found, tokenizer.encode_batch(texts), strict=True))} files"
    )
    for name, work in {
        f"encode_bulk ({encoder.engine}), opening it included": lambda: BulkEncoder(tokenizer).encode(texts),
        f"BulkEncoder.encode ({encoder.engine})": lambda: encoder.encode(texts),
        "Tokenizer.encode_batch (tokenizers)": lambda: tokenizer.encode_batch(texts),
        "Tokenizer.encode, one after another": lambda: [tokenizer.encode(text) for text in texts],
        "tiktoken encode_ordinary_batch, 2 threads": lambda: theirs.encode_ordinary_batch(texts, num_threads=2),
    }.items():
        best = min(seconds(work) for _ in range(3))
        print(f"{name}: {size / best:.1f} MB/s")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    against_tiktoken()
    against_llama_cpp(sys.argv[1] if len(sys.argv) > 1 else None)
    bulk_speed()
