"""The bundled model, and a receipt of it that several modules look at."""

from __future__ import annotations

import math
from typing import Any

import pytest

import nextword
from nextword.sample.settings import Sampling

PROMPT = "She ate an apple"
BOLD = Sampling(temperature=0.8, top_k=40, logit_bias={14: -math.inf, 12: 0.5})


@pytest.fixture(scope="module")
def gpt() -> nextword.GPT:
    return nextword.open("tales", device="cpu")


@pytest.fixture(scope="module")
def receipt(gpt: nextword.GPT) -> dict[str, Any]:
    return gpt.receipt(PROMPT, sampling=BOLD, seed=7, name="tales").to_json()
