"""Model and hardware FLOPs apart: checkpointing, gradient penalties, both, and custom Functions."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from computemeter import Meter

ROWS, WIDTH, INNER = 4, 8, 32
LAYER = 2 * ROWS * WIDTH * INNER  # either layer, one product


def net():
    # tanh keeps its output for its gradient: a checkpoint that stops early still needs both layers.
    return nn.Sequential(nn.Linear(WIDTH, INNER), nn.Tanh(), nn.Linear(INNER, WIDTH), nn.Tanh())


def counted(step):
    count = Meter.count(step)
    return count.model_flops, count.hardware_flops - count.model_flops


# Forward of both, weight gradients of both, input gradient of the second.
TRAINED = 5 * LAYER


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_runs_both_layers_again(reentrant):
    model, x = net(), torch.randn(ROWS, WIDTH)
    # Reentrant needs an input with a gradient, and then the first layer computes it.
    x.requires_grad_(reentrant)

    def step():
        checkpoint(model, x, use_reentrant=reentrant).sum().backward()

    assert counted(step) == (TRAINED + reentrant * LAYER, 2 * LAYER)


def test_a_selective_checkpoint_runs_only_what_it_did_not_save():
    model, x = net(), torch.randn(ROWS, WIDTH)

    def policy(_context, operator, *args, **_kwargs):
        wide = operator is torch.ops.aten.addmm.default and args[2].shape[1] == INNER
        return CheckpointPolicy.MUST_SAVE if wide else CheckpointPolicy.PREFER_RECOMPUTE

    def contexts():
        return create_selective_checkpoint_contexts(policy)

    def step():
        checkpoint(model, x, use_reentrant=False, context_fn=contexts).sum().backward()

    # The first layer's product was saved; the second's is run again.
    assert counted(step) == (TRAINED, LAYER)


def penalty(forward, x):
    """Differentiate the gradient's norm; return the step."""

    def step():
        y = forward(x)
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        gradient.square().sum().backward()

    return step


def test_a_gradient_penalty_is_model_work():
    layer = nn.Linear(WIDTH, INNER, bias=False)
    x = torch.randn(ROWS, WIDTH, requires_grad=True)
    # Forward; the input gradient g = 1 @ W; of g the gradient to W. Nothing else depends on W or
    # asks for a gradient: y's own gradient is a constant.
    model, again = counted(penalty(layer, x))
    assert again == 0
    assert model == 3 * LAYER


def test_a_penalty_through_a_checkpoint_is_both():
    model, x = net(), torch.randn(ROWS, WIDTH, requires_grad=True)
    plain, nothing = counted(penalty(model, x))
    assert nothing == 0
    with_checkpoint = penalty(lambda x: checkpoint(model, x, use_reentrant=False), x)
    flops, again = counted(with_checkpoint)
    assert flops == plain
    # Both backward passes unpack what the checkpoint dropped, and each runs both layers again.
    assert again == 2 * 2 * LAYER


def test_a_custom_function_that_runs_its_forward_again():
    class Remembers(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return torch.tanh(x @ weight)

        @staticmethod
        def backward(ctx, gradient):
            x, weight = ctx.saved_tensors
            with torch.enable_grad():
                again = torch.tanh(x.detach() @ weight.detach().requires_grad_())
            # tanh' = 1 - tanh**2; the gradient of the weight is one product more.
            local = gradient * (1 - again.detach() ** 2)
            return None, x.T @ local

    weight = nn.Parameter(torch.randn(WIDTH, INNER))
    x = torch.randn(ROWS, WIDTH)
    assert counted(lambda: Remembers.apply(x, weight).sum().backward()) == (2 * LAYER, LAYER)


@pytest.mark.parametrize("times", range(5))
def test_memory_that_is_used_again_is_no_recomputation(times):
    """Freed activations give their address to gradients of the same shape."""
    torch.manual_seed(times)
    junk = [torch.randn(ROWS, WIDTH, WIDTH) for _ in range(times)]
    x = torch.randn(ROWS, WIDTH, WIDTH, requires_grad=True)

    def step():
        y = x
        for _ in range(3):
            y = torch.tanh(torch.bmm(y, y.transpose(1, 2)))
        y.sum().backward()

    product = 2 * ROWS * WIDTH**3
    # Three products, and for each the gradients of both its factors.
    assert counted(step) == (9 * product, 0)
    assert len(junk) == times
