"""The KV cache: keys and values of the positions read so far, in memory that is allocated beforehand.

The equations write each layer's new keys and values behind the old ones (`append`); only the engine says that the
positions are read (`advance`), after all layers have appended, so a failed pass leaves the cache as it was.
"""

from __future__ import annotations

import torch

from nextword.model.architecture import Architecture
from nextword.model.types import Tensor


class KVCache:
    """Keys and values [layers, rows, kv heads, capacity, head size] of `rows` texts of equal length.

    Attributes:
        capacity: The number of positions there is room for.
        length: The number of positions read so far.
    """

    def __init__(
        self,
        architecture: Architecture,
        capacity: int,
        *,
        rows: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate an empty cache.

        Args:
            architecture: What the model computes; gives the shape of keys and values.
            capacity: The number of positions to allocate.
            rows: The number of texts that are read side by side.
            dtype: Of keys and values.
            device: Where they are kept.
        """
        a = architecture
        shape = (a.n_layers, rows, a.n_kv_heads, capacity, a.head_size)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values of the next positions behind those read so far.

        Args:
            layer: The layer's number, from 0.
            key: Keys [rows, kv heads, time, head size].
            value: Values of the same shape.

        Returns:
            All keys and all values of this layer, the new ones included: [rows, kv heads, length + time, head size].
        """
        end = self.length + key.shape[2]
        assert end <= self.capacity, "the engine checks the room before it reads"
        self._keys[layer, :, :, self.length : end] = key
        self._values[layer, :, :, self.length : end] = value
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer so far, each [rows, kv heads, length, head size], without copying them."""
        return self._keys[layer, :, :, : self.length], self._values[layer, :, :, : self.length]

    def advance(self, positions: int) -> None:
        """Count the next `positions` positions as read, in all layers."""
        self.length += positions

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        assert 0 <= length <= self.length
        self.length = length
