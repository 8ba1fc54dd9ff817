"""Recurrent layers of PyTorch that run as one operator."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from computemeter import formulas
from computemeter.counters.torch_flops import Arguments, formula

_Layer = tuple[str, int, int, int, int]

_CELLS = ("rnn", "rnn", "lstm", "gru")  # by cuDNN's number of the mode: relu, tanh, lstm, gru


@formula("aten::mkldnn_rnn_layer")
def _mkldnn_rnn(a: Arguments, _out: Any) -> int:
    return formulas.recurrent(*_mkldnn_rnn_shape(a))


@formula("aten::mkldnn_rnn_layer_backward")
def _mkldnn_rnn_backward(a: Arguments, _out: Any) -> int:
    return formulas.recurrent_backward(*_mkldnn_rnn_shape(a))


def _mkldnn_rnn_shape(a: Arguments) -> tuple[str, int, int, int]:
    *steps_times_batch, inputs = a["input"].shape
    return _CELLS[a["mode"]], prod(steps_times_batch), inputs, a["hidden_size"]


@formula("aten::_cudnn_rnn", "aten::miopen_rnn")
def _cudnn_rnn(a: Arguments, _out: Any) -> int:
    return sum(formulas.recurrent(*layer) for layer in _cudnn_layers(a))


@formula("aten::_cudnn_rnn_backward", "aten::miopen_rnn_backward")
def _cudnn_rnn_backward(a: Arguments, _out: Any) -> int:
    # The kernel for the data gradients always runs whole; the one for the weights on demand.
    products = 1 + bool(a["output_mask"][3])
    return products * sum(formulas.recurrent(*layer) for layer in _cudnn_layers(a))


def _cudnn_layers(a: Arguments) -> list[_Layer]:
    return _layers(
        _CELLS[a["mode"]],
        a["input"],
        a["hidden_size"],
        count=a["num_layers"],
        directions=2 if a["bidirectional"] else 1,
        projection=a.get("proj_size", 0),
    )


@formula("aten::_lstm_mps", "aten::quantized_lstm")
def _lstm(a: Arguments, _out: Any) -> int:
    return sum(formulas.recurrent(*layer) for layer in _lstm_layers(a, "lstm", a["hx"][0]))


@formula("aten::lstm_mps_backward")
def _lstm_backward(a: Arguments, _out: Any) -> int:
    layers = _lstm_layers(a, "lstm", a["hx"][0])
    return sum(formulas.recurrent_backward(*layer) for layer in layers)


@formula("aten::quantized_gru")
def _gru(a: Arguments, _out: Any) -> int:
    return sum(formulas.recurrent(*layer) for layer in _lstm_layers(a, "gru", a["hx"]))


def _lstm_layers(a: Arguments, cell: str, state: Tensor) -> list[_Layer]:
    return _layers(
        cell,
        a["input"] if "input" in a else a["data"],
        state.shape[-1],
        count=a["num_layers"],
        directions=2 if a["bidirectional"] else 1,
    )


@formula("quantized::quantized_lstm_cell_dynamic")
def _lstm_cell(a: Arguments, _out: Any) -> int:
    return _cell("lstm", a["input"], a["hx"][0])


@formula("quantized::quantized_gru_cell_dynamic")
def _gru_cell(a: Arguments, _out: Any) -> int:
    return _cell("gru", a["input"], a["hx"])


@formula(
    "quantized::quantized_rnn_relu_cell_dynamic",
    "quantized::quantized_rnn_tanh_cell_dynamic",
)
def _rnn_cell(a: Arguments, _out: Any) -> int:
    return _cell("rnn", a["input"], a["hx"])


def _cell(cell: str, inputs: Tensor, state: Tensor) -> int:
    batch, features = inputs.shape
    return formulas.recurrent(cell, batch, features, state.shape[-1])


def _layers(
    cell: str, inputs: Tensor, hidden: int, *, count: int, directions: int, projection: int = 0
) -> list[_Layer]:
    """Describe each layer and direction; a packed input is (all steps of all examples, inputs)."""
    *steps_times_batch, features = inputs.shape
    between = directions * (projection or hidden)
    return [
        (cell, prod(steps_times_batch), between if layer else features, hidden, projection)
        for layer in range(count)
        for _direction in range(directions)
    ]
