"""Values as strict JSON has them, which knows no NaN and no infinity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from numbers import Integral, Real


def plain(value: object, text: Callable[[str], str] = str) -> object:
    """Return a value fit for `json.dumps`: NaN and the infinities become None.

    Args:
        value: of any type; one that JSON does not know becomes its text.
        text: what is done to each text, keys included.
    """
    match value:
        case None | bool():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {text(str(key)): plain(item, text) for key, item in value.items()}
        case list() | tuple() | AbstractSet():
            return tuple(plain(item, text) for item in value)
        case _:
            return text(str(value))
