"""What is no table of peaks, and what a table of one's own may hold."""

import pytest

from computemeter.peak_table import by_alias, find, read_table


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("name = 3\naliases = []\ntflops = { fp32 = 1 }", "name must be a text, not 3"),
        ('name = "x"\naliases = "abc"\ntflops = { fp32 = 1 }', "a list of names, not 'abc'"),
        ('name = "x"\naliases = [3]\ntflops = { fp32 = 1 }', r"a list of names, not \[3\]"),
        ('name = "x"\naliases = [" "]\ntflops = { fp32 = 1 }', "a list of names"),
        ('name = "x"\naliases = []\ntflops = 3', r"x: tflops must be TFLOP/s by precision"),
        ('name = "x"\naliases = []\ntflops = {}', r"x: tflops must be TFLOP/s by precision"),
        ('name = "x"\naliases = []\ntflops = { fp32 = nan }', "a positive number, not nan"),
        ('name = "x"\naliases = []\ntflops = { fp32 = inf }', "a positive number, not inf"),
        ('name = "x"\naliases = []\ntflops = { fp32 = true }', "a positive number, not True"),
        (
            'name = "x"\naliases = []\ntflops = { fp32 = 1 }\nmig_slices = 0',
            "mig_slices must be a positive number, not 0",
        ),
        (
            'name = "x"\naliases = []\ntflops = { fp32 = 1 }\ndevices_per_board = 1.5',
            "devices_per_board must be a whole number, not 1.5",
        ),
        ('name = "x"\naliases = []\ntflops = { fp32 = 1 }\nsource = 1', "source must be a text"),
        ('name = "x"\ntflops = { fp32 = 1 }', "x: aliases missing"),
        ('name = "x"\naliases = []\ntflops = { fp32 = 1 }\ncolour = "red"', "x: colour not known"),
        ('name = "x"\naliases = []\ntflops = { fp33 = 1 }', "not fp33"),
        ('name = "x"\naliases = []\ntflops = { fp32 = 0 }', "fp32 must be a positive number"),
        ('name = "x"\naliases = []\ntflops = { fp32 = "1" }', "must be a positive number, not '1'"),
        (
            'name = "x"\naliases = []\ntflops = { fp32 = 1 }\ndevices_per_board = 0',
            "devices_per_board must be a positive number",
        ),
    ],
)
def test_a_wrong_row_is_refused_by_name(row, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_table(f"[[device]]\n{row}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"a \[\[device\]\] for each device, and this one has none"),
        ("device = 3", "has none"),
        ("device = [1]", "has none"),
        ("device = []", "has none"),
        ("[device]\nname = 'x'", "has none"),  # one bracket too few
        ("[[devices]]\nname = 'x'", r"\[\[device\]\] alone, not devices"),
        ("[[device]", "Expected"),
        ("name = ", "Invalid value"),
    ],
)
def test_what_is_no_table_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_table(text)


def test_a_slice_may_have_a_row_of_its_own():
    row = '[[device]]\nname = "{}"\naliases = ["{}"]\ntflops = {{ fp32 = {} }}\nmig_slices = 7\n'
    text = row.format("x", "Z9", 7) + row.format("y", "Z9 MIG 1g.5gb", 1.1)
    index = by_alias(read_table(text))
    assert find("NVIDIA Z9 MIG 1g.5gb", index).peaks == {"fp32": 1.1e12}
    assert find("NVIDIA Z9 MIG 2g.10gb", index).peaks == {"fp32": 2e12}  # 2 of 7
    assert find("NVIDIA Z8 MIG 2g.10gb", index) is None


def test_an_alias_belongs_to_one_row():
    row = '[[device]]\nname = "{}"\naliases = ["NVIDIA Z9"]\ntflops = {{ fp32 = 1 }}\n'
    with pytest.raises(ValueError, match="'z9' is an alias of x and y"):
        read_table(row.format("x") + row.format("y"))


def test_a_table_of_ones_own_needs_three_keys():
    (entry,) = read_table('[[device]]\nname = "Z9"\naliases = ["z9"]\ntflops = { fp32 = 2.5 }')
    assert entry.peaks == {"fp32": 2.5e12}
