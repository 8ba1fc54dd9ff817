"""Factorisations, solvers and Fourier transforms of PyTorch with a textbook number of FLOPs.

Leading terms; the sources are with the formulas. What iterates until it converges (singular and
eigenvalues), chooses its method by the data (`lstsq`, `matrix_exp`) or has no such number stays on
the list of uncounted operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from computemeter import formulas
from computemeter.counters.torch_flops import Arguments, NoFormulaError, formula, multiply_add


def _of_matrices(matrices: Tensor, flops: int) -> int:
    """FLOPs of a batch, from those of one real matrix."""
    return prod(matrices.shape[:-2]) * flops * multiply_add(matrices) // 2


def _solve(solution: Tensor, triangles: int, size: int) -> int:
    """FLOPs of solving for every column (or, from the right, row) of the solution."""
    columns = solution.numel() // size if size else 0
    return triangles * formulas.triangular_solve(size, columns) * multiply_add(solution) // 2


@formula("aten::linalg_cholesky_ex", "aten::cholesky")
def _cholesky(a: Arguments, _out: Any) -> int:
    return _of_matrices(a["self"], formulas.cholesky(a["self"].shape[-1]))


@formula("aten::linalg_ldl_factor_ex")
def _ldl(a: Arguments, _out: Any) -> int:
    # As Cholesky without the roots.
    return _of_matrices(a["self"], formulas.cholesky(a["self"].shape[-1]))


@formula("aten::cholesky_inverse")
def _cholesky_inverse(a: Arguments, _out: Any) -> int:
    return _of_matrices(a["self"], formulas.cholesky_inverse(a["self"].shape[-1]))


@formula(
    "aten::linalg_lu",
    "aten::linalg_lu_factor_ex",
    "aten::_linalg_det",
    "aten::_linalg_slogdet",
)
def _lu(a: Arguments, _out: Any) -> int:
    return _of_matrices(a["A"], formulas.lu(*a["A"].shape[-2:]))


@formula("aten::linalg_inv_ex")
def _inverse(a: Arguments, _out: Any) -> int:
    return _of_matrices(a["A"], formulas.inverse(a["A"].shape[-1]))


@formula("aten::linalg_solve_triangular", "aten::triangular_solve")
def _solve_triangular(a: Arguments, out: Any) -> int:
    # The newer one calls the matrix `self`, the older one has it second and returns a pair.
    matrix = a["A"] if "A" in a else a["self"]
    return _solve(out if isinstance(out, Tensor) else out[0], 1, matrix.shape[-1])


@formula(
    "aten::cholesky_solve",
    "aten::_cholesky_solve_helper",
    "aten::linalg_lu_solve",
    "aten::linalg_ldl_solve",
)
def _solve_factored(a: Arguments, out: Any) -> int:
    factor = next(a[name] for name in ("LU", "LD", "A", "input2") if name in a)
    return _solve(out, 2, factor.shape[-1])


@formula("aten::_linalg_solve_ex")
def _solve_square(a: Arguments, out: Any) -> int:
    return _lu(a, out) + _solve(out[0], 2, a["A"].shape[-1])


@formula("aten::linalg_qr")
def _qr(a: Arguments, _out: Any) -> int:
    matrices, mode = a["A"], a.get("mode", "reduced")
    rows, columns = matrices.shape[-2:]
    reflectors = min(rows, columns)
    flops = formulas.qr(rows, columns)
    if mode != "r":
        width = rows if mode == "complete" else reflectors
        flops += formulas.householder_product(rows, width, reflectors)
    return _of_matrices(matrices, flops)


@formula("aten::geqrf")
def _geqrf(a: Arguments, _out: Any) -> int:
    return _of_matrices(a["self"], formulas.qr(*a["self"].shape[-2:]))


@formula("aten::linalg_householder_product")
def _householder_product(a: Arguments, _out: Any) -> int:
    rows, columns = a["input"].shape[-2:]
    reflectors = a["tau"].shape[-1]
    return _of_matrices(a["input"], formulas.householder_product(rows, columns, reflectors))


@formula("aten::_fft_c2c", "prims::fft_c2c")
def _fft(a: Arguments, _out: Any) -> int:
    return _transforms(a["self"], a["dim"])


@formula("aten::_fft_r2c", "prims::fft_r2c")
def _fft_of_real(a: Arguments, _out: Any) -> int:
    # Half of what a complex transform takes.
    return _transforms(a["self"], a["dim"]) // 2


@formula("aten::_fft_c2r", "prims::fft_c2r")
def _fft_to_real(a: Arguments, out: Any) -> int:
    return _transforms(out, a["dim"]) // 2


def _transforms(points: Tensor, dimensions: Sequence[int]) -> int:
    if not dimensions:
        raise NoFormulaError("a transform over no dimension")
    size = prod(points.shape[dimension] for dimension in dimensions)
    return formulas.fft(size, points.numel() // size if size else 0)
