"""The cost of a text's index, the time of its queries, and the base rates of evidence on text that no model generated.

    python bench/index.py FOLDER [--vocab 8192]

The text of FOLDER is prepared as for training (a fiftieth of its documents held out), its index is built and queried.
Building runs in a process of its own, whose peak memory is measured. Passages are drawn at random from the held-out
text; each is looked up once, in a process that has just opened the index. The base rates are those of
`nextword.trace.text.evidence` on human text: its thresholds are read off them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nextword.corpus.documents import Report, deduplicate, is_heldout, read_documents
from nextword.corpus.index import build_index, copied_share
from nextword.encode.prepare import encode_documents, token_sizes
from nextword.encode.shards import write_shards
from nextword.encode.train import train_bpe
from nextword.parameters.run_folder import RunFolder
from nextword.trace.text.evidence import PROMPT, gather
from nextword.trace.text.indexed import IndexedText, open_indexed

HELDOUT_FRACTION = 0.02
TOKENIZER_DOCUMENTS, TOKENIZER_CHARACTERS = 400, 40_000
QUERIES = 2000  # passages: of each length
EXCERPTS, PROMPT_TOKENS, EXCERPT_TOKENS = 400, 100, 300


def prepare(path: str, vocab: int, folder: Path) -> None:
    documents = list(deduplicate(read_documents([path], report=Report()), Report()))
    tokenizer = train_bpe((each.text[:TOKENIZER_CHARACTERS] for each in documents[:TOKENIZER_DOCUMENTS]), vocab)
    tokenizer.save(folder)
    run = RunFolder(folder)
    for path_to, heldout in ((run.text_path, False), (run.heldout_path, True)):
        chosen = (each for each in documents if is_heldout(each, HELDOUT_FRACTION) == heldout)
        encoded = encode_documents(tokenizer, chosen, begin=0)
        write_shards(path_to, encoded, token_bytes=token_sizes(tokenizer))


def build(folder: Path, wide: bool) -> str:
    """A row of the table of costs; `wide`: the same text with ids that need four bytes."""
    run = RunFolder(folder)
    shards = run.text()
    tokens = shards.tokens.astype(np.uint32) + 100_000 if wide else shards.tokens
    where = run.index_path.with_name("wide") if wide else run.index_path
    began = time.perf_counter()
    index = build_index(where, tokens, shards.starts, text=shards.hash)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    index.verify()
    checked = time.perf_counter() - began
    per_token = index.n_bytes / len(tokens)
    name = "ids above 100,000 (uint32)" if wide else "ids below 8,192 (uint16)"
    return f"| {name} | {seconds:.1f} | {_memory() / 1e9:.2f} | {per_token:.2f} | {checked:.2f} |"


def _memory() -> float:
    """The peak memory of this process in bytes, from Linux (getrusage counts the parent's before the exec)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * float(status.partition("VmHWM:")[2].split()[0])


def queries(text: IndexedText, heldout: Sequence[int]) -> list[str]:
    draw = np.random.default_rng(0)
    index = text.index
    asks: dict[str, Callable[[Sequence[int]], object]] = {
        "count": index.count,
        "next-token counts": index.next_counts,
        "first 5 places, cited": lambda ids: [text.place(each) for each in index.occurrences(ids, 5)],
        "longest suffix": index.longest_suffix,
    }
    lines, everything = [], []
    for name, ask in asks.items():
        for length in (1, 2, 3, 5, 8, 32) if name != "longest suffix" else (100,):
            starts = draw.integers(0, len(heldout) - length, QUERIES)
            times = [timed(ask, heldout[start : start + length]) for start in starts]
            everything += times
            lines.append(_row(f"{name}, {length} tokens", times))
    return [*lines, _row("all of these", everything)]


def _row(name: str, times: Sequence[float]) -> str:
    median, high = np.quantile(times, [0.5, 0.95]) * 1e3
    return f"| {name} | {median:.3f} | {high:.3f} |"


def timed(ask: Callable[[Sequence[int]], object], ids: Sequence[int]) -> float:
    began = time.perf_counter()
    ask(ids)
    return time.perf_counter() - began


def base_rates(text: IndexedText, heldout: Sequence[int]) -> list[str]:
    starts = np.random.default_rng(1).integers(0, len(heldout) - EXCERPT_TOKENS, EXCERPTS)
    excerpts = [heldout[start : start + EXCERPT_TOKENS] for start in starts]
    began = time.perf_counter()
    account = [token for ids in excerpts for token in gather(text, ids, PROMPT_TOKENS).tokens]
    per_token = (time.perf_counter() - began) / len(account)
    kinds = Counter(token.kind for token in account)
    fractions = ", ".join(f"{kind} {count / len(account):.1%}" for kind, count in kinds.most_common())
    runs = np.mean([token.prompt_match >= PROMPT for token in account])
    began = time.perf_counter()
    grams = {n: copied_share(text.index, excerpts, n) for n in (2, 4, 6, 8, 10, 12)}
    per_gram = (time.perf_counter() - began) / (len(grams) * EXCERPTS * EXCERPT_TOKENS)
    return [
        f"{EXCERPTS} held-out excerpts of {EXCERPT_TOKENS} tokens, the first {PROMPT_TOKENS} as the prompt:",
        "",
        f"- kinds of their tokens: {fractions}; a run of {PROMPT} or more from the prompt ends at {runs:.1%}",
        f"- n-grams found in the text: {', '.join(f'{n}: {share:.1%}' for n, share in grams.items())}",
        f"- evidence took {per_token * 1e3:.2f} ms a token, an n-gram {per_gram * 1e6:.0f} microseconds",
    ]


def main(path: str, vocab: int) -> None:
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "text"
        prepare(path, vocab, folder)
        run = RunFolder(folder)
        shards, heldout_shards = run.text(), run.heldout()
        assert heldout_shards is not None
        print(f"{len(shards.tokens):,} tokens of {shards.n_documents:,} documents, {shards.bytes / 1e6:.1f} MB\n")
        print("| index | seconds to build | GB of memory | bytes a token, tokens included | seconds to verify |")
        print("| --- | --- | --- | --- | --- |")
        for wide in (False, True):
            with processes.Pool(1) as pool:
                print(pool.apply(build, (folder, wide)))
        text = open_indexed(folder)
        heldout = heldout_shards.tokens.tolist()
        print("\n| query | median ms | 95 % ms |\n| --- | --- | --- |")
        print("\n".join(queries(text, heldout)), "", *base_rates(text, heldout), sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--vocab", type=int, default=8192)
    chosen = parser.parse_args()
    main(chosen.folder, chosen.vocab)
