"""Layers frozen for good or for a while: the count changes at exactly the step that it should."""

import pytest
import torch
from lightning_fits import meter as callback_of
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from stacks import ALL_TRAINED, FIRST, SECOND, THIRD, batches, stack, train
from torch import nn
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize(
    ("trained", "per_example"),
    [
        (["0", "2", "4"], ALL_TRAINED),
        # Nothing before the head needs a gradient: forward only.
        (["4"], FIRST + SECOND + 2 * THIRD),
        # The head is frozen: no gradient of its weight, but one of its input.
        (["2"], FIRST + 2 * SECOND + 2 * THIRD),
        (["0"], 2 * FIRST + 2 * SECOND + 2 * THIRD),
        # Frozen in the middle, which passes the gradient on.
        (["0", "4"], 2 * FIRST + 2 * SECOND + 3 * THIRD),
        # Only a bias: its gradient is a sum, no contraction.
        (["0.bias"], FIRST + 2 * SECOND + 2 * THIRD),
        (["0.bias", "2.bias", "4.bias"], FIRST + 2 * SECOND + 2 * THIRD),
    ],
)
def test_frozen_layers(trained, per_example):
    model = stack()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(part) for part in trained))
    summary = train(model, batches(BATCH, BATCH, BATCH - 3))
    assert summary.model_flops == (3 * BATCH - 3) * per_example
    assert summary.hardware_flops == summary.model_flops
    assert summary.parameters == 12 * 16 + 16 + 16 * 16 + 16 + 16 * 4 + 4
    assert summary.trainable_parameters == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )


def test_a_backbone_under_no_grad_is_forward_only():
    model = stack()
    backbone, head = model[:4], model[4:]

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = head

        def forward(self, inputs):
            with torch.no_grad():
                features = backbone(inputs)
            return self.head(features)

    summary = train(Probe(), batches(BATCH, BATCH))
    assert summary.model_flops == 2 * BATCH * (FIRST + SECOND + 2 * THIRD)


def test_layers_frozen_and_unfrozen_between_steps_of_a_plain_loop():
    model = stack()

    def data():
        for step, batch in enumerate(batches(*[BATCH] * 12)):
            model[:4].requires_grad_(step % 5 >= 3)
            yield batch

    summary = train(model, data(), torch.optim.SGD(model.parameters(), lr=0.1))
    # Steps 3, 4, 8 and 9 of 12 train everything.
    head_only = FIRST + SECOND + 2 * THIRD
    assert summary.model_flops == BATCH * (8 * head_only + 4 * ALL_TRAINED)
    assert summary.estimated_steps == 0


class Watch:
    """A callback that notes what each batch added to the meter's total."""

    def __new__(cls, small, callback):
        class Watching(small.pl.Callback):
            def __init__(self):
                self.added, self._before = [], 0

            def on_train_batch_end(self, *args):
                now = callback.summary().model_flops
                self.added.append(now - self._before)
                self._before = now

        return Watching()


def test_backbone_finetuning(small):
    class Finetuned(small.Module):
        def __init__(self):
            super().__init__()
            model = stack()
            self.backbone, self.head = model[:4], model[4:]

        def loss(self, batch):
            return cross_entropy(self.head(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    callback = callback_of()
    watch = Watch(small, callback)
    finetuning = small.pl.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=2)
    trainer = small.trainer(callback, watch, finetuning, max_epochs=4)
    trainer.fit(Finetuned(), small.data(2 * BATCH + 3))
    sizes = [BATCH, BATCH, 3]
    frozen = [size * (FIRST + SECOND + 2 * THIRD) for size in sizes]
    unfrozen = [size * ALL_TRAINED for size in sizes]
    assert watch.added == 2 * frozen + 2 * unfrozen
    assert callback.summary().estimated_steps == 0


def test_layers_unfrozen_one_after_another(small):
    class Finetuned(small.Module):
        def __init__(self):
            super().__init__()
            self.net = stack()

        def configure_optimizers(self):
            return torch.optim.SGD(self.net[4].parameters(), lr=0.1)

    class Gradually(small.pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[:4])

        def finetune_function(self, pl_module, epoch, optimizer):
            layer = {1: pl_module.net[2], 3: pl_module.net[0]}.get(epoch)
            if layer is not None:
                self.unfreeze_and_add_param_group(layer, optimizer)

    callback = callback_of()
    watch = Watch(small, callback)
    small.trainer(callback, watch, Gradually(), max_epochs=4).fit(
        Finetuned(), small.data(2 * BATCH)
    )
    head = BATCH * (FIRST + SECOND + 2 * THIRD)
    middle = BATCH * (FIRST + 2 * SECOND + 3 * THIRD)
    whole = BATCH * ALL_TRAINED
    assert watch.added == [head] * 2 + [middle] * 4 + [whole] * 2
    assert callback.summary().trainable_parameters == callback.summary().parameters


@pytest.mark.parametrize("at", [1, 3, 4])
def test_layers_unfrozen_within_an_epoch(small, at):
    class Unfreezes(small.pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.net[0].requires_grad_(batch_idx >= at)

    callback = callback_of()
    watch = Watch(small, callback)
    small.trainer(callback, watch, Unfreezes()).fit(small.Module(), small.data(6 * BATCH))
    # Frozen: both layers forward, and the weight gradient of the second.
    frozen = 2 * (INPUTS * HIDDEN + HIDDEN * CLASSES) + 2 * HIDDEN * CLASSES
    whole = FLOPS_PER_EXAMPLE
    assert watch.added == [BATCH * flops for flops in at * [frozen] + (6 - at) * [whole]]
