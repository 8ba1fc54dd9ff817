"""A site's meter beside a user's own, at once or one after the other."""

import warnings

import pytest
import torch
from lightning_fits import meter as users
from site_fits import FLOPS, fit, ledgers, site_meters
from small_runs import BATCH

from computemeter.lightning import ComputeMeter
from computemeter_lightning._site import SiteMeter

pytestmark = pytest.mark.usefixtures("metered_site")

MISSING = "callbacks used to create the checkpoint need to be provided"
METERS = {"site": list, "user": lambda: [users()]}


@pytest.mark.parametrize("how", ["at construction", "appended", "by the model"])
def test_it_stands_down_where_the_user_attached_one(small, how, recwarn):
    meter = ComputeMeter(trackers=None, verbose=0)

    class Module(small.Module):
        def configure_callbacks(self):
            return [meter] if how == "by the model" else []

    trainer = small.trainer(*([meter] if how == "at construction" else []))
    if how == "appended":
        trainer.callbacks.append(meter)
    trainer.fit(Module(), small.data(2 * BATCH))
    (ours,) = site_meters(trainer)
    assert meter.summary().model_flops == FLOPS
    assert meter.summary().warnings == ours.summary().warnings == ()
    assert ours.summary().steps == 0
    assert len(ledgers(small)) == 1
    trainer.save_checkpoint(small.folder / "at.ckpt")
    checkpoint = torch.load(small.folder / "at.ckpt", weights_only=True)
    assert list(checkpoint["callbacks"]) == ["computemeter"]
    assert "computemeter-site" not in checkpoint
    assert [each for each in recwarn if MISSING in str(each.message)] == []


def resume(small, before, after, monkeypatch, rewrite=None):
    """Train an epoch with one meter and another with the next; return that and the warnings."""
    path = small.folder / "at.ckpt"
    fit(small, *METERS[before]()).save_checkpoint(path)
    if rewrite is not None:
        checkpoint = torch.load(path, weights_only=True)
        rewrite(checkpoint)
        torch.save(checkpoint, path)
    monkeypatch.setenv("COMPUTEMETER", "1" if after == "site" else "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(small, *METERS.get(after, list)(), ckpt_path=path, max_epochs=2)
    missing = [str(each.message) for each in caught if MISSING in str(each.message)]
    kinds = (SiteMeter, ComputeMeter)
    return [each for each in trainer.callbacks if isinstance(each, kinds)], missing


@pytest.mark.parametrize("before", METERS)
@pytest.mark.parametrize("after", METERS)
def test_each_goes_on_from_the_others_checkpoint(small, before, after, monkeypatch):
    (meter,), missing = resume(small, before, after, monkeypatch)
    assert meter.summary().model_flops == FLOPS
    assert meter.summary().run_flops == 2 * FLOPS
    assert meter.summary().warnings == ()
    # A user who takes his callback away is told so by Lightning, as with any other callback.
    assert [("computemeter" in each) for each in missing] == [True] * (
        (before, after) == ("user", "site")
    )


def test_a_checkpoint_of_the_sites_asks_for_no_callback(small, monkeypatch):
    found, missing = resume(small, "site", "nothing", monkeypatch)
    assert found == missing == []


@pytest.mark.parametrize("after", METERS)
def test_checkpoints_under_the_name_of_the_class_are_read(small, after, monkeypatch):
    def as_written_before(checkpoint):
        checkpoint["callbacks"]["ComputeMeter"] = checkpoint["callbacks"].pop("computemeter")

    (meter,), _ = resume(small, "user", after, monkeypatch, as_written_before)
    assert meter.summary().run_flops == 2 * FLOPS


@pytest.mark.parametrize("after", METERS)
def test_a_state_that_cannot_be_read_is_a_warning(small, after, monkeypatch):
    def foreign(checkpoint):
        checkpoint["callbacks"]["computemeter"] = {"schema": 10**6, "steps": "none"}

    (meter,), _ = resume(small, "user", after, monkeypatch, foreign)
    assert meter.summary().model_flops == FLOPS
    assert len(meter.summary().warnings) == 1


@pytest.mark.parametrize("after", METERS)
def test_a_learning_rate_finder_does_not_lose_what_was_restored(small, after, monkeypatch):
    """It saves and loads a checkpoint when the fit begins, before any meter has begun."""

    class Module(small.Module):
        learning_rate = 0.01

    path = small.folder / "at.ckpt"
    fit(small, *METERS[after](), module=Module).save_checkpoint(path)
    finder = small.pl.callbacks.LearningRateFinder(
        num_training_steps=2, early_stop_threshold=None, update_attr=False
    )
    trainer = small.trainer(finder, *METERS[after](), max_epochs=2)
    trainer.fit(Module(), small.data(8 * BATCH), ckpt_path=path)
    kind = SiteMeter if after == "site" else ComputeMeter
    (meter,) = [each for each in trainer.callbacks if isinstance(each, kind)]
    assert meter.summary().run_flops == FLOPS + meter.summary().model_flops
