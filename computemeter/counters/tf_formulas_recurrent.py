"""Recurrent layers of TensorFlow that run as one operation."""

from __future__ import annotations

from math import prod
from typing import Any

from computemeter import formulas
from computemeter.counters.tf_shapes import formula, sizes

_CELLS = {b"lstm": "lstm", b"gru": "gru", b"rnn_relu": "rnn", b"rnn_tanh": "rnn"}

_Layer = tuple[str, int, int, int, int]


@formula("CudnnRNN", "CudnnRNNV2", "CudnnRNNV3")
def _cudnn(op: Any) -> int:
    return sum(formulas.recurrent(*layer) for layer in _cudnn_layers(op))


@formula("CudnnRNNBackprop", "CudnnRNNBackpropV2", "CudnnRNNBackpropV3")
def _cudnn_backward(op: Any) -> int:
    return sum(formulas.recurrent_backward(*layer) for layer in _cudnn_layers(op))


def _cudnn_layers(op: Any) -> list[_Layer]:
    """Describe each layer and direction; the states are (layers * directions, batch, size)."""
    *steps_times_batch, inputs = sizes(op.inputs[0])
    states, _batch, output = sizes(op.inputs[1])
    cell, projected = _CELLS[op.get_attr("rnn_mode")], _projection(op)
    hidden = sizes(op.inputs[2])[-1] if projected else output
    directions = 2 if op.get_attr("direction") == b"bidirectional" else 1
    between = directions * output
    first = 0 if _skips_input(op, inputs, hidden) else inputs
    return [
        (
            cell,
            prod(steps_times_batch),
            between if state >= directions else first,
            hidden,
            projected,
        )
        for state in range(states)
    ]


def _projection(op: Any) -> int:
    projection: int = op.get_attr("num_proj") if "num_proj" in op.node_def.attr else 0
    return projection


def _skips_input(op: Any, inputs: int, hidden: int) -> bool:
    """Say whether the first layer adds its input as it is, without a matrix."""
    mode = op.get_attr("input_mode")
    return mode == b"skip_input" or (mode == b"auto_select" and inputs == hidden)


@formula("BlockLSTM", "BlockLSTMV2")
def _block_lstm(op: Any) -> int:
    return formulas.recurrent("lstm", *_block_shape(op))


@formula("BlockLSTMGrad", "BlockLSTMGradV2")
def _block_lstm_backward(op: Any) -> int:
    return formulas.recurrent_backward("lstm", *_block_shape(op))


def _block_shape(op: Any) -> tuple[int, int, int]:
    # The longest sequence comes first, then (steps, batch, inputs) and the cells' first state.
    steps, batch, inputs = sizes(op.inputs[1])
    return steps * batch, inputs, sizes(op.inputs[2])[-1]


@formula("LSTMBlockCell")
def _lstm_cell(op: Any) -> int:
    return formulas.recurrent("lstm", *_cell_shape(op))


@formula("GRUBlockCell", "GRUBlockCellGrad")
def _gru_cell(op: Any) -> int:
    # The gradient's kernel multiplies for the input and the state; the weights' gradients are
    # products of their own. (That of an LSTM's cell is pointwise altogether.)
    return formulas.recurrent("gru", *_cell_shape(op))


def _cell_shape(op: Any) -> tuple[int, int, int]:
    batch, inputs = sizes(op.inputs[0])
    return batch, inputs, sizes(op.inputs[1])[-1]
