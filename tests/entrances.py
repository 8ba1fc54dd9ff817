"""Options come in at two entrances, and both refuse the same."""

import pytest

from computemeter import Meter
from computemeter.options import Options


def from_options(**given):
    return Options.from_user(given)


def from_meter(**given):
    return Meter(**given).options


ENTRANCES = pytest.mark.parametrize("build", [from_options, from_meter])
