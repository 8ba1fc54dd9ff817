"""The meter in Hugging Face's Trainer, in Accelerate and in Lightning Fabric."""

import functools
import importlib
import random
import runpy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import DataLoader, TensorDataset

from computemeter import Meter

EXAMPLES = Path(__file__).parents[2] / "examples"


def quiet(**options):
    return Meter(**{"trackers": None, "ledger": None, "verbose": 0, **options})


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES)
    )


def dataset(examples):
    torch.manual_seed(1)
    return TensorDataset(torch.randn(examples, INPUTS), torch.randint(0, CLASSES, (examples,)))


def step_of(meter, batch):
    return meter.step(batch) if meter else nullcontext()


def state(model):
    """Return what must be the same with and without the meter."""
    return model.state_dict(), torch.get_rng_state(), random.getstate()


def assert_identical(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert torch.equal(one[1], other[1])
    assert one[2] == other[2]


def assert_complete(summary):
    assert summary.hardware_flops == summary.model_flops
    assert summary.estimated_steps == 0
    assert summary.uncounted_ops == {}
    assert summary.warnings == ()
    assert _get_current_dispatch_mode() is None


@pytest.fixture
def accelerate(monkeypatch):
    """Accelerate, whose state of the process is forgotten before and after."""
    accelerate = pytest.importorskip("accelerate")
    # Not what a shell or `accelerate launch` has set.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield accelerate
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


# The examples state their own counts, by hand, and assert them.


@pytest.mark.usefixtures("accelerate")
@pytest.mark.parametrize("name", ["fabric_loop", "accelerate_loop", "hf_trainer"])
def test_examples(name, tmp_path, monkeypatch, capsys):
    if name == "hf_trainer":
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(70, epochs=2)
    assert "operations (method 1)" in capsys.readouterr().out


# Hugging Face's Trainer.


class Classifier(nn.Module):
    """What that Trainer trains: takes its columns by name, and returns the loss."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, inputs, labels):
        logits = self.net(inputs)
        return {"loss": cross_entropy(logits.float(), labels), "logits": logits}


@pytest.fixture
def hugging_face(accelerate, tmp_path):
    """Make a quiet Trainer, metered in one of two ways."""
    transformers = pytest.importorskip("transformers")

    def wrapped(trainer, meter):
        """Wrap the methods of a Trainer that somebody else made."""
        training_step, evaluate = trainer.training_step, trainer.evaluate

        @functools.wraps(training_step)
        def metered(model, inputs, *args, **kwargs):
            with meter.step(inputs):
                return training_step(model, inputs, *args, **kwargs)

        @functools.wraps(evaluate)
        def left_out(*args, **kwargs):
            with meter.validation():
                return evaluate(*args, **kwargs)

        trainer.training_step, trainer.evaluate = metered, left_out
        return trainer

    def trainer(model, examples, meter=None, *, data=None, evaluated=0, **options):
        rows = [{"inputs": inputs, "labels": label} for inputs, label in dataset(examples)]
        quiet = {
            "disable_tqdm": True,
            "num_train_epochs": 2,
            "per_device_train_batch_size": BATCH,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
        }
        made = transformers.Trainer(
            model,
            transformers.TrainingArguments(str(tmp_path), **{**quiet, **options}),
            train_dataset=data or rows,
            eval_dataset=rows[:evaluated] or None,
        )
        return wrapped(made, meter) if meter else made

    return SimpleNamespace(trainer=trainer, library=transformers)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("bf16", [False, True])
def test_hugging_face_trainer(hugging_face, accumulated, bf16):
    options = {"gradient_accumulation_steps": accumulated, "bf16": bf16}
    examples = 4 * BATCH + 3  # 5 micro-batches an epoch, the last one partial
    plain = Classifier()
    hugging_face.trainer(plain, examples, **options).train()
    without = state(plain)

    model = Classifier()
    with quiet() as meter:
        trainer = hugging_face.trainer(model, examples, meter, **options)
        trainer.train()
    assert_identical(without, state(model))
    summary = meter.summary()
    assert trainer.state.global_step == {1: 10, 3: 4}[accumulated]
    assert summary.steps == 10
    assert summary.samples == 2 * examples
    assert summary.model_flops == 2 * examples * FLOPS_PER_EXAMPLE
    assert summary.by_dtype == {"bfloat16" if bf16 else "float32": summary.model_flops}
    assert summary.parameters == 276
    assert_complete(summary)


def test_hugging_face_evaluation_is_no_training(hugging_face):
    with quiet() as meter:
        trainer = hugging_face.trainer(
            Classifier(), 3 * BATCH, meter, evaluated=20, eval_strategy="steps", eval_steps=2
        )
        trainer.train()
        trainer.evaluate()
        trainer.predict(trainer.eval_dataset)
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(evaluations) == 3 + 1
    assert meter.summary().steps == 2 * 3
    assert meter.summary().model_flops == 2 * 3 * BATCH * FLOPS_PER_EXAMPLE
    assert_complete(meter.summary())


def test_hugging_face_evaluation_time_is_taken_out(hugging_face):
    ticks = iter(range(10_000))
    with quiet() as meter:
        meter._clock.now = lambda: float(next(ticks))
        trainer = hugging_face.trainer(
            Classifier(),
            2 * BATCH,
            meter,
            evaluated=10,
            num_train_epochs=1,
            eval_strategy="steps",
            eval_steps=1,
        )
        prediction_step = trainer.prediction_step

        def waits(*args, **kwargs):
            for _ in range(100):
                next(ticks)
            return prediction_step(*args, **kwargs)

        trainer.prediction_step = waits
        trainer.train()
    # Two ticks a step and two an evaluation; the one between the steps took 200 and is out. One
    # more is that of the wall time, read when the journal opens.
    assert meter.summary().training_seconds == 5.0


def test_hugging_face_trainer_with_lora(hugging_face):
    peft = pytest.importorskip("peft")
    rank = 2
    model = Classifier()
    model.net = peft.get_peft_model(
        model.net, peft.LoraConfig(r=rank, target_modules=["0"], lora_dropout=0.1)
    )
    examples = 2 * BATCH + 1
    with quiet() as meter:
        hugging_face.trainer(model, examples, meter, gradient_accumulation_steps=2).train()
    # First layer: forward; A 12 -> 2: forward and weight; B 2 -> 16: all three. Head: forward
    # and the gradient of its input.
    first = 2 * INPUTS * HIDDEN + 2 * (2 * INPUTS * rank) + 3 * (2 * rank * HIDDEN)
    assert meter.summary().model_flops == 2 * examples * (first + 2 * (2 * HIDDEN * CLASSES))
    assert meter.summary().trainable_parameters == rank * (INPUTS + HIDDEN)
    assert_complete(meter.summary())


def test_hugging_face_transformer_with_sequences_of_several_lengths(hugging_face):
    library = hugging_face.library
    width, inner, vocabulary = 16, 24, 32
    config = library.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    lengths = [(4, 4), (7, 7), (4, 4), (9, 9), (7, 7), (5,)]

    def train(meter):
        torch.manual_seed(0)
        model = library.LlamaForCausalLM(config)
        rows = [torch.arange(length) for lengths_ in lengths for length in lengths_]
        trainer = hugging_face.trainer(
            model,
            0,
            meter,
            data=[{"input_ids": row, "labels": row} for row in rows],
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            train_sampling_strategy="sequential",
        )
        trainer.train()
        return state(model)

    without = train(None)
    with quiet() as meter:
        assert_identical(without, train(meter))
    expected = 0
    for batch in lengths:
        rows, length = len(batch), batch[0]
        # Four projections, the MLP's three matrices, scores and their product with the values.
        layer = 2 * rows * length * (4 * width * width + 3 * width * inner + 2 * length * width)
        expected += 3 * (2 * layer + 2 * rows * length * width * vocabulary)
    assert meter.summary().steps == 2 * 6
    assert meter.summary().model_flops == 2 * expected
    assert meter.summary().uncounted_ops == {}


def test_hugging_face_activation_checkpointing_adds_hardware_work_only(hugging_face):
    library = hugging_face.library
    config = library.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        attn_implementation="eager",
    )
    rows, length = 2, 6
    data = [{"input_ids": torch.arange(length), "labels": torch.arange(length)}] * 2 * rows
    with quiet() as meter:
        hugging_face.trainer(
            library.LlamaForCausalLM(config),
            0,
            meter,
            data=data,
            per_device_train_batch_size=rows,
            gradient_checkpointing=True,
        ).train()
    tokens = rows * length
    mlp = 3 * 2 * tokens * 16 * 24
    layer = 4 * 2 * tokens * 16 * 16 + mlp + 2 * 2 * rows * length * length * 16
    head = 2 * tokens * 16 * 32
    # 2 epochs of 2 steps. What is run again is a layer without the last product of its MLP.
    assert meter.summary().model_flops == 4 * 3 * (2 * layer + head)
    again = meter.summary().hardware_flops - meter.summary().model_flops
    assert again == 4 * 2 * (layer - mlp // 3)


def test_hugging_face_trainer_that_stops_and_one_that_fails(hugging_face):
    class Stops(hugging_face.library.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    with quiet() as meter:
        trainer = hugging_face.trainer(Classifier(), 5 * BATCH, meter)
        trainer.add_callback(Stops())
        trainer.train()
    assert meter.summary().steps == 3
    assert meter.summary().model_flops == 3 * BATCH * FLOPS_PER_EXAMPLE

    class Breaks(Classifier):
        calls = 0

        def forward(self, inputs, labels):
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("mine")
            return super().forward(inputs, labels)

    meter = quiet()
    with pytest.raises(RuntimeError, match="mine"), meter:
        hugging_face.trainer(Breaks(), 5 * BATCH, meter).train()
    assert meter.summary().steps == 2
    assert meter.summary().model_flops == 2 * BATCH * FLOPS_PER_EXAMPLE
    assert _get_current_dispatch_mode() is None


def test_what_is_wrapped_in_hugging_faces_trainer_still_exists(hugging_face):
    """The README's subclass overrides these; `training_step` is called once a micro-batch."""
    trainer = hugging_face.library.Trainer
    assert list(trainer.training_step.__annotations__)[:2] == ["model", "inputs"]
    assert callable(trainer.evaluate)


# Accelerate.


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(accelerate, accumulated, precision):
    examples = 4 * BATCH + 3

    def train(meter):
        accelerator = accelerate.Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulated
        )
        plain, updates = net(), 0
        model, optimizer, loader = accelerator.prepare(
            plain,
            torch.optim.SGD(plain.parameters(), lr=0.1),
            DataLoader(dataset(examples), batch_size=BATCH, shuffle=True),
        )
        torch.manual_seed(2)
        for _ in range(2):
            for inputs, labels in loader:
                with step_of(meter, inputs), accelerator.accumulate(model):
                    accelerator.backward(cross_entropy(model(inputs), labels))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                        updates += 1
                    optimizer.step()
                    optimizer.zero_grad()
        return state(plain), updates

    without, updates = train(None)
    with quiet() as meter:
        metered, _ = train(meter)
    assert_identical(without, metered)
    assert updates == {1: 10, 3: 4}[accumulated]
    summary = meter.summary()
    assert summary.steps == 10
    assert summary.samples == 2 * examples
    assert summary.model_flops == 2 * examples * FLOPS_PER_EXAMPLE
    assert summary.by_dtype == {"float32" if precision == "no" else "bfloat16": summary.model_flops}
    assert_complete(summary)


