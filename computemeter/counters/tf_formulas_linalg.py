"""Factorisations, solvers and Fourier transforms of TensorFlow with a textbook number of FLOPs.

Leading terms; the sources are with the formulas. What iterates until it converges (singular and
eigenvalues) or chooses its method by the data is on the list of uncounted operations.
"""

from __future__ import annotations

from math import prod
from typing import Any

from computemeter import formulas
from computemeter.counters.tf_shapes import arithmetic, constant, formula, sizes


def _of_matrices(op: Any, flops: int) -> int:
    """FLOPs of a batch, from those of one real matrix."""
    return prod(sizes(op.inputs[0])[:-2]) * flops * arithmetic(op.inputs[0])


def _solve(op: Any, triangles: int) -> int:
    """FLOPs of solving for every column of the solution, whichever side is broadcast."""
    *batch, size, columns = sizes(op.outputs[0])
    flops = prod(batch) * triangles * formulas.triangular_solve(size, columns)
    return flops * arithmetic(op.inputs[0])


@formula("Cholesky", "BatchCholesky")
def _cholesky(op: Any) -> int:
    return _of_matrices(op, formulas.cholesky(sizes(op.inputs[0])[-1]))


@formula("Lu", "MatrixDeterminant", "BatchMatrixDeterminant", "LogMatrixDeterminant")
def _lu(op: Any) -> int:
    return _of_matrices(op, formulas.lu(*sizes(op.inputs[0])[-2:]))


@formula("MatrixInverse", "BatchMatrixInverse")
def _inverse(op: Any) -> int:
    return _of_matrices(op, formulas.inverse(sizes(op.inputs[0])[-1]))


@formula("MatrixTriangularSolve", "BatchMatrixTriangularSolve")
def _solve_triangular(op: Any) -> int:
    return _solve(op, 1)


@formula("MatrixSolve", "BatchMatrixSolve")
def _solve_square(op: Any) -> int:
    return _lu(op) + _solve(op, 2)


@formula("Qr")
def _qr(op: Any) -> int:
    rows, columns = sizes(op.inputs[0])[-2:]
    reflectors = min(rows, columns)
    width = rows if op.get_attr("full_matrices") else reflectors
    flops = formulas.qr(rows, columns) + formulas.householder_product(rows, width, reflectors)
    return _of_matrices(op, flops)


_COMPLEX = {f"{kind}FFT{d}": d for kind in ("", "I", "Batch", "BatchI") for d in ("", "2D", "3D")}
_REAL = {f"{kind}FFT{d}": d for kind in ("R", "IR") for d in ("", "2D", "3D")}
_DIMENSIONS = {"": 1, "2D": 2, "3D": 3}


@formula(*_COMPLEX)
def _fft(op: Any) -> int:
    dimensions = _DIMENSIONS[_COMPLEX[op.type]]
    (*batch,) = sizes(op.inputs[0])
    return formulas.fft(prod(batch[-dimensions:]), prod(batch[:-dimensions]))


@formula(*_REAL)
def _real_fft(op: Any) -> int:
    # Half of what a complex transform takes. The operand, not the shape, has the true length.
    points = [int(size) for size in constant(op.inputs[1])]
    return formulas.fft(prod(points), prod(sizes(op.inputs[0])[: -len(points)])) // 2


@formula("FFTND", "IFFTND", "RFFTND", "IRFFTND")
def _fft_over_axes(op: Any) -> int:
    points = [int(size) for size in constant(op.inputs[1])]
    shape = sizes(op.inputs[0])
    over = {int(axis) % len(shape) for axis in constant(op.inputs[2])}
    batch = prod(size for axis, size in enumerate(shape) if axis not in over)
    return formulas.fft(prod(points), batch) // (2 if "R" in op.type else 1)
