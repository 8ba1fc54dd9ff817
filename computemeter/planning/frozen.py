"""Training of which a part is frozen, and what that saves."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from computemeter.wording import percent

FrozenAt = Literal["input", "throughout"]
TRAINING_PASSES = 3
"""Cost of a training step in forward passes: one forward, one for the gradients of the inputs, one
for those of the weights."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The part of a model that is not trained, and what a training step costs without it.

    A forward pass costs 1, the gradient of the inputs as much, the gradient of the weights as much
    again: 3. A frozen weight needs no gradient of its own. Whether the gradient of the inputs goes
    through a frozen layer depends on where it is, so that this must be said:

    - "input": the first layers are frozen (a head on a fixed backbone). No gradient enters them:
      1 + 2 (1 - share) = 3 - 2 share.
    - "throughout": trained weights sit before or between the frozen ones (adapters, LoRA, a tuned
      embedding). The gradient passes through all: 1 + 1 + (1 - share) = 3 - share.

    Both take the three parts as equal in cost, as method 1 does throughout, which is one layer's
    gradient too many: the first layer that is trained needs none for its inputs. The operations of
    adapters themselves belong to those per pass, as trained ones.

    >>> float(Frozen(0.9, "input").passes), float(Frozen(0.9, "throughout").passes)
    (1.2, 2.1)

    Attributes:
        share: of the operations of a forward pass that are done with frozen weights, not of the
            layers; above 0 and below 1.
        at: where they are.
    """

    share: float
    at: FrozenAt

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(
                f"a frozen share is above 0 and below 1 (1 trains nothing), got {self.share!r}"
            )
        if self.at not in {"input", "throughout"}:
            raise ValueError(f'frozen weights are at "input" or "throughout", got {self.at!r}')

    @property
    def passes(self) -> Fraction:
        """Cost of a training step in forward passes, exact."""
        saved = 2 if self.at == "input" else 1
        return TRAINING_PASSES - saved * Fraction(str(self.share))

    def __str__(self) -> str:
        """Say what is assumed."""
        if self.at == "input":
            return (
                f"{percent(self.share)} of the operations are frozen, all at the input, where no "
                f"gradient enters: 3 - 2 x {self.share:g} = {float(self.passes):g} passes"
            )
        return (
            f"{percent(self.share)} of the operations are frozen, with trained weights before them "
            f"(adapters), so that the gradient passes through: "
            f"3 - {self.share:g} = {float(self.passes):g} passes"
        )
