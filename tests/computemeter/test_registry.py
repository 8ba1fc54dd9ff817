"""Formulas of one's own: what they are told, what they may return, and that they never do harm."""

import doctest
import subprocess
import sys

import pytest
import torch

from computemeter import Meter, register_formula
from computemeter.counters import registry
from computemeter.counters.torch_formulas import FORMULAS
from computemeter.counters.torch_ops import operator_of

X, W = torch.ones(32, 784), torch.ones(256, 784)
FLOPS = 2 * 32 * 784 * 256
NAME = "computemeter_formulas::project"


@torch.library.custom_op(NAME, mutates_args=())
def project(x: torch.Tensor, w: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
    """Nobody but its author knows what it does."""
    return x @ w.T * scale


OP = torch.ops.computemeter_formulas.project


@pytest.fixture(autouse=True)
def registry_as_it_was():
    before = dict(FORMULAS)
    yield
    FORMULAS.clear()
    FORMULAS.update(before)
    operator_of.cache_clear()


def project_flops(x, w, *, out, scale=1.0):
    return 2 * out.numel() * x.shape[-1]


@pytest.mark.parametrize("op", [NAME, OP, OP.default, project], ids=lambda op: type(op).__name__)
def test_an_operator_by_name_or_as_it_is(op):
    # Counted before, it is on the list; the formula holds from the next call on.
    assert Meter.count(project, X, W).uncounted_ops == {NAME: 1}
    assert register_formula(op, project_flops) is project_flops
    count = Meter.count(project, X, W)
    assert count.by_op == {NAME: FLOPS}
    assert count.uncounted_ops == {}
    assert count.by_dtype == {"float32": FLOPS}


def test_as_a_decorator():
    @register_formula(OP)
    def formula(*args, out, **kwargs):
        return 7

    assert formula(out=None) == 7
    assert Meter.count(project, X, W).model_flops == 7


def test_it_is_told_the_arguments_of_the_call():
    calls = []

    @register_formula(NAME)
    def formula(*args, **kwargs):
        calls.append((args, kwargs))
        return 1

    results = []
    Meter.count(lambda: results.append(project(X, W, scale=2.0)))
    ((args, kwargs),) = calls
    assert args[0] is X
    assert args[1] is W
    assert set(kwargs) == {"out", "scale"}
    assert kwargs["scale"] == 2.0
    assert torch.equal(kwargs["out"], results[0])


def test_variants_share_the_formula_of_the_plain_operator():
    # addcmul(self, t1, t2, value=1), in place, and with an `out=` argument that is the result
    register_formula("aten::addcmul", lambda x, a, b, *, out, value=1: 2 * out.numel())
    x, a = torch.ones(3, 4), torch.ones(3, 4)
    assert Meter.count(torch.addcmul, x, a, a, value=2).model_flops == 24
    assert Meter.count(x.addcmul_, a, a).model_flops == 24
    assert Meter.count(lambda: torch.addcmul(x, a, a, out=torch.empty(3, 4))).model_flops == 24


def test_recomputation_is_hardware_work_only():
    register_formula(NAME, lambda x, w, out: (100, 20))
    count = Meter.count(project, X, W)
    assert (count.model_flops, count.hardware_flops) == (100, 120)


def test_a_second_formula_must_be_meant():
    register_formula(NAME, project_flops)
    with pytest.raises(ValueError, match=f"{NAME} has a formula already; pass replace=True"):
        register_formula(NAME, lambda *args, out: 1)
    assert Meter.count(project, X, W).model_flops == FLOPS
    register_formula(NAME, lambda *args, out: 1, replace=True)
    assert Meter.count(project, X, W).model_flops == 1


def test_a_formula_of_our_own_is_a_first_one_too():
    with pytest.raises(ValueError, match="aten::mm has a formula already"):
        register_formula(torch.ops.aten.mm, project_flops)
    register_formula(torch.ops.aten.mm, lambda a, b, *, out: 5, replace=True)
    assert Meter.count(torch.mm, torch.ones(2, 3), torch.ones(3, 4)).model_flops == 5


@pytest.mark.parametrize(
    "name", ["mm", "", "aten::", "aten::mm.out", "a b::c", "higher_order::cond"]
)
def test_a_name_that_is_none(name):
    with pytest.raises(ValueError, match='must be the name of an operator like "aten::mm"'):
        register_formula(name, project_flops)


@pytest.mark.parametrize("op", [None, 3, torch.mm, torch.ops.higher_order.cond])
def test_what_is_no_operator(op):
    with pytest.raises(TypeError, match=r"op must be torch\.ops\.ns\.name"):
        register_formula(op, project_flops)


def test_a_formula_that_cannot_be_called():
    with pytest.raises(TypeError, match=f"the formula of {NAME} must be callable, not 3"):
        register_formula(NAME, 3)
    with pytest.raises(TypeError, match="must be callable"):
        register_formula(NAME)(None)
    assert NAME not in FORMULAS


def raises(*args, out):
    raise KeyError("mine")


NONSENSE = {
    "None": lambda *args, out: None,
    "negative": lambda *args, out: -1,
    "float": lambda *args, out: 2.0,
    "bool": lambda *args, out: True,
    "tensor": lambda *args, out: out.sum(),
    "three": lambda *args, out: (1, 2, 3),
    "negative recomputation": lambda *args, out: (1, -2),
    "text": lambda *args, out: "many",
    "an error": raises,
    "other arguments": lambda a, *, out: 1,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_listed_and_warned_of_once(name, caplog):
    register_formula(NAME, NONSENSE[name])
    results = []

    def step():
        results.append(project(X, W))
        results.append(torch.ones(2, 3) @ torch.ones(3, 4))

    for _ in range(3):
        count = Meter.count(step)
        assert count.uncounted_ops == {NAME: 1}
        # and everything else goes on
        assert count.model_flops == 48
    assert torch.equal(results[0], project(X, W))
    (record,) = caplog.records
    assert f"the formula of {NAME} failed, its calls are uncounted" in record.getMessage()


def test_a_training_step_survives_it(caplog):
    register_formula(NAME, raises)
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        for _ in range(3):
            with meter.step():
                project(X, W)
    assert meter.summary().steps == 3
    assert NAME in meter.summary().uncounted_ops
    warned = [record.getMessage() for record in caplog.records]
    assert len([line for line in warned if f"the formula of {NAME} failed" in line]) == 1


def trained(*steps):
    with Meter(ledger=None, trackers=None, verbose=0) as meter:
        for step in steps:
            with meter.step():
                step()
    return meter.summary()


def told_of(name, summary):
    return [line for line in summary.warnings if f"registered for {name} is not used" in line]


def test_a_mistyped_name_is_told_of_once_where_an_operator_goes_uncounted():
    register_formula("computemeter_formulas::projekt", project_flops)
    summary = trained(*[lambda: project(X, W)] * 3)
    assert summary.counted_steps > 1
    (line,) = summary.warnings
    assert line == (
        "the formula registered for computemeter_formulas::projekt is not used: PyTorch knows no "
        f"operator of that name; the closest are {NAME}"
    )


def test_formulas_of_an_extension_that_is_not_there_are_no_news_while_all_is_counted():
    register_formula("an_extension::attention", project_flops)
    register_formula(NAME, project_flops)
    assert trained(lambda: project(X, W)).warnings == ()


def test_an_operator_may_come_after_its_formula():
    register_formula("computemeter_formulas::late", lambda x, *, out: 11)

    def comes_late():
        @torch.library.custom_op("computemeter_formulas::late", mutates_args=())
        def late(x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        late(X)
        project(X, W)

    summary = trained(comes_late)
    assert (summary.model_flops, summary.uncounted_ops) == (11, {NAME: 1})
    assert summary.warnings == ()


def test_a_formula_for_the_in_place_variant_alone_is_for_an_operator():
    torch.library.define("computemeter_formulas::fill_", "(Tensor(a!) x) -> ()")
    register_formula("computemeter_formulas::fill", lambda x, *, out: 1)
    register_formula("computemeter_formulas::drain", lambda x, *, out: 1)
    summary = trained(lambda: project(X, W))
    assert told_of("computemeter_formulas::drain", summary)
    assert not told_of("computemeter_formulas::fill", summary)


def test_no_count_is_lost_where_the_names_cannot_be_looked_up(monkeypatch):
    def fails(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr("computemeter.counters.torch_counter.misnamed_formulas", fails)
    summary = trained(lambda: project(X, W))
    assert (summary.counted_steps, summary.uncounted_ops) == (1, {NAME: 1})


def test_an_operator_without_a_tensor_does_not_cost_the_count():
    @torch.library.custom_op("computemeter_formulas::wait", mutates_args=())
    def wait(n: int) -> int:
        return n

    register_formula("computemeter_formulas::wait", lambda n, *, out: n)

    def step():
        wait(5)
        project(X, W)

    count = Meter.count(step)
    assert count.uncounted_ops == {"computemeter_formulas::wait": 1, NAME: 1}


def test_the_example_runs():
    code = f"import sys, doctest\nimport {registry.__name__} as module\n"
    code += "sys.exit(doctest.testmod(module, verbose=False).failed)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert doctest.DocTestFinder().find(registry.register_formula)[0].examples
