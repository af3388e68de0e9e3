"""What tests of the command line share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kernels() -> None:
    """Compiles the kernels before a test has a cache of its own, so that no verb notes that it compiles them."""
    from nextword.predict.cpu.kernel_cache import compiled

    compiled()
