"""The walk over a JAX program: which equations run, how often, and what reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

from jax.interpreters.partial_eval import dce_jaxpr

from computemeter.counters import jax_convolution  # noqa: F401 - registers its formula
from computemeter.counters.jax_formulas import FORMULAS, Call
from computemeter.counters.jax_loops import integer, trip_count
from computemeter.counters.jax_precision import arithmetic
from computemeter.counters.jax_primitives import LISTED, TRANSPARENT, ZEROS
from computemeter.counters.jax_tally import Tally, Work
from computemeter.counters.keras_optimizer import is_optimizer_file

# JAX's private types (`Jaxpr`, `JaxprEqn`), which it does not export under stable names.
_Program = Any
_Equation = Any


@dataclass(frozen=True, slots=True)
class _Value:
    """What is known of a value: how many axes were reversed, and its number if it is constant."""

    reversed_axes: int = 0
    number: int | None = None


_UNKNOWN = _Value()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an equation stands: how often and on what it runs, if it repeats or differentiates.

    Functions that JAX traces once and keeps have the call stack of whoever called them first, so
    whose an equation is can be told by those outside of any other alone.
    """

    platform: str = "cpu"
    times: int = 1
    outermost: bool = True
    recomputed: bool = False
    backward: bool = False

    def of(self, equation: _Equation) -> _Place:
        """Return the place inside an equation, which its name stack tells."""
        # Scopes, which users name as they like, and JAX's own transforms ("jvp", "transpose").
        names = {(type(part).__name__, part.name) for part in equation.source_info.name_stack.stack}
        recomputed = self.recomputed or ("Scope", "rematted_computation") in names
        backward = self.backward or ("Transform", "transpose") in names
        return replace(self, recomputed=recomputed, backward=backward and not recomputed)


def tally_of(program: _Program, consts: Sequence[Any] = (), platform: str = "cpu") -> Tally:
    """Add up the equations of a program, dead ones too."""
    tally = Tally()
    _run(program, [_UNKNOWN] * len(program.invars), _Place(platform), tally, consts)
    return tally


def _run(
    program: _Program,
    arguments: Sequence[_Value],
    place: _Place,
    tally: Tally,
    consts: Sequence[Any] = (),
) -> list[_Value]:
    """Walk a program's equations and return what is known of its results."""
    known: dict[Any, _Value] = dict(zip(program.invars, arguments, strict=False))
    for variable, const in zip(program.constvars, consts, strict=False):
        known[variable] = _Value(number=integer(const))

    def read(atom: Any) -> _Value:
        if hasattr(atom, "val"):  # a literal
            return _Value(number=integer(atom.val))
        return known.get(atom, _UNKNOWN)

    for equation in program.eqns:
        values = [read(atom) for atom in equation.invars]
        results = _step(program, equation, values, place.of(equation), tally)
        known.update(zip(equation.outvars, results, strict=False))
    return [read(atom) for atom in program.outvars]


def _run_inner(
    jaxpr: _Program, arguments: Sequence[_Value], place: _Place, tally: Tally
) -> list[_Value]:
    inside = replace(place, outermost=False)
    return _run(opened(jaxpr), arguments, inside, tally, getattr(jaxpr, "consts", ()))


def _step(
    program: _Program, equation: _Equation, values: list[_Value], place: _Place, tally: Tally
) -> list[_Value]:
    """Book one equation and return what is known of its results, if anything."""
    name = equation.primitive.name
    if name in ZEROS:
        return _moved(equation, values)
    if place.outermost and _is_optimizer_work(equation):
        return []
    try:
        if name in FORMULAS:
            _book(program, equation, values, place, tally)
            return []
        return CONTROL_FLOW.get(name, _call)(equation, values, place, tally)
    except Exception:  # noqa: BLE001 - one odd equation must not cost the whole count
        tally.uncounted[f"jax::{name}"] += place.times
        return []


def _is_optimizer_work(equation: _Equation) -> bool:
    traceback = equation.source_info.traceback
    frames = () if traceback is None else traceback.frames
    return any(is_optimizer_file(frame.file_name) for frame in frames)


def _moved(equation: _Equation, values: list[_Value]) -> list[_Value]:
    name = equation.primitive.name
    if name == "rev":
        return [_Value(values[0].reversed_axes + len(equation.params["dimensions"]))]
    return values if name in TRANSPARENT else []


