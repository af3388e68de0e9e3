"""The layout of a file's tensors as data, which serves reading and writing.

A `TensorMapping` says: this tensor of the file, transposed and with its rows reordered as given, equals these tensors
of ours stacked on top of each other. `load` reads a file by its mappings, `store` writes a file by the same mappings.
Rows are picked without dequantizing, so a packed tensor stays packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextword.errors import CorruptFile, UnsupportedModel
from nextword.model.architecture import Architecture, tensor_shapes
from nextword.parameters.stored import StoredTensor

RowOrder = npt.NDArray[np.intp]


@dataclass(frozen=True)
class TensorMapping:
    """A tensor of the file, and the tensors of ours that it holds.

    Args:
        theirs: The name of the file's tensor.
        ours: The names of our tensors, stacked along the first axis.
        transposed: Whether the file's tensor is the transposed stack ([in, out] in place of [out, in]).
        order: A function that gives the rows of the file's tensor in the order of our stack, intp [rows]; called
            when the tensor's shape is known to be right. None where the order is the same.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    order: Callable[[], RowOrder] | None = None


def load(
    mappings: Iterable[TensorMapping], stored: Mapping[str, StoredTensor], architecture: Architecture, source: str
) -> dict[str, StoredTensor]:
    """Our tensors, with the names and shapes of `tensor_shapes(architecture)`, from the tensors of a file.

    Args:
        mappings: The layout of the file.
        stored: The tensors of the file, by name.
        architecture: The model's architecture.
        source: The name of the file or folder, for errors.

    Raises:
        CorruptFile: A tensor is missing or has another shape.
        UnsupportedModel: No mapping accounts for a tensor of the file.
    """
    shapes = tensor_shapes(architecture)
    ours: dict[str, StoredTensor] = {}
    left = dict(stored)
    for mapping in mappings:
        if mapping.theirs not in left:
            raise CorruptFile(f"{source}: the tensor {mapping.theirs} is missing.")
        tensor = left.pop(mapping.theirs)
        expected = _stacked_shape(mapping, shapes)
        found = tensor.shape[::-1] if mapping.transposed else tensor.shape
        if found != expected:
            raise CorruptFile(f"{source}: the tensor {mapping.theirs} has shape {found}, its settings say {expected}.")
        ours.update(_split(mapping, tensor, shapes))
    if left:
        raise UnsupportedModel(f"{source}: nextword does not know what the tensor {min(left)} is for.")
    assert ours.keys() == shapes.keys()
    return ours


def store(
    mappings: Iterable[TensorMapping], tensors: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a file, from ours: the inverse of `load`.

    >>> fused = TensorMapping("attn.weight", ("query", "value"), transposed=True)
    >>> ours = {"query": np.array([[1, 2]], np.float32), "value": np.array([[3, 4]], np.float32)}
    >>> store([fused], ours)["attn.weight"].tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    theirs = {}
    for mapping in mappings:
        stacked = np.concatenate([tensors[name] for name in mapping.ours])
        if mapping.order is not None:
            reordered = np.empty_like(stacked)
            reordered[mapping.order()] = stacked
            stacked = reordered
        theirs[mapping.theirs] = np.ascontiguousarray(stacked.T if mapping.transposed else stacked)
    return theirs


def _stacked_shape(mapping: TensorMapping, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    height = sum(shapes[name][0] for name in mapping.ours)
    return (height, *shapes[mapping.ours[0]][1:])


def _split(
    mapping: TensorMapping, tensor: StoredTensor, shapes: Mapping[str, tuple[int, ...]]
) -> Iterable[tuple[str, StoredTensor]]:
    if mapping.transposed:
        tensor = tensor.transpose()
    order = mapping.order() if mapping.order is not None else None
    top = 0
    for name in mapping.ours:
        bottom = top + shapes[name][0]
        rows = slice(top, bottom) if order is None else order[top:bottom]
        whole = len(mapping.ours) == 1 and order is None
        if whole:
            yield name, tensor
        elif len(tensor.shape) == 1:
            yield name, StoredTensor.of(tensor.dequantize()[rows])
        else:
            yield name, tensor.rows(rows)
        top = bottom
