"""The speed of making token shards of text: read, remove duplicates, encode, write.

    python bench/prepare.py FOLDER [--vocab 4096]

Each line of the table adds a stage to those before it and runs them all as training does, in one stream, so that
the last line is the whole preparation. Seconds of the clock and of all processors; MB are bytes of UTF-8 text.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from nextword.corpus.documents import Document, Report, deduplicate, read_documents
from nextword.encode.bulk import BulkEncoder
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import write_shards
from nextword.encode.tokenizer import Tokenizer
from nextword.encode.train import train_bpe

SAMPLE = (200, 20_000)  # documents, and characters of each, that the vocabulary is learned from


def measure(path: Path, vocab: int, *, runs: int = 3) -> str:
    """The table, in Markdown; the fastest of `runs` runs of each line."""
    tokenizer, learned = learn(path, vocab)
    report = Report()
    drain(deduplicate(read_documents([path], report=report), report))  # counted, and the files are in memory now

    def documents() -> Iterator[Document]:
        return deduplicate(read_documents([path], report=Report()), Report())

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encoded = encode_documents(tokenizer, documents(), begin=0)
            write_shards(Path(folder) / "shards", encoded, token_bytes=token_sizes(tokenizer))

    stages: dict[str, Callable[[], object]] = {
        "read": lambda: drain(read_documents([path], report=Report())),
        "+ remove duplicates": lambda: drain(documents()),
        "+ encode": lambda: drain(encode_documents(tokenizer, documents(), begin=0)),
        "+ write (all)": write,
    }
    lines = [
        f"{report.documents:,} documents, {report.bytes / 1e6:.1f} MB, {report.duplicates} duplicates; "
        f"{tokenizer.vocab_size:,} tokens (learned in {learned:.1f} s from a sample), "
        f"encoded by {BulkEncoder(tokenizer).engine}.",
        "",
        "| stages | seconds | of processors | MB/s |",
        "| --- | --- | --- | --- |",
    ]
    for name, stage in stages.items():
        clock, processors = min(timed(stage) for _ in range(runs))
        lines.append(f"| {name} | {clock:.2f} | {processors:.2f} | {report.bytes / 1e6 / clock:.1f} |")
    return "\n".join(lines)


def learn(path: Path, vocab: int) -> tuple[Tokenizer, float]:
    """A tokenizer for these texts, and the seconds it took."""
    documents, characters = SAMPLE
    start = time.perf_counter()
    sample = itertools.islice(read_documents([path], report=Report()), documents)
    return train_bpe((document.text[:characters] for document in sample), vocab), time.perf_counter() - start


def timed(stage: Callable[[], object]) -> tuple[float, float]:
    clock, processors = time.perf_counter(), time.process_time()
    stage()
    return time.perf_counter() - clock, time.process_time() - processors


def drain(stream: Iterator[object]) -> None:
    deque(stream, maxlen=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=int, default=4096)
    chosen = parser.parse_args()
    print(measure(chosen.folder, chosen.vocab))