def test_accelerate_that_looks_for_a_batch_size_that_fits(accelerate):
    tried = []
    with quiet() as meter:

        @accelerate.utils.find_executable_batch_size(starting_batch_size=4 * BATCH)
        def train(batch_size):
            tried.append(batch_size)
            accelerator = accelerate.Accelerator(cpu=True)
            model, loader = accelerator.prepare(
                net(), DataLoader(dataset(4 * BATCH), batch_size=batch_size)
            )
            for inputs, labels in loader:
                with meter.step(inputs):
                    loss = cross_entropy(model(inputs), labels)
                    if batch_size > BATCH:
                        raise RuntimeError("CUDA out of memory.")
                    accelerator.backward(loss)

        train()
    assert tried[0] == 4 * BATCH
    # A step that raised is not booked; those of the size that fits are.
    assert meter.summary().samples == 4 * BATCH
    assert meter.summary().model_flops == 4 * BATCH * FLOPS_PER_EXAMPLE
    assert _get_current_dispatch_mode() is None


# Lightning Fabric.


@pytest.fixture(params=["lightning.fabric", "lightning_fabric"])
def fabric_library(request):
    """Each of the two namespaces of Fabric."""
    return importlib.import_module(request.param)


@pytest.mark.parametrize("accumulated", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_fabric(fabric_library, precision, accumulated):
    examples = 4 * BATCH + 3

    def train(meter):
        fabric = fabric_library.Fabric(accelerator="cpu", devices=1, precision=precision)
        fabric.launch()
        plain = net()
        model, optimizer = fabric.setup(plain, torch.optim.SGD(plain.parameters(), lr=0.1))
        loader = fabric.setup_dataloaders(DataLoader(dataset(examples), batch_size=BATCH))
        torch.manual_seed(2)
        for _ in range(2):
            for index, (inputs, labels) in enumerate(loader):
                accumulating = index % accumulated != accumulated - 1
                with step_of(meter, inputs):
                    with fabric.no_backward_sync(model, enabled=accumulating):
                        fabric.backward(cross_entropy(model(inputs), labels))
                    if not accumulating:
                        fabric.clip_gradients(model, optimizer, max_norm=1.0)
                        optimizer.step()
                        optimizer.zero_grad()
        return state(plain)

    without = train(None)
    with quiet() as meter:
        assert_identical(without, train(meter))
    summary = meter.summary()
    assert summary.steps == 10
    assert summary.samples == 2 * examples
    assert summary.model_flops == 2 * examples * FLOPS_PER_EXAMPLE
    dtype = "float32" if precision == "32-true" else "bfloat16"
    assert summary.by_dtype == {dtype: summary.model_flops}
    assert_complete(summary)


def test_fabric_with_a_lightning_module_and_a_frozen_layer(small):
    fabric_library = pytest.importorskip(
        small.pl.__name__.replace("pytorch_lightning", "lightning_fabric").replace(
            "lightning.pytorch", "lightning.fabric"
        )
    )
    module = small.Module()
    module.log = lambda *args, **kwargs: None  # there is no Trainer that could log
    module.net[0].requires_grad_(False)
    fabric = fabric_library.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model, optimizer = fabric.setup(module, module.configure_optimizers())
    loader = fabric.setup_dataloaders(small.data(3 * BATCH))
    with quiet() as meter:
        for index, batch in enumerate(loader):
            with meter.step(batch):
                fabric.backward(model.training_step(batch, index))
                optimizer.step()
                optimizer.zero_grad()
    # Both layers forward, and the weight gradient of the second.
    each = 2 * (INPUTS * HIDDEN + HIDDEN * CLASSES) + 2 * HIDDEN * CLASSES
    assert meter.summary().model_flops == 3 * BATCH * each
    assert_complete(meter.summary())
