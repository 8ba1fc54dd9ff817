"""Counting what others wrote, and everything that must not break."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch_inputs import r

from computemeter import Meter

CLASSES = 10


@pytest.fixture(scope="module")
def twice():
    """Define an operator that PyTorch knows nothing about."""

    @torch.library.custom_op("computemeter_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x @ x + x

    return twice


def test_a_custom_operator_runs_and_is_listed(twice):
    x, results = r(3, 3), []
    count = Meter.count(lambda: results.extend([twice(x), twice(x)]))
    assert torch.equal(results[0], x @ x + x)
    # What it does inside is its own: twice called, nothing known of its FLOPs.
    assert count.uncounted_ops == {"computemeter_tests::twice": 2}
    assert count.model_flops == 0


def elsewhere(function, *args):
    """Run it in another thread, as `DataParallel` runs its copies."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


@pytest.mark.parametrize("unseen", [False, True])
def test_a_step_that_shows_products_in_its_backward_pass_alone_is_counted_and_said(unseen):
    """Its forward pass may be an operator without a formula, or have run where it is not seen."""
    layer, weight = nn.Linear(4, 4, bias=False), torch.randn(6, 4, requires_grad=True)
    with Meter(verbose=0, ledger=None) as meter, meter.step():
        out = elsewhere(layer, weight) if unseen else weight
        torch.linalg.svdvals(out).sum().backward()
    summary = meter.summary()
    assert summary.uncounted_ops == {"aten::_linalg_svd": 1}
    # The gradient of its values is U diag(g) V: 6x4 by 4x4. That of the layer, of both sides: twice
    # the same.
    assert summary.model_flops == 2 * 6 * 4 * 4 * (3 if unseen else 1)
    (said,) = summary.warnings
    assert "work in other threads (DataParallel), if there was any, is not counted either" in said


def test_a_step_of_which_nothing_but_the_backward_pass_is_seen_is_unknown():
    layer, x = nn.Linear(4, 4), torch.randn(6, 4)
    with Meter(verbose=0, ledger=None) as meter, meter.step():
        elsewhere(layer, x).sum().backward()
    summary = meter.summary()
    assert summary.model_flops is None
    assert any("a backward pass and no forward pass" in each for each in summary.warnings)


def test_products_in_both_passes_beside_an_operator_without_a_formula_are_no_news():
    layer, x = nn.Linear(4, 4), torch.randn(6, 4)
    with Meter(verbose=0, ledger=None) as meter, meter.step():
        torch.linalg.svdvals(layer(x)).sum().backward()
    assert meter.summary().uncounted_ops == {"aten::_linalg_svd": 1}
    assert meter.summary().warnings == ()


def test_a_custom_autograd_function_is_counted_by_its_parts():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x @ x

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient @ x.T + x.T @ gradient

    # 3x3 by 3x3 is 2 * 27: once forward, twice backward
    x = r(3, 3, requires_grad=True)
    assert Meter.count(lambda: Square.apply(x).sum().backward()).model_flops == 3 * 54


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_operator_that_its_formula_cannot_read_costs_only_its_own_flops():
    # On the CPU, attention over ragged sequences multiplies nested tensors, which have no shape.
    layer = nn.Linear(8, 8)

    def step():
        ragged = torch.nested.nested_tensor([r(2, 8), r(4, 8)], layout=torch.jagged)
        q = ragged.unflatten(-1, (2, 4)).transpose(1, 2)
        F.scaled_dot_product_attention(q, q, q)
        layer(r(4, 8))

    count = Meter.count(step)
    assert count.model_flops >= 2 * 4 * 8 * 8
    assert any("matmul" in name for name in count.uncounted_ops)


def test_shapes_computed_ahead_of_time_are_no_work():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def fake():
        with FakeTensorMode():
            torch.mm(torch.empty(3, 4), torch.empty(4, 5))

    assert Meter.count(fake).model_flops == 0


def test_nothing_else_is_counted():
    assert Meter.count(lambda: None).by_op == {}
    # Another thread has modes of its own: its work is not seen, and it is not disturbed.
    results = []
    worker = threading.Thread(target=lambda: results.append(torch.ones(3, 3) @ torch.ones(3, 3)))

    def run():
        worker.start()
        worker.join()

    assert Meter.count(run).model_flops == 0
    assert torch.equal(results[0], torch.full((3, 3), 3.0))


def test_an_exception_passes_through_and_leaves_no_mode_behind():
    error = KeyError("mine")

    def fails():
        torch.mm(r(3, 4), r(4, 5))
        raise error

    with pytest.raises(KeyError) as raised:
        Meter.count(fails)
    assert raised.value is error
    assert _get_current_dispatch_mode() is None
    # and the next count starts from nothing
    assert Meter.count(torch.mm, r(3, 4), r(4, 5)).model_flops == 120


def test_an_operator_that_fails_is_the_users_error():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Meter.count(torch.mm, r(3, 4), r(5, 6))
    assert _get_current_dispatch_mode() is None


def test_counts_nest():
    # 2 * 3*4*5 = 120 each; the outer one sees both
    inner = []

    def outer():
        torch.mm(r(3, 4), r(4, 5))
        inner.append(Meter.count(torch.mm, r(3, 4), r(4, 5)))

    assert Meter.count(outer).model_flops == 240
    assert inner[0].model_flops == 120


def test_another_mode_around_the_count_is_left_alone():
    class Sees(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Sees.calls += 1
            return func(*args, **(kwargs or {}))

    a, b = r(3, 4), r(4, 5)
    with Sees() as mode:
        assert Meter.count(torch.mm, a, b).model_flops == 120
        assert _get_current_dispatch_mode() is mode
    assert Sees.calls == 1


def test_a_function_that_leaves_its_own_mode_open_does_not_keep_ours():
    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    other = Other()
    with pytest.raises(RuntimeError, match="counting failed"):
        Meter.count(other.__enter__)
    assert _get_current_dispatch_mode() is other
    other.__exit__(None, None, None)
    if (ours := _get_current_dispatch_mode()) is not None:
        ours.__exit__(None, None, None)
    assert ours is None


def test_counting_changes_no_bit_and_no_random_state():
    def step(model, x, labels):
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters()], torch.get_rng_state()

    def run(counted):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
        x, labels, results = r(8, 12), torch.randint(0, CLASSES, (8,)), []
        if counted:
            Meter.count(lambda: results.append(step(model, x, labels)))
        else:
            results.append(step(model, x, labels))
        return results[0]

    (loss, gradients, state), (same_loss, same_gradients, same_state) = run(False), run(True)
    assert loss == same_loss
    assert torch.equal(state, same_state)
    pairs = zip(gradients, same_gradients, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_a_product_reads_and_writes():
    # Of 4 bytes each: 6 and 12 elements read, 8 written.
    count = Meter.count(torch.mm, torch.ones(2, 3), torch.ones(3, 4))
    assert (count.contractions, count.contraction_bytes) == (1, 4 * (6 + 12 + 8))
