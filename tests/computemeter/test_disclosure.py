"""A model's compute: what its runs and its bases come to."""

import pytest
from disclosures import PF, entry, made, model

from computemeter.disclosure import DisclosureError
from computemeter.disclosure.budget import budget
from computemeter.disclosure.entries import Base
from computemeter.disclosure.plain import to_dict
from computemeter.disclosure.text import markdown
from computemeter.estimate import flops_from_gpu_time, flops_from_parameters

# The worked examples of the guidelines' annex. The figures are printed there with two digits or
# one, some cut off and not rounded, so half a unit or a whole one of the last digit may lack.


@pytest.mark.parametrize(
    ("parameters", "tokens", "printed", "off"),
    [
        (3.8e9, 3.3e12, 7.5e22, 0.005),  # 6 x 3.8e9 x 3.3e12 = 7.524e22
        (0.6e9, 36e12, 1.3e23, 0.005),  # 1.296e23
        (1.54e9, 18e12, 1.66e23, 0.005),  # 1.66320e23
        (1.7e9, 36e12, 3.7e23, 0.01),  # 3.672e23
        (2.5e9, 12e12, 1.8e23, 0.0),  # 1.8e23
        (2.6e9, 10e12, 1.5e23, 0.0401),  # 1.56e23, cut off
    ],
)
def test_the_annex_by_parameters_and_tokens(tmp_path, parameters, tokens, printed, off):
    flops = flops_from_parameters(parameters, tokens)
    assert flops == pytest.approx(printed, rel=off, abs=1)
    figure = f'name="x"\nsource="annex"\nparameters={parameters}\ntokens={tokens}'
    assert model(tmp_path, f"[[manual]]\n{figure}").total.flops == flops


@pytest.mark.parametrize(
    ("hours", "peak", "printed", "off"),
    [
        (200_000, 300e12, 1e23, 0.08),  # 2e5 h x 3600 s x 3e14 x 0.5 = 1.08e23, one digit
        (370_000, 989e12, 6.5e23, 0.014),  # 3.7e5 x 3600 x 9.89e14 x 0.5 = 6.587e23, cut off
    ],
)
def test_the_annex_by_device_hours(tmp_path, hours, peak, printed, off):
    flops = flops_from_gpu_time(1, hours * 3600, peak, 0.5)
    assert flops == pytest.approx(printed, rel=off + 0.0005)
    factors = f"device_hours={hours}\npeak_flops={peak}\nutilization=0.5"
    found = model(tmp_path, f'[[manual]]\nname="x"\nsource="annex"\n{factors}')
    assert found.total.flops == flops


# What it comes to.


def test_a_crash_threw_work_away_and_it_is_in_no_sum():
    # 10 PF burned, 6 PF of it before the checkpoint, 5 PF after the restart: 11 of 15 are kept.
    crashed = made(entry(operations=15 * PF, run_flops=11 * PF, possible=90 * PF))
    assert crashed.training.flops == crashed.total.flops == 11 * PF
    assert crashed.thrown_away.flops == 4 * PF


def test_categories_are_added_up_apart():
    found = made(
        entry(),
        entry(name="data", category="synthetic_data", run="s", segments=(), run_flops=1 * PF),
        entry(name="ablation", category="excluded", reason="not used", run="t", segments=()),
        bases=[Base(name="b", flops=100 * PF)],
    )
    # Of data generation all 10 PF that were burned, whatever a restart kept.
    amounts = (found.training, found.synthetic_data, found.base, found.total)
    assert [each.flops for each in amounts] == [10 * PF, 10 * PF, 100 * PF, 120 * PF]
    assert found.thrown_away.flops == 0


def test_what_is_not_known_makes_the_rest_a_lower_bound():
    found = made(entry(), entry(name="lost", run="s", segments=(), run_flops=None, gpu_time=None))
    assert (found.total.flops, found.total.missing) == (10 * PF, ("lost",))
    assert "| **Cumulative training compute** | at least 1.0e16 |" in markdown(found)
    nothing = made(entry(run_flops=None, gpu_time=None)).total
    assert (nothing.flops, nothing.complete) == (None, False)


def test_a_model_without_training_has_no_row_for_it():
    text = markdown(made(entry(category="synthetic_data")))
    assert "final weights" not in text
    assert "- Training time: none" in text
    assert "| Synthetic data | 1.0e16 |" in text


def test_the_ratio_of_all_that_have_both_figures():
    data = entry(name="data", run="s", segments=(), operations=20 * PF, gpu_time=10 * PF)
    text = markdown(made(entry(), data, entry(name="x", run="t", segments=(), gpu_time=None)))
    # 20 + 10 by GPU time, 10 + 20 by operations, of 2 x 60 PF at the peak
    row = next(line for line in text.splitlines() if line.startswith("| all that have both |"))
    assert row.split(" | ")[3:5] == ["1", "25 %"]


