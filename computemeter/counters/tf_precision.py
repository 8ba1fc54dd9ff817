"""Which products of TensorFlow may round their float32 inputs to TF32.

`tf.config.experimental.enable_tensor_float_32_execution` switches it for all of them, XLA's too:
cuBLAS's, cuDNN's and einsums, which are made of cuBLAS's. Factorisations stay in float32.
"""

from __future__ import annotations

import re
from typing import Any

from computemeter.counters.tf_shapes import factor, tensorflow

# Not the quantized ones.
_PRODUCTS = re.compile(r"_?(Batch|Fused|Depthwise|Xla)*(MatMul|Conv|Einsum|Dot)\w*|CudnnRNN\w*")


def may_use_tf32(op: Any) -> bool:
    """Say whether TensorFlow may compute an operation in TF32, if it may use that at all."""
    return (
        _PRODUCTS.fullmatch(op.type) is not None
        and factor(op).dtype.name == "float32"
        and not _is_highest(op)
    )


def _is_highest(op: Any) -> bool:
    # XLA's own operations carry a precision each.
    if "precision_config" not in op.node_def.attr:
        return False
    config = tensorflow(".compiler.xla.xla_data_pb2").PrecisionConfig
    precisions = config.FromString(op.get_attr("precision_config")).operand_precision
    return config.HIGHEST in precisions
