"""Tensors to give to PyTorch's operators: `r(2, 3)` is a matrix of 2 rows and 3 columns."""

import torch

r = torch.randn

SPARSE = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])  # 3 stored elements of 6
EYE = torch.eye(6)


def half(*shape):
    return torch.randn(shape, dtype=torch.bfloat16)


def m(*shape, dtype=torch.float32):
    """Return a tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def ends(*positions):
    return torch.tensor(positions, dtype=torch.int32)
