"""Batches of the same shapes get the same key, others another, whatever they are packed in."""

import doctest
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from computemeter.counters import signature as module
from computemeter.counters.signature import examples, signature
from computemeter.counters.torch_counter import _plain_signature


class Pair(NamedTuple):
    x: object
    y: object


@dataclass
class Record:
    x: object
    y: object = None


@dataclass(slots=True)
class Slotted:
    x: object
    y: object = None


@dataclass(slots=True)
class SlottedChild(Slotted):
    z: object = None


class OneSlot:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class AttributeDict(dict):
    """A popular idiom: a missing name raises KeyError, which hasattr does not expect."""

    __getattr__ = dict.__getitem__


def floats(*shape):
    return torch.zeros(shape)


WRAPPERS = {
    "tensor": lambda t: t,
    "list": lambda t: [t, floats(1)],
    "tuple": lambda t: (floats(1), t),
    "dict": lambda t: {"x": t, "name": "a"},
    "UserDict": lambda t: UserDict(x=t),
    "OrderedDict": lambda t: OrderedDict(x=t),
    "namedtuple": lambda t: Pair(t, 1),
    "dataclass": lambda t: Record(t, "a"),
    "dataclass with slots": lambda t: Slotted(t, "a"),
    "slots": OneSlot,
    "namespace": lambda t: SimpleNamespace(x=t),
    "nested": lambda t: [{"a": (Record([t]), None)}],
    "packed sequence": lambda t: torch.nn.utils.rnn.pack_padded_sequence(
        t.reshape(t.numel(), 1, 1).float(), [t.numel()]
    ),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_equal_shapes_have_equal_keys(name):
    wrap = WRAPPERS[name]
    key = signature(wrap(floats(2, 3)))
    assert key == signature(wrap(torch.ones(2, 3)))
    assert hash(key) == hash(signature(wrap(torch.ones(2, 3))))


@pytest.mark.parametrize("name", WRAPPERS)
def test_another_shape_is_another_key(name):
    wrap = WRAPPERS[name]
    assert signature(wrap(floats(2, 3))) != signature(wrap(floats(2, 4)))


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "packed sequence"])
def test_another_dtype_or_order_of_sizes_is_another_key(name):
    wrap = WRAPPERS[name]
    assert signature(wrap(floats(2, 3))) != signature(wrap(floats(2, 3).double()))
    assert signature(wrap(floats(2, 3))) != signature(wrap(floats(3, 2)))
    assert signature(wrap(floats(6))) != signature(wrap(floats(2, 3)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param([floats(2)], [floats(2), floats(2)], id="number of arrays"),
        pytest.param({"x": floats(2)}, {"y": floats(2)}, id="name"),
        pytest.param({"x": floats(2), "y": floats(3)}, {"x": floats(3), "y": floats(2)}, id="swap"),
        pytest.param([floats(2), 1], [floats(2), None], id="no value"),
        pytest.param([[floats(2)], floats(2)], [floats(2), [floats(2)]], id="nesting"),
        pytest.param(floats(2), np.zeros(2, np.float32), id="framework"),
        pytest.param(floats(), 0.0, id="a scalar and a number"),
    ],
)
def test_another_structure_is_another_key(one, other):
    assert signature(one) != signature(other)


def test_values_do_not_matter():
    assert signature([floats(2), 1, "a"]) == signature([torch.ones(2), 2, "b"])
    assert signature({"seed": 1.5}) == signature({"seed": 2.5})


def test_arrays_of_any_framework_have_a_key():
    assert signature(np.zeros((2, 3), np.int8)) == ((2, 3), np.dtype("int8"))
    assert signature(np.float64(1.0)) == ((), np.dtype("float64"))
    assert signature(floats(2, 3)) == ((2, 3), torch.float32)


def test_a_batch_without_arrays_has_a_key_of_types():
    assert signature(None) == "NoneType"
    assert signature("text") == "str"
    assert signature({"n": 1, "texts": ["a", "b"]}) == (("n", "int"), ("texts", ("str", "str")))
    assert signature([]) == signature(()) == ()


def test_what_cannot_be_looked_into_has_the_name_of_its_type():
    # Functions and classes hold the program and not the batch; an iterator must not be used up.
    iterator = iter([floats(2)])
    assert signature([len, Record, iterator]) == (
        "builtin_function_or_method",
        "type",
        "list_iterator",
    )
    assert torch.equal(next(iterator), floats(2))
    assert signature({1, 2}) == "set"


