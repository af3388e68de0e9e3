"""What the kernels may use of a processor, on this machine and on those that it pretends to be."""

from __future__ import annotations

import pytest

from nextword.predict.cpu import processor
from nextword.predict.cpu.processor import features


@pytest.mark.parametrize(("there", "known"), [(True, True), (True, False), (False, True)])
def test_dot_products_are_used_where_they_are_there_and_llvm_knows(
    there: bool, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_has_dot_products", lambda: there)
    monkeypatch.setattr(processor, "_compiles_dot_products", lambda name: known)
    assert ("dotprod" in features.__wrapped__()) == (there and known)


def test_nothing_is_used_of_what_is_to_be_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_has_dot_products", lambda: True)
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert features.__wrapped__() == frozenset()


@pytest.mark.parametrize(("system", "expected"), [("Darwin", True), ("Windows", False)])
def test_a_mac_with_an_arm_processor_has_dot_products(
    system: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("platform.system", lambda: system)
    assert processor._has_dot_products() == expected


@pytest.mark.skipif("avx" not in features(), reason="needs another processor than ARM's")
def test_another_processor_compiles_none() -> None:
    assert not processor._has_dot_products()
    assert not processor._compiles_dot_products(processor.processor_name())
