"""Quantised operators: run, and counted as derived by hand."""

import pytest
import torch
from torch import nn
from torch_inputs import r

from computemeter import Meter

DEPRECATED = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")


def quantized(*shape, dtype=torch.quint8):
    return torch.quantize_per_tensor(r(*shape), 0.1, 0, dtype)


def quantized_convolution(kind, x, weight, *options):
    ops = torch.ops.quantized
    packed = getattr(ops, f"{kind}_prepack")(weight, None, *options)
    return Meter.count(getattr(ops, kind), x, packed, 0.1, 0)


@DEPRECATED
def test_quantized_convolutions():
    weight = quantized(6, 2, 3, 3, dtype=torch.qint8)
    x = quantized(2, 4, 8, 8)
    # 6*6 places, 6*2*9 = 108 weights in 2 groups: 2 * 2*36*108
    count = quantized_convolution("conv2d", x, weight, [1, 1], [0, 0], [1, 1], 2)
    assert count.model_flops == 15_552
    # 8*8 places of the input, 4*6*9 = 216 weights
    weight, ones, zeros = quantized(4, 6, 3, 3, dtype=torch.qint8), [1, 1], [0, 0]
    count = quantized_convolution("conv_transpose2d", x, weight, ones, zeros, zeros, ones, 1)
    assert count.model_flops == 2 * 2 * 64 * 216
    # 6 places, 6*4*3 = 72 weights
    weight = quantized(6, 4, 3, dtype=torch.qint8)
    count = quantized_convolution("conv1d", quantized(2, 4, 8), weight, [1], [0], [1], 1)
    assert count.model_flops == 2 * 2 * 6 * 72


@DEPRECATED
def test_quantized_linear_layers():
    ops = torch.ops.quantized
    packed = ops.linear_prepack(quantized(6, 8, dtype=torch.qint8), None)
    # 2 * 2*8*6
    assert Meter.count(ops.linear, quantized(2, 8), packed, 0.1, 0).model_flops == 192
    assert Meter.count(ops.linear_dynamic, r(2, 8), packed).model_flops == 192
    assert Meter.count(ops.matmul, quantized(2, 8), quantized(8, 6), 0.1, 0).model_flops == 192


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        # 5*3 rows, 4*32 gates: 2*15*128*(16 + 32), then of 2*32 features, in both directions
        (nn.LSTM(16, 32, 2, bidirectional=True), (5, 3, 16), 2 * 184_320 + 2 * 368_640),
        (nn.GRU(16, 32), (5, 3, 16), 138_240),
        (nn.LSTMCell(16, 32), (3, 16), 36_864),
        (nn.GRUCell(16, 32), (3, 16), 27_648),
        (nn.RNNCell(16, 32), (3, 16), 9_216),
    ],
    ids=lambda value: type(value).__name__,
)
def test_quantized_recurrent_layers(layer, shape, flops):
    model = nn.Sequential(layer)
    model = torch.ao.quantization.quantize_dynamic(model, {type(layer)}, dtype=torch.qint8)
    count = Meter.count(model[0], r(*shape))
    assert (count.model_flops, count.uncounted_ops) == (flops, {})
