from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nextword.optimize import preflight


@pytest.fixture(scope="module")
def quick_training() -> Iterator[None]:
    """Runs of this module's tests start after a short trial, and use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "_TRIAL_STEPS", 3)
        yield
    torch.set_num_threads(threads)
