"""Types of the equations."""

from __future__ import annotations

import torch

Tensor = torch.Tensor
