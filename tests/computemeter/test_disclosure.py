"""A model's compute: what it comes to, how far off it may be, and what may be in its file."""

import json
from html.parser import HTMLParser

import pytest
from ledgers import header, totals, write
from markdown_it import MarkdownIt

from computemeter import Meter
from computemeter.commands.report import model_card
from computemeter.disclosure import DisclosureError
from computemeter.disclosure.budget import budget
from computemeter.disclosure.digits import cells
from computemeter.disclosure.entries import Base, Counting, Entry
from computemeter.disclosure.find import run_at
from computemeter.disclosure.model import read_model
from computemeter.disclosure.plain import to_dict
from computemeter.disclosure.text import markdown
from computemeter.disclosure.totals import Amount, assemble
from computemeter.estimate import flops_from_gpu_time, flops_from_parameters
from computemeter.ledger import LedgerHeader, read_ledger
from computemeter.ledger_writer import LedgerWriter
from computemeter.receipt import read_receipt

PF = 10**15
ENDED = {
    "uncounted_ops": {},
    "flops_standard_error": None,
    "counted_steps": 2,
    "predicted_steps": 8,
    "estimated_steps": 0,
}


def entry(**changes):
    values = {
        "name": "pretrain",
        "category": "training",
        "origin": "ledger",
        "source": "led",
        "run": "r",
        "segments": ("a",),
        "operations": 10 * PF,
        "run_flops": 10 * PF,
        "gpu_time": 20 * PF,
        "possible": 60 * PF,
        "device_seconds": 600.0,
        "training_seconds": 600.0,
        "steps": 10,
        "counting": Counting(
            uncounted_ops={},
            hardware_flops=10 * PF,
            counted_steps=2,
            predicted_steps=8,
            estimated_steps=0,
            standard_error=0.0,
        ),
    }
    return Entry(**{**values, **changes})


def made(*entries, bases=()):
    return assemble("m", entries or (entry(),), bases)


def segment(folder, name, *, status="finished", summary=None, head=None, **changes):
    """Write a launch of run "r" as a ledger; one without a status was killed."""
    writer = LedgerWriter.open(
        folder, LedgerHeader(segment=name, run="r", started=1.0, **head or {})
    )
    values = totals(
        run_flops=10 * PF,
        model_flops=10 * PF,
        gpu_time_flops=20 * PF,
        device_seconds=600.0,
        training_seconds=300.0,
        device_count=2,
        peak_flops=1e14,
        assumed_utilization=1 / 3,
    )
    with writer:
        writer.progress(10, 2.0, {**values, **changes}, {"compute/uncounted_ops": 0})
        if status:
            writer.end(status, 3.0, {**ENDED, **(summary or {})})
    return writer.path


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


# How far off.


def line(found, cause):
    return next(each for each in budget(found).lines if each.cause == cause)


def test_a_complete_count_is_within_the_margin_and_an_assumed_utilisation_is_not():
    found = budget(made())
    assert (found.known, found.own.within, found.gpu_time.within) == (0.0, True, False)
    assert "37-51 %" in found.gpu_time.text


def test_an_operator_without_a_formula_makes_a_lower_bound():
    found = budget(made(entry(counting=Counting(uncounted_ops={"aten::mv": 3}, estimated_steps=0))))
    assert found.own.within is None
    assert "lower bound" in found.own.text


@pytest.mark.parametrize(("error", "within"), [(1.5 * PF, True), (1.6 * PF, False)])
def test_recount_drift(error, within):
    counting = Counting(uncounted_ops={}, estimated_steps=5, standard_error=error)
    found = made(entry(counting=counting))
    # 1.96 x 1.5 of 10 PF is 29.4 %, x 1.6 is 31.4 %
    assert line(found, "recount drift").share == pytest.approx(1.96 * error / (10 * PF))
    assert budget(found).own.within is within


def test_estimated_steps_and_killed_launches_add_up():
    counting = Counting(
        uncounted_ops={}, counted_steps=8, estimated_steps=2, standard_error=0.0, killed=1
    )
    found = made(entry(counting=counting, status="unknown"))
    assert line(found, "steps booked at a mean").share == 0.2  # 2 of 10
    assert line(found, "killed launches").share == pytest.approx(10 / 600)
    assert budget(found).known == pytest.approx(0.2 + 10 / 600)


