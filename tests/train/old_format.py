"""A run folder as it was written before its files bore a format: the same bits under the old keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE = {"batch_size": "rows", "muon_lr": "matrix_rate", "adam_lr": "other_rate", "momentum_start": "first_momentum"}
RECIPE |= {"init": "from_pairs"}
RECORD = {"lr_scale": "level", "mfu": "share_of_peak"}


def age(run: Path) -> Path:
    """Rewrite card, log and checkpoints of a run into the old form."""
    for path in (run / "card.json", *run.glob("checkpoints/*/state.json")):
        values = json.loads(path.read_text())
        assert values.pop("format") == 2
        values["recipe"] = _renamed(values["recipe"], RECIPE)
        values["recipe"]["from_pairs"] = values["recipe"]["from_pairs"] == "bigrams"
        path.write_text(json.dumps(values))
    log = run / "log.jsonl"
    if log.exists():
        records = [_renamed(json.loads(line), RECORD) for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}
