"""A model's compute as a disclosure wants it: scope, both estimates, their errors, thresholds.

`runs` and `model` read what goes in, `entries` and `totals` say what it comes to, `budget` how far
off it may be, `text` writes it down. docs/disclosure.md describes the file of a model.

The rules are those of the European Commission's guidelines on general-purpose AI models, annex
(C(2025) 5045 of 18 July 2025, adopted as C(2025) 7719 in November 2025).
"""

from __future__ import annotations


class DisclosureError(ValueError):
    """What a disclosure cannot be made of; the message is one line for the user."""
