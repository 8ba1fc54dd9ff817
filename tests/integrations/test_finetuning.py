"""Finetuning, mixed precision, accumulation, optimizers, averaged weights: counts by hand."""

import pytest
import torch
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn
from torch.nn.functional import cross_entropy

from computemeter import Meter
from computemeter.lightning import ComputeMeter

# Forward FLOPs of one example through each layer of `stack`; a weight's gradient is as much work
# again, and so is the gradient of a layer's input.
FIRST, SECOND, THIRD = 2 * INPUTS * HIDDEN, 2 * HIDDEN * HIDDEN, 2 * HIDDEN * CLASSES
ALL_TRAINED = 2 * FIRST + 3 * SECOND + 3 * THIRD


def quiet(**options):
    return Meter(**{"trackers": None, "ledger": None, "verbose": 0, **options})


def callback_of(**options):
    return ComputeMeter(**{"trackers": None, "ledger": None, "verbose": 0, **options})


def stack():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    )


def batches(*sizes):
    torch.manual_seed(1)
    for size in sizes:
        yield torch.randn(size, INPUTS), torch.randint(0, CLASSES, (size,))


def train(model, data, optimizer=None):
    """Train in a plain loop, and return the meter's summary."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.SGD(trained, lr=0.1)
    with quiet() as meter:
        for inputs, labels in data:
            with meter.step((inputs, labels)):
                cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    assert meter.summary().warnings == ()
    assert meter.summary().uncounted_ops == {}
    return meter.summary()


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


# Frozen layers.


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


# LoRA.


def test_lora_on_linear_layers():
    peft = pytest.importorskip("peft")
    rank = 2
    config = peft.LoraConfig(r=rank, target_modules=["0", "2"], lora_dropout=0.1)
    model = peft.get_peft_model(stack(), config)
    summary = train(model, batches(BATCH, BATCH - 1))
    # The frozen first layer: forward only, as the data needs no gradient. Its adapter: forward
    # and weight gradient of A (12 -> 2); all three of B (2 -> 16).
    first = FIRST + 2 * (2 * INPUTS * rank) + 3 * (2 * rank * HIDDEN)
    # The frozen second layer passes the gradient of its input on, and its adapter takes part.
    second = 2 * SECOND + 3 * (2 * HIDDEN * rank) + 3 * (2 * rank * HIDDEN)
    # The frozen head, without an adapter: forward and the gradient of its input.
    assert summary.model_flops == (2 * BATCH - 1) * (first + second + 2 * THIRD)
    assert summary.hardware_flops == summary.model_flops
    assert summary.trainable_parameters == rank * (INPUTS + HIDDEN + HIDDEN + HIDDEN)


def test_lora_with_a_head_trained_in_full():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, target_modules=["2"], modules_to_save=["4"])
    summary = train(peft.get_peft_model(stack(), config), batches(BATCH, BATCH))
    # What comes before the adapter is forward only, and so is the frozen base at its side: its
    # input needs no gradient.
    adapter = 2 * (2 * HIDDEN * 3) + 3 * (2 * 3 * HIDDEN)
    assert summary.model_flops == 2 * BATCH * (FIRST + SECOND + adapter + 3 * THIRD)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_on_a_transformer(attention, checkpointing):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    width, keys, inner, vocabulary, rank = 16, 8, 24, 32, 2  # 4 heads of 4, 2 of them for keys
    examples, length = 3, 6
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model = peft.get_peft_model(
        model, peft.LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    )
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        # So that the embeddings' output needs a gradient: `train` of this library does the same.
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with quiet() as meter:
        for _ in range(2):
            tokens = torch.randint(0, vocabulary, (examples, length))
            with meter.step(tokens):
                model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

    tokens = examples * length
    query = 2 * tokens * width * width
    key = value = 2 * tokens * width * keys
    out = query
    into_rank = 2 * tokens * width * rank  # A of either adapter
    from_rank = 2 * tokens * rank * (width + keys)  # B of the query's and the value's
    mlp = 3 * 2 * tokens * width * inner
    product = 2 * examples * length * length * width  # scores, or their product with the values
    head = 2 * tokens * width * vocabulary
    frozen = query + key + value
    # No frozen weight has a gradient: forward, and the gradient of the input where that is needed.
    rest = 2 * out + 2 * mlp
    second = 2 * frozen + 3 * (2 * into_rank) + 3 * from_rank + 6 * product + rest
    if checkpointing:
        # The embeddings' output needs a gradient, so the first layer is as the second.
        first = second
    else:
        # Its input needs none. The keys have no adapter, so unfused attention leaves their
        # gradient out, 5 products; the fused kernel makes all gradients in one, 6.
        products = 6 if attention == "sdpa" else 5
        first = frozen + 2 * (2 * into_rank) + 3 * from_rank + products * product + rest
    summary = meter.summary()
    assert summary.model_flops == 2 * (first + second + 2 * head)
    # Hardware: the fused backward repeats the scores once a layer. Checkpointing repeats the
    # forward of a layer up to what the backward needs: all but the last product of the MLP.
    layer = frozen + 2 * into_rank + from_rank + 2 * product + out + mlp * 2 // 3
    again = (attention == "sdpa") * 2 * product + checkpointing * 2 * layer
    assert summary.hardware_flops - summary.model_flops == 2 * again
    assert summary.uncounted_ops == {}
    assert summary.warnings == ()


# Mixed precision.


def test_bf16_autocast_in_a_plain_loop():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH - 3):
            with meter.step(inputs):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = cross_entropy(model(inputs), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
    summary = meter.summary()
    assert summary.model_flops == (3 * BATCH - 3) * ALL_TRAINED
    assert summary.by_dtype == {"bfloat16": summary.model_flops}
    assert summary.precision == "bf16"


def test_autocast_that_comes_on_halfway_parts_the_dtypes():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for step, (inputs, labels) in enumerate(batches(*[BATCH] * 10)):
            with torch.autocast("cpu", torch.bfloat16, enabled=step >= 7), meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    each = BATCH * ALL_TRAINED
    assert meter.summary().by_dtype == {"float32": 7 * each, "bfloat16": 3 * each}


def test_bf16_mixed_in_a_trainer(small):
    callback = callback_of()
    small.trainer(callback, precision="bf16-mixed").fit(small.Module(), small.data(3 * BATCH + 1))
    summary = callback.summary()
    assert summary.model_flops == (3 * BATCH + 1) * FLOPS_PER_EXAMPLE
    assert summary.by_dtype == {"bfloat16": summary.model_flops}
    assert summary.precision == "bf16"


# Gradient accumulation.


def test_accumulation_in_a_plain_loop_with_partial_batch_and_window():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sizes = [BATCH] * 7 + [BATCH - 5]
    with quiet() as meter:
        for step, (inputs, labels) in enumerate(batches(*sizes)):
            with meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                if step % 3 == 2 or step == len(sizes) - 1:
                    optimizer.step()
                    optimizer.zero_grad()
    assert meter.summary().steps == 8
    assert meter.summary().model_flops == (8 * BATCH - 5) * ALL_TRAINED
    assert meter.summary().estimated_steps == 0


def test_a_window_of_micro_batches_as_one_step():
    model = stack()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for window in (3, 3, 2):
            micro = list(batches(*[BATCH] * window))
            with meter.step(micro):
                for inputs, labels in micro:
                    cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    assert meter.summary().steps == 3
    assert meter.summary().model_flops == 8 * BATCH * ALL_TRAINED


def test_accumulation_scheduled_by_the_trainer(small):
    callback = callback_of()
    scheduler = small.pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 2, 3: 4})
    trainer = small.trainer(callback, scheduler, max_epochs=4)
    trainer.fit(small.Module(), small.data(4 * BATCH + 3))
    assert trainer.global_step == 5 + 3 + 3 + 2
    assert callback.summary().steps == 4 * 5
    assert callback.summary().model_flops == 4 * (4 * BATCH + 3) * FLOPS_PER_EXAMPLE


# Optimizers.


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        "Adam",
        "AdamW",
        "RMSprop",
        "Adagrad",
        "NAdam",
        "Rprop",
        "Adafactor",  # an outer product for every weight
        "Muon",  # 5 Newton-Schulz iterations for every weight
    ],
)
def test_what_the_optimizer_computes_is_no_model_work(name):
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, CLASSES, bias=False)
    )
    summary = train(
        model, batches(BATCH, BATCH), getattr(torch.optim, name)(model.parameters(), lr=0.01)
    )
    assert summary.model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize("op", ["aten::mm", "aten::dot"])
def test_a_closure_counts_as_often_as_it_is_called(op):
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, CLASSES, bias=False)
    )
    optimizer = torch.optim.LBFGS(
        model.parameters(), lr=0.01, max_iter=4, tolerance_grad=0, tolerance_change=0
    )
    calls = 0
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH):
            with meter.step(inputs):

                def closure():
                    nonlocal calls
                    calls += 1
                    optimizer.zero_grad()
                    loss = cross_entropy(model(inputs), labels)  # noqa: B023 - called at once
                    loss.backward()
                    return loss

                optimizer.step(closure)
    assert calls == 3 * 4
    expected = {"aten::mm": calls * BATCH * FLOPS_PER_EXAMPLE, "aten::dot": 0}
    assert meter.summary().by_op.get(op, 0) == expected[op]


def test_several_optimizers_of_one_model():
    model = stack()
    optimizers = [
        torch.optim.SGD(model[:3].parameters(), lr=0.1),
        torch.optim.AdamW(model[3:].parameters()),
    ]
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH - 1):
            with meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
    assert meter.summary().model_flops == (3 * BATCH - 1) * ALL_TRAINED


@pytest.mark.parametrize("all_counted", [True, False])
def test_optimizers_that_take_turns(small, monkeypatch, all_counted):
    """Whose turn it is, is decided inside the step: no key can show it before the step runs."""
    if all_counted:
        monkeypatch.setattr("computemeter.book.StepBook.wants_count", lambda _self, _key: True)

    class Alternates(small.Module):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            # `toggle_optimizer` freezes what the other optimizer trains.
            optimizer = self.optimizers()[batch_idx % 3 == 2]
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.loss(batch))
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            return [
                torch.optim.SGD(self.net[0].parameters(), lr=0.1),
                torch.optim.SGD(self.net[3].parameters(), lr=0.1),
            ]

    first, second = 2 * INPUTS * HIDDEN, 2 * HIDDEN * CLASSES
    # The first alone: forward, its weight gradient, and the input gradient of the second.
    turns = 2 * first + 2 * second, first + 2 * second
    callback = callback_of()
    small.trainer(callback).fit(Alternates(), small.data(30 * BATCH))
    summary, exact = callback.summary(), BATCH * (20 * turns[0] + 10 * turns[1])
    assert summary.steps == 30
    # Which optimizer stepped is seen afterwards, and parts the steps of the one key.
    assert summary.model_flops == exact
    assert summary.estimated_steps == 0


# Averaged weights.


def normalised(small):
    """Make the small module with a BatchNorm, which both kinds of averaging look after."""

    class Normalised(small.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(INPUTS, HIDDEN),
                nn.BatchNorm1d(HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, CLASSES),
            )

    return Normalised()


def test_stochastic_weight_averaging(small):
    callback = callback_of()
    averaging = small.pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    small.trainer(callback, averaging, max_epochs=4).fit(small.Module(), small.data(3 * BATCH))
    assert callback.summary().steps == 4 * 3
    assert callback.summary().model_flops == 4 * 3 * BATCH * FLOPS_PER_EXAMPLE


def passes_after_the_last_epoch(small, callback):
    """Train 4 epochs of 3 batches with a BatchNorm; return how often a batch was passed on."""
    passes = []

    class Notes(small.pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            passes.append(trainer.current_epoch)

    averaging = small.pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    trainer = small.trainer(callback, averaging, Notes(), max_epochs=4)
    trainer.fit(normalised(small), small.data(3 * BATCH))
    # The pass over the data at the end is one accumulation, at whose end the optimizer steps.
    assert trainer.global_step == 4 * 3 + 1
    return passes.count(4)


def test_swa_passes_over_the_data_for_batchnorm_are_no_training_steps(small):
    """Lightning runs one epoch more, forward only, to collect the averaged net's statistics."""
    callback = callback_of()
    assert passes_after_the_last_epoch(small, callback) == 3
    assert callback.summary().steps == 4 * 3
    assert callback.summary().model_flops == 4 * 3 * BATCH * FLOPS_PER_EXAMPLE


@pytest.mark.parametrize("every", [1, 2])
def test_ema_weight_averaging_with_validation_on_the_average(small, every):
    callback = callback_of()
    averaging = small.pl.callbacks.EMAWeightAveraging(decay=0.9, update_every_n_steps=every)
    trainer = small.trainer(callback, averaging, max_epochs=2)
    trainer.fit(normalised(small), small.data(3 * BATCH), small.data(2 * BATCH))
    # The averages are element by element; validation on them is no training.
    assert callback.summary().steps == 2 * 3
    assert callback.summary().model_flops == 2 * 3 * BATCH * FLOPS_PER_EXAMPLE
    assert callback.summary().uncounted_ops == {}


def test_averaging_in_a_plain_loop_and_the_batchnorm_update_after_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with quiet() as meter:
        for inputs, labels in batches(BATCH, BATCH, BATCH):
            with meter.step(inputs):
                cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                average.update_parameters(model)
        torch.optim.swa_utils.update_bn(batches(BATCH, BATCH), average)
    assert meter.summary().steps == 3
    assert meter.summary().model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE
    assert meter.summary().uncounted_ops == {}


# Finetuning callbacks: the count changes at exactly the step at which layers are unfrozen.


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