def _book(
    program: _Program, equation: _Equation, values: list[_Value], place: _Place, tally: Tally
) -> None:
    name = equation.primitive.name
    inputs = [atom.aval for atom in equation.invars]
    call = Call(
        params=equation.params,
        inputs=inputs,
        outputs=[atom.aval for atom in equation.outvars],
        reversed_axes=values[1].reversed_axes if len(values) > 1 else 0,
        backward=place.backward,
        result_is_flipped=partial(_is_flipped_later, equation, program),
    )
    flops = FORMULAS[name](call)
    numbers = equation.params.get("dimension_numbers")
    dtype = arithmetic(equation.params, str(inputs[0].dtype), place.platform)
    work = Work(f"jax::{name}", dtype, str(([a.shape for a in inputs], numbers)))
    tally.book(work, flops, place.times, recomputed=place.recomputed)


def _is_flipped_later(equation: _Equation, program: _Program) -> bool:
    followed = set(equation.outvars)
    for later in program.eqns:
        if not any(atom in followed for atom in later.invars if not hasattr(atom, "val")):
            continue
        if later.primitive.name == "rev":
            return True
        if later.primitive.name in TRANSPARENT:
            followed.update(later.outvars)
    return False


def _call(equation: _Equation, values: list[_Value], place: _Place, tally: Tally) -> list[_Value]:
    """Run the one program that an equation holds, or put the equation on the list."""
    name = equation.primitive.name
    inner = [] if name in LISTED else list(_programs(equation.params.values()))
    if len(inner) == 1:
        return _run_inner(inner[0], values, place, tally)
    # Of several nobody knows which run.
    if not inner or _contracts(inner):
        tally.uncounted[f"jax::{name}"] += place.times
    return []


def _scan(equation: _Equation, values: list[_Value], place: _Place, tally: Tally) -> list[_Value]:
    params = equation.params
    consts = params["num_consts"]
    # What is carried or scanned over is another number in each turn.
    moving = [replace(value, number=None) for value in values[consts:]]
    inside = replace(place, times=place.times * params["length"])
    results = _run_inner(params["jaxpr"], [*values[:consts], *moving], inside, tally)
    return [replace(result, number=None) for result in results]


def _while(equation: _Equation, values: list[_Value], place: _Place, tally: Tally) -> list[_Value]:
    params = equation.params
    programs = [_alive(params[f"{part}_jaxpr"]) for part in ("cond", "body")]
    trips = trip_count(params, [value.number for value in values])
    if trips is None:
        if _contracts(programs):
            tally.uncounted["jax::while"] += place.times
        return []
    consts = params["cond_nconsts"]
    operands = values[:consts], values[consts : consts + params["body_nconsts"]]
    # The condition runs once more, to end the loop.
    for program, known, times in zip(programs, operands, (trips + 1, trips), strict=True):
        inside = replace(place, times=place.times * times, outermost=False)
        _run(program, known, inside, tally)
    return []


def _cond(equation: _Equation, values: list[_Value], place: _Place, tally: Tally) -> list[_Value]:
    branches = [Tally() for _branch in equation.params["branches"]]
    results = [
        _run_inner(program, values[1:], place, branch)
        for program, branch in zip(equation.params["branches"], branches, strict=True)
    ]
    tally.add_most(branches)
    return results[0] if all(result == results[0] for result in results) else []


def _shard_map(
    equation: _Equation, values: list[_Value], place: _Place, tally: Tally
) -> list[_Value]:
    params = equation.params
    devices = prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    inside = replace(place, times=place.times * devices)
    return _run_inner(params["jaxpr"], values, inside, tally)


def _linear_solve(
    equation: _Equation, values: list[_Value], place: _Place, tally: Tally
) -> list[_Value]:
    # The other three programs are for its derivatives.
    solve, consts = equation.params["jaxprs"].solve, equation.params["const_lengths"]
    first = consts.matvec + consts.vecmat
    arguments = [*values[first : first + consts.solve], *values[sum(consts) :]]
    return _run_inner(solve, arguments, place, tally)


CONTROL_FLOW: Mapping[str, Callable[[_Equation, list[_Value], _Place, Tally], list[_Value]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "shard_map": _shard_map,
    "custom_linear_solve": _linear_solve,
}


def _contracts(programs: Sequence[_Program]) -> bool:
    """Say whether any of these programs contains something to count."""
    return any(tally_of(opened(program)) for program in programs)


def _alive(jaxpr: _Program) -> _Program:
    """Remove dead code, where JAX has no rule to remove it with the program's around it."""
    live, _used = dce_jaxpr(opened(jaxpr), used_outputs=True, instantiate=True)
    return live


def opened(jaxpr: _Program) -> _Program:
    """Return a program without its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _programs(params: Any) -> Iterator[_Program]:
    """Find the programs among a primitive's parameters."""
    for param in params:
        if hasattr(opened(param), "eqns"):
            yield param
        elif isinstance(param, Mapping):
            yield from _programs(param.values())
        elif isinstance(param, list | tuple):
            yield from _programs(param)