@pytest.mark.parametrize(
    ("category", "status", "missing"),
    [
        # A launch goes on from a checkpoint with its exact total: only the last may lack 10 s.
        ("training", "finished", 0.0),
        ("training", "unknown", 10 / 600),
        ("synthetic_data", "finished", 20 / 600),  # all that was run counts
    ],
)
def test_what_a_killed_launch_leaves_unsaid(category, status, missing):
    found = made(entry(category=category, status=status, counting=Counting(killed=2)))
    assert line(found, "killed launches").share == pytest.approx(missing)


def test_a_count_that_the_meter_doubts_is_not_within_anything():
    found = budget(made(entry(cause="count_suspect", diagnosis="the methods differ 9x")))
    assert (found.own.within, "count_suspect" in found.own.text) == (None, True)


def test_the_error_of_a_base_weighs_by_its_compute():
    def whole(error):
        return budget(made(bases=[Base(name="b", flops=90 * PF, error=error)]))

    assert whole(0.33).total.within is True  # 90 of 100 PF off by 33 %: 29.7 %
    assert whole(0.34).total.within is False  # 30.6 %
    assert whole(None).total.within is None
    assert whole(None).own.within is True


# From real files.


def test_the_launches_of_a_run_are_periods_of_constant_devices(tmp_path):
    segment(tmp_path, "a", status="failed")
    segment(tmp_path, "b")
    segment(tmp_path, "c", device_count=4, run_flops=25 * PF, hardware_flops=12 * PF)
    found = run_at(tmp_path)
    two, four = found.periods
    assert (two.launches, two.devices, two.training_seconds) == (2, 2, 600.0)
    assert (four.launches, four.devices, four.training_seconds) == (1, 4, 300.0)
    # 30 PF were burned in 3 x 600 device-seconds at 1e14 FLOP/s; 25 are in the weights.
    assert (found.operations, found.thrown_away) == (30 * PF, 5 * PF)
    assert found.implied_utilization == pytest.approx(30 / 180)
    text = markdown(assemble("m", [found]))
    assert "| 2 | 600 seconds (600 s) | 100 TFLOP/s | 0.333 assumed |" in text


def test_a_killed_launch_says_what_it_did_not_count_and_not_how(tmp_path):
    segment(tmp_path, "a", status=None)
    segment(tmp_path, "b")
    counting = run_at(tmp_path).counting
    assert (counting.uncounted_ops, counting.estimated_steps, counting.killed) == ({}, None, 1)


def test_what_a_killed_launch_last_said_of_its_verdict_is_old(tmp_path):
    writer = LedgerWriter.open(tmp_path, LedgerHeader(segment="a", run="r", started=1.0))
    with writer:
        writer.event("verdict", 2.0, verdict="unknown", cause="short_run", diagnosis="50 steps")
        writer.progress(900, 9.0, totals(), {})
    assert run_at(tmp_path).diagnosis == "as last said: 50 steps"


@pytest.mark.parametrize(("complete", "shown"), [(True, "0"), (False, "unknown")])
def test_a_zero_that_is_not_all_known_is_unknown(complete, shown):
    missing = () if complete else ("pretrain",)
    assert cells(Amount(0, missing))[1] == shown


def test_a_receipt_alone_knows_less_than_with_its_ledger(tmp_path):
    torch = pytest.importorskip("torch")
    with Meter(ledger=tmp_path, trackers=None, verbose=0) as meter:
        for _ in range(3):
            with meter.step():
                torch.ones(2, 3) @ torch.ones(3, 4)
    path = tmp_path / "compute_receipt.json"
    full = budget(assemble("m", [run_at(path)]))
    for ledger in tmp_path.glob("*.jsonl"):
        ledger.unlink()
    bare = budget(assemble("m", [run_at(path)]))
    assert (full.own.within, bare.own.within) == (True, None)


def test_lightnings_checkpoints_lie_three_folders_below_the_ledgers(tmp_path, monkeypatch):
    ledger = segment(tmp_path / "run/compute_ledger", "a")
    segment(tmp_path / "compute_ledger", "other")
    place = tmp_path / "run/lightning_logs/version_0/checkpoints"
    place.mkdir(parents=True)
    made = json.loads(model_card(str(ledger), as_json=True))  # the receipt of this launch
    (place / "compute_receipt.json").write_text(json.dumps(made))
    monkeypatch.chdir(tmp_path)
    found = run_at("run/lightning_logs/version_0/checkpoints")
    assert (found.origin, found.counting.counted_steps) == ("receipt", ENDED["counted_steps"])
    # As it was asked for, not as the machine has it.
    assert found.source == "run/lightning_logs/version_0/checkpoints/compute_receipt.json"


