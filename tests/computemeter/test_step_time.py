"""Seconds a step = a + b x batch: points on a line, points off it, and a source's tables."""

import pytest

from computemeter.planning.step_time import StepTime, StepTimeFit, fit_line, fit_step_time

# A million sentences an epoch. Its embedding has 300 numbers a word, its LSTM 128 units; the
# tables give thousands of seconds an epoch ("Training-time forecast", the third source).
SENTENCES = 1_000_000
BY_BATCH = {"CPU": {32: 25, 128: 7, 1024: 2.1}, "GPU": {32: 2.7, 128: 0.76, 1024: 0.19}}
BY_VOCABULARY = {
    "CPU": {20_000: 2, 280_000: 9.2, 2_000_000: 57},
    "GPU": {20_000: 0.5, 280_000: 0.95, 2_000_000: 4},
}


def steps(**seconds):
    return [StepTime(batch_size=int(size[1:]), seconds=each) for size, each in seconds.items()]


def test_points_on_a_line_give_the_line():
    # 0.5 + 0.25 x: 0.75, 1, 1.5, 2.5
    fit = fit_step_time(steps(b1=0.75, b2=1.0, b4=1.5, b8=2.5))
    assert fit.fixed == pytest.approx(0.5)
    assert fit.per_example == pytest.approx(0.25)
    assert fit.seconds(100) == pytest.approx(25.5)
    assert fit.worst == pytest.approx(0, abs=1e-9)


def test_speed_saturates_where_the_examples_take_nine_tenths_of_the_step():
    # 0.25 x / (0.5 + 0.25 x) = 0.9 at x = 9 * 0.5 / 0.25 = 18: 4.5 of 5 seconds
    assert StepTimeFit(fixed=0.5, per_example=0.25).saturates_at == 18
    assert StepTimeFit(fixed=0.0, per_example=0.25).saturates_at == 1
    assert StepTimeFit(fixed=0.5, per_example=0.0).saturates_at is None


def test_two_batch_sizes_make_a_line_and_one_makes_none():
    assert fit_step_time(steps(b1=0.75)) is None
    assert fit_step_time([]) is None
    assert fit_step_time(steps(b1=0.75, b2=1.0)).fixed == pytest.approx(0.5)


def test_no_part_of_a_step_is_negative():
    # The line through (1, 1) and (10, 20) meets x = 0 at -1.1: no step begins before its start.
    steep = fit_step_time(steps(b1=1.0, b10=20.0))
    assert steep.fixed == 0
    assert steep.per_example > 0
    # Larger batches that take less: b is 0, and no end of the gain is in sight.
    falling = fit_step_time(steps(b1=4.0, b2=3.0, b4=2.5))
    assert falling.per_example == 0
    assert 2.5 < falling.fixed < 4
    assert falling.saturates_at is None


def test_one_disturbed_measurement_does_not_turn_the_line():
    disturbed = fit_step_time(steps(b1=0.75, b2=1.0, b4=3.0, b8=2.5, b16=4.5))
    # Left alone, 4 examples take 1.5 s; it shows as about twice the line.
    assert disturbed.seconds(4) == pytest.approx(1.5, rel=0.07)
    assert dict(disturbed.residuals)[4] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="a time must be a finite number above 0"):
        fit_step_time(steps(b1=1.0, b2=seconds))


@pytest.mark.parametrize(
    ("device", "fixed", "per_example", "worst", "saturates_at"),
    [
        # A step takes 1000 * ks * batch / 1e6 seconds: 0.8 at 32, 0.896 at 128, 2.1504 at 1024.
        # Through the ends b = 1.3504 / 992 = 1.361e-3 and a = 0.8 - 32 b = 0.7564; at 128 that is
        # 0.9307 against 0.896, 3.7 % off, which the fit shares out. 9 * 0.7564 / 1.361e-3 = 5001.
        ("CPU", 0.7564, 1.361e-3, 0.037, 5001),
        # 0.0864, 0.09728, 0.19456: b = 0.10816 / 992 = 1.090e-4, a = 0.08291; at 128 that is
        # 0.09687 against 0.09728, 0.4 % off. 9 * 0.08291 / 1.090e-4 = 6846.
        ("GPU", 0.08291, 1.090e-4, 0.0043, 6846),
    ],
)
def test_the_source_s_times_against_batch_size(device, fixed, per_example, worst, saturates_at):
    fit = fit_step_time(
        [
            StepTime(batch_size=batch, seconds=1000 * ks * batch / SENTENCES)
            for batch, ks in BY_BATCH[device].items()
        ]
    )
    assert fit.fixed == pytest.approx(fixed, rel=worst)
    assert fit.per_example == pytest.approx(per_example, rel=worst)
    assert fit.saturates_at == pytest.approx(saturates_at, rel=worst)
    assert 0 < fit.worst < worst
    # An epoch at 128, from the fit: 1e6 / 128 * seconds(128).
    epoch = SENTENCES / 128 * fit.seconds(128)
    assert epoch == pytest.approx(1000 * BY_BATCH[device][128], rel=worst)


@pytest.mark.parametrize(
    ("device", "fixed", "per_word"),
    [
        # (9.2 - 2) ks / 260,000 words = 27.7 ms a word, (57 - 9.2) / 1,720,000 = 27.8: one line.
        # At no words, 2000 - 20,000 * 0.0277 = 1446 s.
        ("CPU", 1446, 0.02775),
        # 450 s / 260,000 = 1.73 ms, 3050 / 1,720,000 = 1.77; 500 - 20,000 * 0.00173 = 465.
        ("GPU", 465, 0.00176),
    ],
)
def test_the_source_s_times_against_vocabulary_are_on_a_line_too(device, fixed, per_word):
    fit = fit_line([(words, 1000 * ks) for words, ks in BY_VOCABULARY[device].items()])
    assert fit.fixed == pytest.approx(fixed, rel=0.01)
    assert fit.per_example == pytest.approx(per_word, rel=0.01)
    assert fit.worst < 0.01
    # 280,000 words take the CPU 280,000 * 0.02775 = 7770 s of 9200: 84 %, for no operation more.
    share = 280_000 * fit.per_example / fit.seconds(280_000)
    assert share == pytest.approx({"CPU": 0.84, "GPU": 0.52}[device], abs=0.01)


def test_where_the_model_does_not_hold_the_residuals_say_so():
    # Time as the square of the batch: 1, 4, 16, 64.
    fit = fit_step_time(steps(b1=1.0, b2=4.0, b4=16.0, b8=64.0))
    assert fit.worst > 0.3


def test_without_scipy_the_command_to_install_it_is_given(monkeypatch):
    monkeypatch.setattr(
        "computemeter.planning.step_time.find_spec", lambda name: None if name == "scipy" else name
    )
    with pytest.raises(ModuleNotFoundError, match=r"needs scipy: pip install 'computemeter\[trend"):
        fit_step_time(steps(b1=1.0, b2=2.0))