def test_gpu_time_stands_in_for_operations_that_are_not_known():
    found = made(entry(run_flops=None, operations=None))
    assert found.total.flops == 20 * PF
    assert budget(found).own.within is None
    assert "- pretrain: method 1 has no figure, method 2 stands for it" in markdown(found)


@pytest.mark.parametrize(
    ("base", "counted"),
    [
        (Base(name="first", flops=10 * PF), True),  # by name and compute
        (Base(name="x", flops=10 * PF, receipt="sha256:1"), True),  # by its receipt
        (Base(name="r", flops=5 * PF), True),  # by the run's id: its weights halfway
        (Base(flops=10 * PF), True),  # by its compute, as a tracker knows it
        (Base(flops=5 * PF), False),
        (Base(name="first", flops=99 * PF), False),  # another model of that name
        (Base(name="second", flops=10 * PF), False),  # the run's own name is not its base
    ],
)
def test_a_base_that_is_a_run_of_the_model_counts_once(base, counted):
    first = entry(name="first", lineage_flops=10 * PF, receipt="sha256:1")
    second = entry(name="second", run="s", segments=(), base=base)
    found = made(first, second)
    assert found.bases == (() if counted else (base,))
    assert found.total.flops == 20 * PF + (0 if counted else base.flops)


def test_two_runs_from_one_base_count_it_once():
    base = Base(name="b", flops=7 * PF)
    found = made(entry(base=base), entry(run="s", segments=(), base=base), bases=[Base(name="b")])
    assert found.base.flops == 7 * PF
    with pytest.raises(DisclosureError, match=r"base model 'b' has 1 FLOP by .* and 7"):
        made(entry(base=base), bases=[Base(name="b", flops=1)])


@pytest.mark.parametrize("order", [1, -1])
def test_checkpoints_of_one_base_count_as_the_later(order):
    halfway, last = (Base(name="b", flops=each, receipt="sha256:1") for each in (4 * PF, 7 * PF))
    starts = [entry(base=halfway), entry(run="s", segments=(), base=last)][::order]
    found = made(*starts)
    assert found.bases == (last,)
    assert found.total.flops == (10 + 10 + 7) * PF


@pytest.mark.parametrize(("flops", "above"), [(30 * PF, False), (30 * PF - 3, True)])
def test_the_one_third_test(flops, above):
    (test,) = made(bases=[Base(name="b", flops=flops)]).modifications
    (third,) = test.thirds  # 10 PF were done here: not more than a third of 30 PF
    assert third.above is above


def test_a_third_of_an_unknown_base_is_a_third_of_the_thresholds():
    (test,) = made(bases=[Base(name="b")]).modifications
    assert [third.flops for third in test.thirds] == [10**23 // 3, 10**25 // 3]
    assert [third.above for third in test.thirds] == [False, False]


def test_synthetic_data_is_training_compute_of_models_with_systemic_risk_alone():
    # Trained 4e22 and made data with 4e24: of 1e23 and of a model of 3e23 counts what updates
    # parameters, 4e22; of 1e25, and of a model of 1.2e25 that has systemic risk, all 4.04e24.
    flops = {"operations": 4 * 10**24, "gpu_time": None, "possible": None}
    data = entry(name="d", category="synthetic_data", run="s", segments=(), **flops)
    trained = {"operations": 4 * 10**22, "run_flops": 4 * 10**22, "possible": None}
    bases = [Base(name="small", flops=3 * 10**23), Base(name="large", flops=12 * 10**24)]
    found = made(entry(**trained), data, bases=bases)
    small, large = (test.thirds[0] for test in found.modifications)
    assert (small.done.flops, small.above) == (4 * 10**22, False)  # a third is 1e23
    assert (large.done.flops, large.above) == (404 * 10**22, True)  # 4e24
    assert found.towards(10**23)[0].flops == 4 * 10**22 + 123 * 10**23
    assert found.towards(10**25)[0].flops == found.total.flops == 404 * 10**22 + 123 * 10**23
    said = "Synthetic data counts for models with systemic risk alone"
    assert markdown(found).count(said) == 2  # at the bases and at the thresholds
    assert said not in markdown(made(bases=bases))


def test_the_distance_to_the_thresholds():
    d = to_dict(made(entry(planned_steps=15)))
    assert [each["left"] for each in d["thresholds"]] == [10**e - 10 * PF for e in (23, 25, 26)]
    assert d["projected"]["flops"] == 15 * PF  # 10 steps were 10 PF
    # Of 10 steps and 10 PF a crash threw 4 away: 15 steps in the weights are still 15 PF.
    assert entry(run_flops=6 * PF).with_plan(15).projected == 15 * PF
    assert entry(run_flops=6 * PF).with_plan(6).projected == 6 * PF
    # 600 device-seconds for 10 PF: (1e23 - 1e16) / 1e16 x 600 s / 3600 = 1.67e6 hours
    assert "| 1.7e6 device-hours |" in markdown(made())
