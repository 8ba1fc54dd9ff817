"""Each cause of a divergence, provoked in a real run of a real Trainer."""

import time

import pytest
import torch
import torch._dynamo.utils

from computemeter.lightning import ComputeMeter

# The verdict is asked for at once: 2 steps and no second to settle.
SETTLED = {"settle_steps": 2, "settle_seconds": 0, "ledger": None, "trackers": None, "verbose": 0}


def run(small, module=None, data=None, steps=40, **options):
    meter = ComputeMeter(**{**SETTLED, **options})
    trainer = small.trainer(meter, max_epochs=-1, max_steps=steps)
    trainer.fit(module or small.Module(), data or small.data(64))
    return meter.summary()


def test_a_slow_data_loader_is_input_bound(small):
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.2)
                yield batch

    summary = run(small, data=Slow(small.data(64)), steps=12)
    assert (summary.verdict, summary.cause) == ("alarm", "input_bound")
    assert "of the training time was spent waiting for data" in summary.diagnosis
    assert summary.host_seconds["stall"] >= 12 * 0.2


@torch.library.custom_op("computemeter_tests::hidden_product", mutates_args=())
def hidden_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply where no dispatch mode can see what it is made of."""
    return torch.from_numpy(left.detach().numpy() @ right.detach().numpy())


def test_an_operator_without_a_formula_makes_the_count_suspect(small, caplog):
    class Module(small.Module):
        def training_step(self, batch, batch_idx):
            hidden_product(batch[0], torch.ones(12, 12))
            return self.loss(batch)

    summary = run(small, Module())
    assert (summary.verdict, summary.cause) == ("alarm", "count_suspect")
    assert summary.uncounted_ops == {"computemeter_tests::hidden_product": 40}
    assert "computemeter_tests::hidden_product (40 calls)" in summary.diagnosis
    (told,) = [each for each in caplog.messages if "count_suspect" in each]
    assert "computemeter_tests::hidden_product" in told
    assert "computemeter.register_formula" in told  # what to do about it


def test_a_peak_that_is_too_low_is_suspect(small, caplog):
    summary = run(small, peak_flops=1_000)
    assert (summary.verdict, summary.cause) == ("alarm", "peak_suspect")
    assert "the peak is too low or the count too high" in summary.diagnosis
    assert summary.mfu is None
    assert len([each for each in caplog.messages if "peak_suspect" in each]) == 1


def test_a_tiny_model_uses_little_and_its_small_operations_are_named(small, caplog):
    summary = run(small)
    assert (summary.verdict, summary.cause) == ("alarm", "low_utilization")
    # 5 products a step of 8 examples x 1,152 FLOP.
    assert "its operations are small, 1.84 KFLOP each" in summary.diagnosis
    loud = [each for each in caplog.records if each.levelname == "WARNING"]
    assert not [each for each in loud if each.name == "computemeter"]


def test_ten_steps_are_too_short_to_judge(small):
    summary = run(small, steps=10, settle_steps=50)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert "10 steps" in summary.diagnosis


def test_compiling_explains_a_short_run(small):
    class Module(small.Module):
        def training_step(self, *args):
            # A compiler that takes 50 ms of every step, and is in Dynamo's account.
            time.sleep(0.05)
            torch._dynamo.utils.cumulative_time_spent_ns["entire_frame_compile"] += 0.05e9
            return super().training_step(*args)

    summary = run(small, Module(), steps=10)
    assert (summary.verdict, summary.cause) == ("alarm", "short_run")
    assert "of the training time was spent compiling" in summary.diagnosis
    assert summary.compile_seconds == pytest.approx(10 * 0.05)
    assert summary.host_seconds["compile"] == summary.compile_seconds


def test_what_dynamo_compiles_is_in_its_account(small):
    class Module(small.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.compile(self.net, backend="eager")  # Dynamo alone

    torch.compiler.reset()
    assert run(small, Module(), steps=3).compile_seconds > 0


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_of_no_step_and_of_one(small, steps):
    summary = run(small, steps=steps, settle_steps=0)
    assert (summary.verdict, summary.cause) == ("unknown", "short_run")
    assert summary.mfu is None or 0 < summary.mfu < 1


def test_the_parts_of_a_real_fit_are_its_wall_time(small, tmp_path):
    """Slept away: 12 batches of 0.2 s, two validations of 0.5 s, two checkpoints of 0.4 s."""

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.2)
                yield batch

    class Module(small.Module):
        def validation_step(self, batch, batch_idx):
            time.sleep(0.5)

    class Watch(small.pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            self.began = time.perf_counter()

        def on_train_end(self, trainer, pl_module):
            self.seconds = time.perf_counter() - self.began

        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            time.sleep(0.4)

    meter, watch = ComputeMeter(**SETTLED), Watch()
    keeper = small.pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=6)
    trainer = small.trainer(
        watch,
        meter,
        keeper,
        max_epochs=1,
        val_check_interval=6,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
    )
    trainer.fit(Module(), Slow(small.data(12 * 8)), small.data(8))
    summary = meter.summary()
    parts = summary.host_seconds
    assert summary.wall_seconds == pytest.approx(watch.seconds, rel=0.05)
    assert sum(parts.values()) == pytest.approx(summary.wall_seconds, rel=0.01)
    slept = {"stall": 12 * 0.2, "validation": 2 * 0.5, "checkpoint": 2 * 0.4}
    for part, seconds in slept.items():
        # What is around the sleep is part of it; the machine may be slow.
        assert seconds <= parts[part] < 1.5 * seconds