def test_unhashable_things_have_a_hashable_key():
    batch = {"set": {1, 2}, "list": [[], {}], "array": bytearray(2), "tensor": [floats(2)]}
    assert isinstance(hash(signature(batch)), int)


def test_a_cycle_ends():
    record = Record(floats(2))
    record.y = [record]
    again = Record(floats(2))
    again.y = [again]
    assert signature(record) == signature(again)
    assert isinstance(hash(signature(record)), int)
    assert examples(record) == 2
    loop = []
    loop.append(loop)
    assert isinstance(hash(signature(loop)), int)
    assert examples(loop) is None


def test_depth_is_looked_into_up_to_a_point():
    def wrap(tensor, times):
        return tensor if not times else [wrap(tensor, times - 1)]

    # An array below 6 containers is still told apart; a list in the place of the 7th is "list".
    assert signature(wrap(floats(2), 6)) != signature(wrap(floats(3), 6))
    assert signature(wrap(floats(2), 7)) == signature(wrap(floats(3), 7))


def test_a_huge_list_is_told_apart_by_its_length():
    many = [floats(2)] * 10_000
    assert signature(many) == ("list", 10_000)
    assert signature(many) != signature(many[1:])
    assert signature({"x": many}) == (("x", ("list", 10_000)),)
    # 256 values are looked at, the list itself among them.
    assert signature([floats(2)] * 255) != signature([floats(3)] * 255)
    assert signature([floats(2)] * 256) == signature([floats(3)] * 256)


def test_a_wide_and_deep_batch_is_not_looked_through_for_ever():
    # 64 lists of 128 numbers: the first fits into the 256 values, the second does not.
    described = signature([[0] * 128] * 64)
    assert described[0] == ("int",) * 128
    assert described[1] == ("list", 128)


def test_an_empty_slot_is_no_error():
    empty, full = OneSlot.__new__(OneSlot), OneSlot(floats(2))
    assert signature(empty) != signature(full)


def test_inherited_slots_are_looked_into():
    assert signature(SlottedChild(floats(2))) != signature(SlottedChild(floats(3)))


def test_a_dict_whose_attributes_raise_key_error_has_a_key():
    batch = AttributeDict(x=floats(2, 3))
    assert signature(batch) == signature({"x": floats(2, 3)})
    assert examples(batch) == 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_has_a_key():
    ragged = torch.nested.nested_tensor([floats(2, 3), floats(4, 3)])
    assert isinstance(hash(signature([ragged])), int)


def test_an_array_whose_dtype_cannot_be_hashed_has_a_hashable_key():
    odd = SimpleNamespace(shape=(2, 3), dtype={"kind": "f"})
    assert isinstance(hash(signature(odd)), int)


# Examples.


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "tuple"])
def test_examples_are_the_first_size_of_the_first_array(name):
    expected = 14 if name == "packed sequence" else 7  # it is given one element at a time
    assert examples(WRAPPERS[name](floats(7, 2))) == expected


def test_examples_of_a_tuple_come_from_its_first_array():
    assert examples((floats(3, 9), floats(5))) == 3
    assert examples([{"text": "a"}, floats(5)]) == 5


def test_a_scalar_says_nothing_about_examples():
    assert examples(floats()) is None
    assert examples([floats(), floats(4, 2)]) == 4


def test_an_empty_batch_has_zero_examples():
    assert examples(floats(0, 3)) == 0


@pytest.mark.parametrize("batch", [None, 5, "text", [], {}, [1, 2], {"a": "b"}, len, Record])
def test_examples_that_cannot_be_measured_are_unknown(batch):
    assert examples(batch) is None


def test_examples_of_a_huge_list_are_unknown():
    # 10,000 arrays may be 10,000 examples or 10,000 parts of one.
    assert examples([floats(2)] * 10_000) is None


def test_examples_are_plain_ints():
    assert type(examples(np.zeros((3, 2)))) is int


def test_the_examples_of_the_docstrings_run():
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    "batch",
    [
        floats(2, 3),
        [floats(2, 3), floats(2)],
        (floats(4), torch.ones(4, dtype=torch.int64)),
        [],
        floats(2).to(torch.bfloat16),
    ],
)
def test_the_fast_way_says_the_same(batch):
    assert _plain_signature(batch) == signature(batch)


@pytest.mark.parametrize("batch", [{"x": floats(2)}, [floats(2), 3], None, "text", [[floats(2)]]])
def test_other_batches_are_left_to_the_thorough_way(batch):
    assert _plain_signature(batch) is None
