"""Make the bundled model of a finished run: its GGUF file in 8 bits, and the card beside it.

    python bench/bundle.py RUN heldout.jsonl.gz [--name tales]
    python bench/bundle.py INDEXED --samples [--name tales]      only the samples again, of the model as it is bundled

The card holds that of the run, the curve of its measurements, bits per byte of the whole held-out text in float32 and
as shipped, twenty samples drawn with the seeds 0 to 19, and how much of them was copied. Prints what
nextword/parameters/bundled.py must state about the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tales import measure

import nextword
from nextword.api import GPT
from nextword.corpus.documents import Report, read_documents
from nextword.corpus.index import copied_share
from nextword.parameters.bundled import FOLDER
from nextword.parameters.export import export_gguf, to_json
from nextword.parameters.open import open_stored
from nextword.parameters.run_folder import RunFolder
from nextword.sample.settings import DEFAULT_SAMPLING
from nextword.trace.text.indexed import open_indexed
from nextword.train.events import HELDOUT

PROMPT, SAMPLES, LENGTH = "Once upon a time", 20, 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run; with --samples, its text as `nextword index` keeps it")
    parser.add_argument("heldout", nargs="?")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--name", default="tales")
    given = parser.parse_args()
    path = FOLDER / f"{given.name}.gguf"
    if given.samples:
        card = json.loads((FOLDER / f"{given.name}.json").read_text()) | samples(nextword.open(path), given.run)
        (FOLDER / f"{given.name}.json").write_bytes(to_json(card))
        print(f"{card['copied_8_grams']:.2%} of 8-grams copied")
        return
    if given.heldout is None:
        parser.error("give the held-out text")
    FOLDER.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    export_gguf(open_stored(given.run), path, "Q4_1")
    data = path.read_bytes()
    file = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    card = RunFolder(given.run).card().values
    allowed = licences(card["corpus"]["paths"])  # before what takes long: the text may be gone
    bits = {name: measure(str(model), given.heldout, None) for name, model in (("fp32", given.run), ("shipped", path))}
    card = {
        "name": given.name,
        "file": file,
        "licences": allowed,
        "heldout_bits_per_byte": {name: round(found.bits_per_byte, 4) for name, found in bits.items()},
        **card,
        "curve": curve(RunFolder(given.run)),
        **samples(nextword.open(path), given.run),
    }
    for key in ("paths", "holdout"):
        card["corpus"][key] = [Path(each).name for each in card["corpus"][key]]
    (FOLDER / f"{given.name}.json").write_bytes(to_json(card))
    print(file, card["heldout_bits_per_byte"], f"{card['copied_8_grams']:.2%} of 8-grams copied")


def licences(paths: list[str]) -> dict[str, int]:
    """Bytes of training text under each licence."""
    count: Counter[str] = Counter()
    for document in read_documents(paths, report=Report()):
        count[str(document.fields.get("license", "not stated"))] += document.n_bytes
    return dict(count.most_common())


def curve(run: RunFolder) -> list[list[float]]:
    """[step, bits per byte of a sample of the held-out text], as measured on the way."""
    return [[each["step"], each[HELDOUT]] for each in run.records() if HELDOUT in each]


def samples(gpt: GPT, run: Path) -> dict[str, Any]:
    """Twenty texts, none chosen by hand, and the fraction of their 8-grams that stand in the training text."""
    index = open_indexed(run).index
    texts, ids = [], []
    for seed in range(SAMPLES):
        generation = gpt.generate(PROMPT, max_tokens=LENGTH, seed=seed)
        texts.append(PROMPT + "".join(step.text for step in generation))
        ids.append([token.id for token in generation.tokens])
    return {"sampling": asdict(DEFAULT_SAMPLING), "samples": texts, "copied_8_grams": copied_share(index, ids)}


if __name__ == "__main__":
    main()
