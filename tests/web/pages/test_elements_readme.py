"""The README of the elements lists every key of a receipt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

import nextword
from nextword.sample.settings import Sampling
from nextword.trace.text.indexed import index_files

README = files("nextword.web.pages").joinpath("elements", "README.md").read_text("utf-8")
BLOCK = re.compile(r"^([a-z][a-z_.]*)\s+(\{.*?)(?=^[a-z]|\Z)", re.MULTILINE | re.DOTALL)
KING = "The king had three sons, and the youngest"


def blocks() -> dict[str, set[str]]:
    """The words of each block of the README's listing, by the block's name, without comments and texts."""
    listing = re.sub(r"//.*|\"[^\"]*\"", "", README.split("```")[-2])
    return {name: set(re.findall(r"\w+", body)) for name, body in BLOCK.findall(listing)}


def objects(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every object in a JSON value with the keys that lead to it."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from objects(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner, path)


def block_of(path: tuple[str, ...], known: dict[str, set[str]]) -> str:
    """The name of the README's block about the object at this path."""
    return next((name for n in (2, 1) if (name := ".".join(path[:n])) in known), "receipt")


@pytest.fixture(scope="module")
def receipt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A receipt with all that one can have: draw, contrast, audit, text and views."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "king.txt").write_text("Once upon a time. " * 20 + f"{KING} was called Boots. " * 3, "utf-8")
    gpt = nextword.open("tales", device="cpu")
    index_files([str(folder / "king.txt")], gpt.tokenizer, folder / "index")
    sampling = Sampling(temperature=0.8, min_p=0.05)
    receipt = gpt.receipt(KING, contrast=" the", sampling=sampling, seed=3, count=40, text=folder / "index")
    return receipt.with_views()


def test_every_key_of_a_receipt_stands_in_the_block_of_its_object(receipt: dict[str, Any]) -> None:
    known = blocks()
    missing = {
        (block, key)
        for path, value in objects(receipt)
        for key in value
        if key not in known[block := block_of(path, known)]
    }
    assert not missing


def test_the_listing_has_a_block_for_each_part_of_a_receipt(receipt: dict[str, Any]) -> None:
    parts = {key for key, value in receipt.items() if isinstance(value, dict)} - {"model", "hashes", "request"}
    assert set(blocks()) == {"receipt"} | parts | {f"views.{view}" for view in receipt["views"]}


def test_a_key_that_is_missing_is_found() -> None:
    assert "temperature" in blocks()["distribution"]
    assert "sentence" not in blocks()["sources"]  # it stands in a comment
    assert block_of(("views", "bigrams", "rows"), blocks()) == "views.bigrams"
    assert block_of(("model",), blocks()) == "receipt"