def test_a_forward_only_loop_is_synthetic_data(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(8, 4)
    options = {"trackers": None, "verbose": 0, "settle_steps": 2, "settle_seconds": 0}
    with Meter(ledger=tmp_path, category="synthetic_data", **options) as meter, torch.no_grad():
        for _ in range(5):
            with meter.step(batch := torch.ones(16, 8)):
                net(batch)
    summary = meter.summary()
    assert summary.model_flops == 5 * 2 * 16 * 8 * 4
    assert summary.cause not in {"count_suspect", "peak_suspect"}
    assert summary.warnings == ()
    (ledger,) = tmp_path.glob("*.jsonl")
    assert read_ledger(ledger).header.category == "synthetic_data"
    assert read_receipt(tmp_path / "compute_receipt.json").category == "synthetic_data"
    found = assemble("m", [run_at(ledger)])
    assert (found.synthetic_data.flops, found.training.flops) == (5 * 2 * 16 * 8 * 4, 0)
    assert found.thrown_away.flops == 0


def test_a_category_that_does_not_exist_is_refused_at_once():
    with pytest.raises(ValueError, match=r"category='data': accepted are training and synthetic"):
        Meter(category="data")


def test_launches_of_two_categories_are_no_run(tmp_path):
    segment(tmp_path, "a", head={"category": "training"})
    segment(tmp_path, "b", head={"category": "synthetic_data"})
    with pytest.raises(DisclosureError, match="launches of several categories: synthetic_data and"):
        run_at(tmp_path)


# The file of a model.


def model(folder, text, name="m"):
    path = folder / "model.toml"
    path.write_text(f'name = "{name}"\n{text}', "utf-8")
    return read_model(path)


def test_a_model_of_everything(tmp_path):
    segment(tmp_path / "pre", "a", head={"name": "pre", "base_model": "b"})
    write(tmp_path / "tune", header("t", "tune", name="tune"), totals(device_seconds=10.0))
    found = model(
        tmp_path,
        """
        scope = "the 1B model of March"
        [[run]]
        path = "pre"
        planned_steps = 20
        [[run]]
        id = "tune"
        source = "tune"
        category = "excluded"
        reason = "an ablation"
        [[base]]
        name = "b"
        flops = 9e16
        source = "its model card"
        error = 0.3
        [[manual]]
        name = "questions"
        category = "synthetic_data"
        parameters = 1e6
        tokens = 1e9
        source = "the vendor's invoice"
        energy_kwh = 2
        """,
    )
    # Data is made by one pass: 2 x 1e6 x 1e9 = 2e15.
    assert (found.training.flops, found.synthetic_data.flops) == (10 * PF, 2 * PF)
    assert (found.base.flops, found.total.flops) == (90 * PF, 102 * PF)
    assert found.projected.flops == 112 * PF
    text = markdown(found)
    assert "| no (a third is 3.0e16) | 2.0e16 | no |" in text  # 10 of 30 PF; planned are 20
    assert "| 1,000,000 | 1,000,000,000 | given by hand as 2 x P x D x 1 passes; " in text
    assert "| tune | 1.0e15 (1,000,000,000,000,000) | an ablation |" in text
    assert "- Energy: 2 kWh as given by hand; of 1 more not known" in text
    assert json.loads(json.dumps(to_dict(found)))["scope"] == "the 1B model of March"


MANUAL = '[[manual]]\nname="x"\nsource="s"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to report"),
        ("nam = 1", r"unknown key 'nam' \(did you mean 'name'\?\); accepted are name, scope, run"),
        ("name = 1", "Cannot overwrite a value"),
        ("run = 1", r"run: write it as \[\[run\]\]"),
        ("[[run]]\ncateogry = 1", r"run 1: unknown key 'cateogry' \(did you mean 'category'\?\)"),
        ("[[run]]", "run 1: give either a path, or an id and a source"),
        ('[[run]]\nid = "x"', "run 1: an id and a source belong together"),
        ('[[run]]\npath = "none"', "run 1: .*none: No such file or directory"),
        ('[[run]]\nid = "x"\nsource = "none"', "run 1: .*none.*no such file or folder"),
        (MANUAL, "manual 1: it has no figure: give flops, or parameters and tokens, or devices"),
        (MANUAL + "flops = -3", "manual 1: flops = -3: accepted is a number above 0"),
        (MANUAL + "flops = nan", "manual 1: flops = nan: accepted"),
        (MANUAL + "flops = true", "manual 1: flops = True: accepted"),
        (MANUAL + "flops = 1e200", "manual 1: flops = 1e.200: accepted"),
        (MANUAL + "flops = 1\ncategory = 'data'", "category = 'data': accepted are training, syn"),
        (MANUAL + "flops = 1\ncategory = 'excluded'", "an excluded entry needs a reason"),
        (MANUAL + "flops = 1\nreason = 'why'", "reason is for what is excluded"),
        (MANUAL + "flops = 1\ntokens = 2", "give either flops or tokens"),
        (MANUAL + "parameters = 2", "tokens is missing: accepted is a number above 0"),
        (MANUAL + "hours = 2\ndevices = 1.5", "devices = 1.5: accepted is a whole number"),
        (MANUAL + "hours = 2\ndevice_hours = 1", "give either device_hours, or devices and hours"),
        (
            MANUAL + "device_hours = 2\npeak_flops = 1\nutilization = 33",
            r"utilization = 33: accepted is a share above 0 and at most 1 \(0.33, not 33\)",
        ),
        ('[[manual]]\nname = "x"\nflops = 1', "manual 1: source is missing: accepted is a text"),
        ('[[base]]\nname = "x"\nflops = 1', "base 1: source is missing"),
        ('[[base]]\nreceipt = "none"', "base 1: .*none: there is no compute_receipt.json with it"),
        # 1 device-hour at 1 FLOP/s is 3,600 FLOP.
        (
            MANUAL + "flops = 7200\ndevice_hours = 1\npeak_flops = 1\nutilization = 0.5",
            "x claims 2x what its devices can do",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(DisclosureError, match=message) as raised:
        model(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'model.toml'}: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DisclosureError, match=r"none.toml: No such file or directory"):
        read_model(tmp_path / "none.toml")


def test_a_run_may_be_in_a_model_once(tmp_path):
    segment(tmp_path / "led", "a")
    twice = '[[run]]\npath = "led"\n[[run]]\nid = "r"\nsource = "led"'
    with pytest.raises(DisclosureError, match="run r is there twice"):
        model(tmp_path, twice)


def test_more_steps_than_planned(tmp_path):
    segment(tmp_path / "led", "a")
    with pytest.raises(
        DisclosureError, match="run 1: planned_steps = 9: 10 steps have run already"
    ):
        model(tmp_path, '[[run]]\npath = "led"\nplanned_steps = 9')


# Untrusted texts.

NASTY = [
    "<script>alert(1)</script>",
    "[click](http://evil.example) ![x](http://evil.example/x.png)",
    "a | b \\| c **bold** `code` $x$ # *",
    "line\n\n# heading\n- item",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_untrusted_texts_stay_texts(nasty):
    def document(text):
        return markdown(
            assemble(
                text,
                [
                    entry(name=text, source=text, diagnosis=text, verdict="warn", status=text,
                          notes=(text,), cause="count_suspect"),
                    entry(name=text, run="s", segments=(), category="excluded", reason=text),
                    entry(name=text, run=None, segments=(), origin="manual", source=text),
                ],
                [Base(name=text, flops=1, source=text)],
                scope=text,
            )
        )  # fmt: skip

    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    plain, marked = parser.parse(document("x")), parser.parse(document(nasty))
    assert [token.type for token in marked] == [token.type for token in plain]
    types = {child.type for token in marked for child in token.children or []}
    assert types <= {"text", "strong_open", "strong_close", "softbreak"}
    assert " ".join(nasty.split()) in shown_by_a_browser(parser.render(document(nasty)))


def shown_by_a_browser(markup):
    parts = []
    reader = HTMLParser()
    reader.handle_data = parts.append
    reader.feed(markup)
    return " ".join("".join(parts).split())


def test_a_password_in_a_source_is_not_repeated():
    text = markdown(made(entry(source="postgresql://ann:s3cret@host/db")))
    assert "s3cret" not in text
