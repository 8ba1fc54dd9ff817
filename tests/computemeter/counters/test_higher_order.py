"""Operators that take functions: flexible attention and control flow."""

import pytest
import torch
from torch_inputs import r

from computemeter import Meter

# Flexible attention.


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_eager_flex_attention_runs_and_is_no_silent_zero():
    from torch.nn.attention.flex_attention import flex_attention

    q, results = r(1, 2, 16, 8), []
    plain = flex_attention(q, q, q)
    count = Meter.count(lambda: results.append(flex_attention(q, q, q)))
    assert torch.equal(results[0], plain)
    assert count.model_flops or "flex_attention" in count.uncounted_ops


def test_other_higher_order_operators_run():
    results, x = [], r(3, 3)
    branch = torch.tensor(data=True)
    count = Meter.count(
        lambda: results.append(torch.cond(branch, lambda x: x @ x, lambda x: x + 1, (x,)))
    )
    assert torch.equal(results[0], x @ x)
    assert count.model_flops or count.uncounted_ops


@pytest.fixture
def flex(monkeypatch):
    """flex_attention with its gradients, which it refuses on a CPU although it has them."""
    from torch.nn.attention import flex_attention as module

    monkeypatch.setattr(module, "_validate_device", lambda *tensors: None)
    return module.flex_attention


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_forward_and_backward(flex):
    # 2 * 4*16*12 * (8 + 8); backward twice that, and the scores again
    q, k = r(1, 4, 16, 8, requires_grad=True), r(1, 2, 12, 8)
    flex(q, k, k, enable_gqa=True).sum().backward()
    plain, q.grad = q.grad, None
    count = Meter.count(lambda: flex(q, k, k, enable_gqa=True).sum().backward())
    assert torch.equal(q.grad, plain)
    assert count.by_op == {
        "higher_order::flex_attention": 24_576,
        "higher_order::flex_attention_backward": 49_152,
    }
    assert count.hardware_flops == 3 * 24_576 + 12_288
    assert count.by_dtype == {"float32": 3 * 24_576}
    assert count.uncounted_ops == {}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_counts_dense_whatever_its_mask(flex):
    from torch.nn.attention.flex_attention import create_block_mask

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 16, 16, device="cpu")
    q = r(1, 2, 16, 8)
    count = Meter.count(flex, q, q, q, block_mask=mask)
    assert count.by_op["higher_order::flex_attention"] == 2 * 2 * 256 * 16


def condition(pred):
    return lambda x: torch.cond(pred, lambda x: x @ x, lambda x: x @ x @ x, (x,))


def loop(x):
    from torch._higher_order_ops.while_loop import while_loop

    return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ x), (torch.tensor(0), x))[1]


def scan(x):
    from torch._higher_order_ops.scan import scan

    return scan(lambda carry, each: (carry @ each, carry + each), x, torch.ones(4, 3, 3))[1]


def mapped(x):
    from torch._higher_order_ops.map import map as map_each

    return map_each(lambda each, x: each @ x, torch.ones(4, 3, 3), x)


# One product of 3x3 matrices is 54.
CONTROL_FLOW = {
    "cond, true": (condition(torch.tensor(data=True)), 1),
    "cond, false": (condition(torch.tensor(data=False)), 2),
    "while_loop": (loop, 3),
    "scan": (scan, 4),
    "map": (mapped, 4),
}


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_control_flow_counts_what_ran_and_changes_nothing(name):
    function, products = CONTROL_FLOW[name]
    x, results = r(3, 3) / 3, []
    plain = function(x)
    count = Meter.count(lambda: results.append(function(x)))
    assert torch.equal(results[0], plain)
    assert (count.model_flops, count.uncounted_ops) == (54 * products, {})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, inside scan
@pytest.mark.parametrize(("name", "products"), [("scan", 4 + 4), ("map", 4 + 4 + 4)])
def test_the_gradients_of_control_flow_are_counted(name, products):
    # the other factor is data; map asks for its gradient all the same
    x = r(3, 3, requires_grad=True)
    count = Meter.count(lambda: CONTROL_FLOW[name][0](x).sum().backward())
    assert count.model_flops == 54 * products
    assert x.grad is not None
    assert count.uncounted_ops == {}


def test_the_gradient_of_a_condition():
    # x @ x forward, once more in the backward pass, which has two products of its own
    x = r(3, 3, requires_grad=True)
    step = condition(torch.tensor(data=True))
    assert Meter.count(lambda: step(x).sum().backward()).model_flops == 54 + 54 + 2 * 54


def test_other_higher_order_operators_run_and_are_listed():
    from torch._higher_order_ops.auto_functionalize import auto_functionalized

    @torch.library.custom_op("computemeter_ops::fill", mutates_args={"x"})
    def fill(x: torch.Tensor) -> None:
        x.fill_(2)

    op, results = torch.ops.computemeter_ops.fill.default, []
    count = Meter.count(lambda: results.append(auto_functionalized(op, x=torch.zeros(2))))
    assert torch.equal(results[0][1], torch.full((2,), 2.0))
    assert count.uncounted_ops == {"higher_order::auto_functionalized": 1}
