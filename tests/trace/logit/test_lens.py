"""The logit lens ends with the model's own prediction, and every row is a distribution."""

from __future__ import annotations

import pytest
import torch

from nextword.trace.logit.lens import logit_lens
from nextword.trace.recording import record
from tests.trace.models import KINDS, PROMPT, random_model


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_row_of_the_logit_lens_is_the_prediction(kind: str) -> None:
    recording = record(random_model(KINDS[kind]), PROMPT)
    lens = logit_lens(recording)
    assert lens.shape == (4, 60)
    assert torch.allclose(lens[-1], recording.logits.log_softmax(-1), atol=1e-12)
    assert torch.allclose(lens.exp().sum(1), torch.ones(4, dtype=lens.dtype))
