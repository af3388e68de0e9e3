"""Bits per byte of models on a text that none was trained on, beside what gzip and xz make of it.

    python bench/tales.py heldout.jsonl.gz [--model tales] [--model RUN] [--model smollm2:40000]

A number after a model's name is the number of tokens to measure, spread evenly over the text; else all of them. Bits
per byte are those of nextword.optimize.evaluate, of the reference model in float32: every document from its own
beginning.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import tempfile
import time
from pathlib import Path

import nextword
from nextword.corpus.documents import Report, read_documents
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import open_shards, write_shards
from nextword.optimize.evaluate import Evaluation, evaluate


def measure(name: str, text: str, limit: int | None) -> Evaluation:
    gpt = nextword.open(name)
    assert gpt.tokenizer.bos_id is not None
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        encoded = encode_documents(gpt.tokenizer, read_documents([text], report=Report()), begin=gpt.tokenizer.bos_id)
        write_shards(shards, encoded, token_bytes=token_sizes(gpt.tokenizer))
        return evaluate(gpt.reference_model, open_shards(shards), limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--model", action="append", default=[])
    given = parser.parse_args()
    whole = "".join(document.text for document in read_documents([given.text], report=Report())).encode()
    print(f"{Path(given.text).name}, {len(whole):,} bytes\n\n| | bits per byte | tokens | seconds |")
    print("| --- | --- | --- | --- |")
    strongest = lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME)
    for name, packed in (("gzip -9", gzip.compress(whole, 9)), ("xz -9e", strongest)):
        print(f"| {name} | {8 * len(packed) / len(whole):.4f} | | |")
    for each in given.model or ["tales"]:
        name, _, limit = each.partition(":")
        began = time.perf_counter()
        found = measure(name, given.text, int(limit) if limit else None)
        took = time.perf_counter() - began
        print(f"| {name} | {found.bits_per_byte:.4f} | {found.tokens:,} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
