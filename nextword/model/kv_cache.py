"""The memory of a text: keys and values of the positions read so far, in room set aside beforehand.

The equations write each layer's new keys and values behind the old ones (`extend`); only the engine says that
the positions are read (`advance`), after all layers have seen them, so a failed pass leaves the memory as it was.
"""

from __future__ import annotations

import torch

from nextword.model.architecture import Architecture


class Memory:
    """Keys and values [layers, rows, kv heads, capacity, head size] of `rows` texts of equal length."""

    def __init__(
        self,
        architecture: Architecture,
        capacity: int,
        *,
        rows: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        a = architecture
        shape = (a.n_layers, rows, a.n_kv_heads, capacity, a.head_size)
        self._keys = torch.empty(shape, dtype=dtype, device=device)
        self._values = torch.empty(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def extend(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values [rows, kv heads, time, head size]; return all of this layer's so far."""
        end = self.length + key.shape[2]
        assert end <= self.capacity, "the engine checks the room before it reads"
        self._keys[layer, :, :, self.length : end] = key
        self._values[layer, :, :, self.length : end] = value
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        """The next `positions` positions are read in all layers."""
        self.length += positions

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        assert 0 <= length <= self.length
        self.length = length
