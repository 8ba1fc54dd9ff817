"""Meter a Trainer of Hugging Face transformers: two methods overridden."""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from computemeter import Meter

VOCABULARY, LENGTH, WIDTH, INNER, LAYERS = 100, 32, 64, 128, 2


class MeteredTrainer(Trainer):
    """Hands each micro-batch to the meter; a `Seq2SeqTrainer` goes the same way."""

    def __init__(self, meter: Meter, *args: Any, **kwargs: Any) -> None:
        self.meter = meter
        super().__init__(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with self.meter.step(inputs):
            return super().training_step(model, inputs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self.meter.validation():
            return super().evaluate(*args, **kwargs)


def counting_up(sequences: int) -> list[dict[str, Tensor]]:
    """Make sequences that count up, each from a random token."""
    starts = torch.randint(0, VOCABULARY, (sequences, 1))
    rows = (starts + torch.arange(LENGTH)) % VOCABULARY
    return [{"input_ids": row, "labels": row} for row in rows]


def main(sequences: int = 500, epochs: int = 2) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
    )
    with TemporaryDirectory() as folder, Meter() as meter:
        options = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = MeteredTrainer(
            meter,
            LlamaForCausalLM(config),
            options,
            train_dataset=counting_up(sequences),
            eval_dataset=counting_up(50),
        )
        trainer.train()

    # A token's forward: four projections, three matrices of the MLP and two products of attention
    # in each layer, and the head; the backward is twice that.
    layer = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * LENGTH * WIDTH)
    token = 3 * (LAYERS * layer + 2 * WIDTH * VOCABULARY)
    assert meter.summary().model_flops == epochs * sequences * LENGTH * token


if __name__ == "__main__":
    main()
