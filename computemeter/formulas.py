"""The FLOPs of a contraction, from its shapes: written once, shared by every counter.

Each function returns an exact Python int; a multiply-add is 2 FLOPs. Nothing here knows a
framework. The counters translate an operator's arguments into these shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Matrices per recurrent cell: an LSTM has 4 gates, a GRU 3, a plain RNN 1."""


def matmul(rows: int, inner: int, columns: int, batch: int = 1) -> int:
    """FLOPs of `batch` products of a (rows, inner) by an (inner, columns) matrix.

    >>> matmul(32, 784, 256)  # 2 * 32 * 784 * 256
    12845056
    """
    return 2 * batch * rows * inner * columns


def convolution(batch: int, positions: Sequence[int], weight: Sequence[int]) -> int:
    """FLOPs of a convolution, or of either of its two gradients.

    Every element of the weight is used once per example and position, so the input gradient and
    the weight gradient cost what the forward pass costs. Padding taps count, as in the literature.

    Args:
        batch: examples.
        positions: spatial size of the output; for a transposed convolution, of the input.
        weight: full shape of the weight, (out, in / groups, *kernel); for a transposed
            convolution (in, out / groups, *kernel). Groups are in the shape already.

    >>> convolution(32, (32, 32), (16, 3, 3, 3))  # 2 * 32 * 1024 * 432
    28311552
    """
    return 2 * batch * prod(positions) * prod(weight)


def attention(
    batch: int, heads: int, queries: int, keys: int, head_dim: int, value_dim: int
) -> int:
    """FLOPs of scaled dot-product attention, counted dense: scores, then their sum over values.

    >>> attention(2, 4, 16, 16, 8, 8)  # 2 * (2*4*16*16) * (8 + 8)
    65536
    """
    return 2 * batch * heads * queries * keys * (head_dim + value_dim)


def attention_backward(
    batch: int, heads: int, queries: int, keys: int, head_dim: int, value_dim: int
) -> int:
    """FLOPs of attention's gradients: 4 products, one each for the queries, keys, scores, values.

    >>> attention_backward(2, 4, 16, 16, 8, 8) == 2 * attention(2, 4, 16, 16, 8, 8)
    True
    """
    return 2 * attention(batch, heads, queries, keys, head_dim, value_dim)


def attention_recompute(batch: int, heads: int, queries: int, keys: int, head_dim: int) -> int:
    """FLOPs of the scores that a fused backward computes once more: hardware FLOPs only.

    >>> attention_recompute(2, 4, 16, 16, 8)
    32768
    """
    return matmul(queries, head_dim, keys, batch * heads)


def recurrent(
    cell: str, steps_times_batch: int, inputs: int, hidden: int, projection: int = 0
) -> int:
    """FLOPs of one direction of one recurrent layer, forward.

    Per step and example, every gate multiplies the input and the recurrent state; an LSTM with a
    projection feeds the projected state back.

    Args:
        cell: "lstm", "gru" or "rnn".
        steps_times_batch: time steps x examples.
        inputs: features of the input.
        hidden: units.
        projection: size of the projected state, 0 for none.

    >>> recurrent("lstm", 20 * 32, 16, 32)  # 2 * 640 * 4*32 * (16 + 32)
    7864320
    """
    state = projection or hidden
    gates = matmul(steps_times_batch, inputs + state, GATES[cell] * hidden)
    return gates + matmul(steps_times_batch, hidden, projection)


def recurrent_backward(
    cell: str, steps_times_batch: int, inputs: int, hidden: int, projection: int = 0
) -> int:
    """FLOPs of the gradients of `recurrent`: for each product, one for either factor.

    A fused kernel computes the gradient of its input and of its first state whether or not they
    are needed, and so both are counted.
    """
    return 2 * recurrent(cell, steps_times_batch, inputs, hidden, projection)


# Leading terms of dense factorisations. Golub & Van Loan, Matrix Computations, 4th edition: 3.1
# (triangular systems), 3.2 (LU), 4.2 (Cholesky), 5.2 (QR); what is not there, from the LAPACK
# Working Note 41. Of complex numbers each is 4 times as many.


def cholesky(size: int) -> int:
    """FLOPs of the Cholesky factor of a matrix: n^3 / 3.

    >>> cholesky(6)
    72
    """
    return size**3 // 3


def cholesky_inverse(size: int) -> int:
    """FLOPs of the inverse of a matrix from its Cholesky factor: 2 n^3 / 3.

    >>> cholesky_inverse(6)
    144
    """
    return 2 * size**3 // 3


def lu(rows: int, columns: int) -> int:
    """FLOPs of an LU factorisation: l*k^2 - k^3 / 3 of longer side l and shorter side k.

    >>> lu(6, 6)  # 2 n^3 / 3 of a square
    144
    """
    short, long = sorted((rows, columns))
    return (3 * long * short**2 - short**3) // 3


def inverse(size: int) -> int:
    """FLOPs of the inverse of a matrix: 2 n^3, a third of them for its LU factorisation.

    >>> inverse(6)
    432
    """
    return 2 * size**3


def triangular_solve(size: int, columns: int) -> int:
    """FLOPs of solving a triangular system: n^2 for each right-hand side.

    >>> triangular_solve(6, 2)
    72
    """
    return size**2 * columns


def qr(rows: int, columns: int) -> int:
    """FLOPs of a QR factorisation by reflections, without forming Q.

    2 m n^2 - 2 n^3 / 3 of a tall matrix; of a wide one the same with the sides exchanged.

    >>> qr(9, 6)  # 2 * 9*36 - 2 * 72
    504
    """
    short, long = sorted((rows, columns))
    return (6 * long * short**2 - 2 * short**3) // 3


def householder_product(rows: int, columns: int, reflectors: int) -> int:
    """FLOPs of forming the first columns of Q from its reflections.

    4 m n k - 2 (m + n) k^2 + 4 k^3 / 3: what the factorisation took where n = k.

    >>> householder_product(9, 6, 6) == qr(9, 6)
    True
    """
    m, n, k = rows, columns, reflectors
    return (12 * m * n * k - 6 * (m + n) * k**2 + 4 * k**3) // 3


def fft(size: int, batch: int = 1) -> int:
    """FLOPs of complex Fourier transforms: 5 N log2 N each, of a real one half as many.

    The convention of FFTW's benchmarks (Frigo & Johnson), for every algorithm and every N.

    Args:
        size: points of one transform, over all its dimensions.
        batch: transforms.

    >>> fft(8, 2)  # 2 * 5 * 8 * 3
    240
    """
    return round(5 * size * log2(size)) * batch if size else 0
