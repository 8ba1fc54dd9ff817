"""A probe of LightningModules: by their training_step alone, or in a Trainer of their own."""

import random

import pytest
import torch
from small_runs import BATCH, CLASSES, FLOPS_PER_EXAMPLE, HIDDEN, INPUTS
from torch import nn

from computemeter.planning.probe import ProbeError, probe
from computemeter.site import callbacks

NOTE = "Its steps ran in a Trainer of their own, hooks included."


def data():
    return torch.randn(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))


def module_of(pl, *, steps=None, configure=None, manual=False, hooks=None):
    """Make a module that takes its steps and its optimizer as told."""

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Dropout(0.5), nn.Linear(HIDDEN, CLASSES)
            )
            self.automatic_optimization = not manual

        def loss(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.log("loss", loss)
            return steps(self, loss) if steps else loss

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters())
            return configure(self, optimizer) if configure else optimizer

    for name, hook in (hooks or {}).items():
        setattr(Module, name, hook)
    return Module()


def measured(module, batch=None, **options):
    options = {"batch_sizes": [BATCH, 2 * BATCH], "in_process": True, **options}
    return probe(module, batch or data(), **options)


def as_usual(result):
    assert [step.batch_size for step in result.measured] == [BATCH, 2 * BATCH]
    assert all(step.seconds > 0 for step in result.measured)
    assert result.flops_per_example == FLOPS_PER_EXAMPLE
    return result


def one_cycle(module, optimizer):
    steps = module.trainer.estimated_stepping_batches
    return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)]


def by_hand(module, loss):
    optimizer = module.optimizers()
    optimizer.zero_grad()
    module.manual_backward(loss)
    optimizer.step()


def test_a_module_needs_no_trainer_and_stays_as_it_was(pl):
    module, batch = module_of(pl), data()
    module.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states = random.getstate(), torch.get_rng_state()
    assert as_usual(measured(module, batch)).notes == ()
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(each.training for each in module.modules())
    assert all(each.grad is None for each in module.parameters())


def weigh(module, stage=None):
    module.weight = 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"manual": True, "steps": by_hand},
        {"steps": lambda module, loss: loss * (1 + 0 * module.trainer.global_step)},
        {"configure": lambda module, optimizer: [optimizer] * bool(module.trainer)},
        {"configure": one_cycle},
        {"hooks": {"setup": weigh}, "steps": lambda module, loss: loss * module.weight},
        {"hooks": {"on_train_start": weigh}, "steps": lambda module, loss: loss * module.weight},
    ],
    ids=[
        "manual optimisation",
        "a step that asks for it",
        "an optimizer that asks for it",
        "a schedule that asks for the number of steps",
        "attributes made in setup",
        "attributes made at the start",
    ],
)
def test_a_module_that_needs_a_trainer_has_one(pl, options, monkeypatch, capfd):
    monkeypatch.setenv("COMPUTEMETER", "1")
    module = module_of(pl, **options)
    result = as_usual(measured(module))
    assert result.notes == (NOTE,)
    assert {step.steps for step in result.measured} == {10}
    assert module._trainer is None
    assert capfd.readouterr() == ("", "")
    assert len(callbacks()) == 1  # the site's meter is back for real runs


def test_the_module_s_own_callbacks_write_no_checkpoint(pl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def callbacks(_):
        return [pl.callbacks.ModelCheckpoint(save_last=True, every_n_train_steps=1)]

    as_usual(
        measured(
            module_of(pl, manual=True, steps=by_hand, hooks={"configure_callbacks": callbacks})
        )
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "configure",
    [
        lambda _, optimizer: [optimizer],
        lambda _, optimizer: ([optimizer], []),
        lambda _, optimizer: {"optimizer": optimizer},
        lambda _, optimizer: [{"optimizer": optimizer}],
    ],
    ids=["a list", "two lists", "a dict", "a list of dicts"],
)
def test_all_forms_of_configure_optimizers(pl, configure):
    as_usual(measured(module_of(pl, configure=configure)))


def test_a_module_of_a_running_fit_leaves_its_trainer_alone(pl, small):
    module = module_of(pl)
    module._trainer = trainer = object()
    as_usual(measured(module))
    assert module._trainer is trainer


@pytest.mark.slow
def test_in_a_process_of_its_own(pl):
    pytest.importorskip("cloudpickle")
    # What is made in a function is taken there by value.
    assert as_usual(measured(module_of(pl), in_process=None)).notes == ()


def test_bad_input_is_said_in_one_line(pl):
    def without_loss(module, loss):
        return None

    with pytest.raises(ProbeError, match="training_step returned no loss"):
        measured(module_of(pl, steps=without_loss))
    with pytest.raises(ProbeError, match="configure_optimizers returned no optimizer"):
        measured(module_of(pl, configure=lambda _, optimizer: None))
    with pytest.raises(ProbeError, match="brings its own loss and optimizer"):
        measured(module_of(pl), loss=nn.functional.cross_entropy)
