"""The meter for Keras is public as the others are: see `tests/test_public_names.py`."""

from reference import METERS, functions, gaps, look_up, parameters, undescribed_methods

NAME = "computemeter.keras.ComputeMeter"


def test_the_meter_explains_its_options_and_shows_its_methods():
    meter = look_up(NAME)
    assert set(parameters(meter)) == METERS[NAME] | {"options"}
    assert gaps(meter) == []
    assert undescribed_methods(NAME) == set()


def test_its_methods_explain_their_arguments_and_errors():
    found = functions(NAME)
    assert f"{NAME}.summary" in found
    assert {name: gaps(value) for name, value in found.items() if gaps(value)} == {}
