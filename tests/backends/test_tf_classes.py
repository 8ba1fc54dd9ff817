"""Every operation of TensorFlow is counted, free or on the list; what goes wrong is on the list."""

import pytest
import tensorflow as tf
from tf_graphs import SQUARE, conv2d, count, f, raw, xla_conv

from computemeter.counters import tf_formulas
from computemeter.counters.tf_ops import classify

LISTED = {
    "Svd": (tf.linalg.svd, f(3, 3)),
    "MatMul": (tf.matmul, tf.TensorSpec((None, 3)), f(3, 5)),
    "Conv2D": (conv2d(), tf.TensorSpec(None), f(3, 3, 2, 5)),
    "EagerPyFunc": (lambda x: tf.py_function(lambda y: y @ y, [x], tf.float32), f(3, 3)),
    "PyFunc": (lambda x: tf.numpy_function(lambda y: y @ y, [x], tf.float32), f(3, 3)),
    "SparseTensorDenseMatMul": (
        lambda x: tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(x), x), f(3, 3),
    ),
    "RFFT": (lambda x, n: raw.RFFT(input=x, fft_length=n), f(8), f(1, dtype="int32")),
    "XlaConvV2": (xla_conv(lhs_dilation=(2, 2)), f(2, 8, 8, 4), f(3, 3, 4, 6)),
    "MapDataset": (
        lambda x: tf.data.Dataset.from_tensors(x).map(lambda y: y @ y)._variant_tensor, f(3, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_operations_without_a_number_are_listed(name):
    function, *specs = LISTED[name]
    counted = count(lambda *xs: (function(*xs), tf.ones((2, 2)) @ tf.ones((2, 2))), *specs)
    assert counted.uncounted_ops == {f"tf::{name}": 1}
    assert counted.model_flops == 16  # the rest is not lost


def test_a_formula_that_fails_costs_only_its_operation(monkeypatch):
    def fail(_op):
        raise ZeroDivisionError

    monkeypatch.setitem(tf_formulas.FORMULAS, "Cholesky", fail)
    counted = count(lambda x: tf.linalg.cholesky(x @ x), SQUARE)
    assert (counted.model_flops, counted.uncounted_ops) == (54, {"tf::Cholesky": 1})


def test_control_flow_without_functions_is_listed():
    def function(x, yes):
        no, does = raw.Switch(data=x, pred=yes)
        return raw.Merge(inputs=[no @ no, does])[0]

    counted = count(function, SQUARE, f(dtype="bool"))
    assert counted.uncounted_ops == {"tf::Switch": 1, "tf::Merge": 1}


# Besides the products with sparse tables that only a TPU has: XlaSparseDenseMatmul...
WITHOUT_FORMULA = set(
    """
    AudioSpectrogram BandedTriangularSolve BatchCholeskyGrad BatchFunction BatchMatrixSolveLs
    BatchSelfAdjointEig BatchSelfAdjointEigV2 BatchSvd CholeskyGrad EagerPyFunc Eig For
    KMC2ChainInitialization KmeansPlusPlusInitialization MapDefun MatrixExponential
    MatrixLogarithm MatrixSolveLs MatrixSquareRoot Merge Mfcc NearestNeighbors PyFunc
    PyFuncStateless RefMerge RefSwitch SdcaOptimizer SdcaOptimizerV2 SelfAdjointEig
    SelfAdjointEigV2 SparseMatMul SparseMatrixMatMul SparseMatrixSparseCholesky
    SparseMatrixSparseMatMul SparseTensorDenseMatMul Svd Switch SymbolicGradient
    TridiagonalMatMul TridiagonalSolve UniformQuantizedConvolution
    UniformQuantizedConvolutionHybrid
    """.split()  # noqa: SIM905 - reads as the list it is
)


def registered():
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as session

    return op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList())).op


def test_every_operation_of_tensorflow_is_known():
    kinds = {op.name: classify(op.name) for op in registered()}
    own = {name for name in kinds if hasattr(raw, name)}
    listed = {name for name in own if kinds[name] == "uncounted"}
    listed -= {name for name in listed if name.startswith("XlaSparseDenseMatmul")}
    assert len(own) > 1_400
    assert listed == WITHOUT_FORMULA


@pytest.mark.parametrize(
    "name", ["TensorListFlash", "FusedAttentionDataset", "Mystery", "MatMulV9"]
)
def test_operations_of_others_are_listed(name):
    assert classify(name) == "uncounted"


def test_versions_of_a_zero_are_zero():
    assert classify("SoftmaxV7") == classify("ReluGrad") == "zero"
