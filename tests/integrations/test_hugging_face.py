"""The meter in Hugging Face's Trainer."""

import functools
from types import SimpleNamespace

import pytest
import torch
from meter_loops import quiet
from same_trainings import assert_complete, assert_identical, dataset, net, state
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import _get_current_dispatch_mode


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
