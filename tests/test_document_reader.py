"""The reader of pages, and what holds them against the program: what is broken is found."""

import re

import pytest
from document_commands import check, run_ours
from document_setups import run_page
from documents import (
    ROOT,
    Command,
    DocumentError,
    Part,
    check_link,
    check_sentence,
    command_of,
    commands,
    parts,
)

BROKEN = """\
# A page

Some `code`, then [a link](#a-page),
a [dead one](#no-such) and [another](nowhere.md).

```python
good = 1
```

=== "A tab"

    ```python
    bad = good / 0
    ```

Then

    computemeter estimate --parameters 3.8B \\
        --tokens 3.3T --bad

and `computemeter runs --sinse 90d`.
"""


@pytest.fixture
def page(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(BROKEN)
    return file


def found(page, kind):
    return [part for part in parts(page) if part.kind == kind]


def test_blocks_have_their_lines(page):
    blocks = [(part.line, part.language) for part in found(page, "block")]
    assert blocks == [(7, "python"), (13, "python"), (18, "")]


def test_a_broken_block_is_found_at_its_line(page):
    with pytest.raises(DocumentError, match=r"page\.md:13: ZeroDivisionError: division by zero"):
        run_page(page, {})
    page.write_text("```python\nx = 1\nif x\n```\n")
    with pytest.raises(DocumentError, match=r"page\.md:3: SyntaxError"):
        run_page(page, {})
    page.write_text("```python\nraise SystemExit(0)\n```\n")
    with pytest.raises(DocumentError, match=r"page\.md:2: SystemExit"):
        run_page(page, {})


def test_other_output_than_the_page_shows_is_found(page):
    page.write_text("```python\nprint('ab c')\n```\n\n```text\na... d\n```\n")
    with pytest.raises(DocumentError, match=r"page\.md:6: it does not print this, but: ab c"):
        run_page(page, {})
    page.write_text(page.read_text().replace("d\n", "c\n"))
    run_page(page, {})


@pytest.mark.parametrize("printed", ["alarm, none, 9.5e+03x: fine", "agree, none, 2x: poor"])
def test_a_verdict_may_have_other_numbers_or_be_another(page, printed):
    page.write_text(
        f"```python\nprint('{printed}')\n```\n\n```text\nalarm, none, 12.5x: fine\n```\n"
    )
    run_page(page, {}, compare=check_sentence)


def test_a_verdict_in_other_words_is_found(page):
    page.write_text(
        "```python\nprint('warn, none, 2x: a b')\n```\n\n```text\nwarn, none, 2x: a c\n```\n"
    )
    with pytest.raises(DocumentError, match=r"page\.md:6: the sentence is: warn, none, 2x: a b"):
        run_page(page, {}, compare=check_sentence)


def test_a_set_up_without_its_block_is_found(page):
    page.write_text("```python\nx\n```\n")
    run_page(page, {"x": lambda: {"x": 1}})
    with pytest.raises(DocumentError, match="no block has the text"):
        run_page(page, {"x": lambda: {"x": 1}, "stale": dict})


def test_a_broken_option_is_found(page):
    (block,) = [part for part in found(page, "block") if not part.language]
    (command,) = commands(block)
    assert command.words[:2] == ("computemeter", "estimate")
    with pytest.raises(DocumentError, match=r"page\.md:18: No such option: --bad"):
        check(command)
    (named,) = filter(None, map(command_of, found(page, "code")))
    with pytest.raises(DocumentError, match=r"page\.md:21: no such option: --sinse"):
        check(named, named=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("computemeter estimat --tokens 3", "no such command: estimat"),
        ("computemeter push compute_ledger", "Missing option '--to'"),
        ("pip install 'computemeter[tend]'", "no such extra: tend"),
        ("make dmo", "No rule to make target"),
        ("python examples/nothing.py", "no such file: examples/nothing.py"),
        ("mlflow ui --backend-stor-uri x", "No such option"),
        ("frobnicate --all", "no command"),
    ],
)
def test_a_command_that_is_none_is_found(line, said):
    block = Part(ROOT / "page.md", 3, "block", f"{line}\n")
    with pytest.raises(DocumentError, match=f"page.md:3: .*{re.escape(said)}"):
        check(*commands(block))


def test_a_command_that_fails_or_prints_something_else_is_found():
    words = ("computemeter", "estimate", "--parameters", "1M", "--tokens", "1M")
    run_ours(Command("page.md:3", words, ("/ 8.64e19 FLOP per pfs-day = 6.9e-8 pfs-days",)))
    with pytest.raises(DocumentError, match="it does not print: 7 TFLOP"):
        run_ours(Command("page.md:3", words, ("7 TFLOP",)))
    with pytest.raises(DocumentError, match="--tokens"):
        run_ours(Command("page.md:3", words[:4]))


def test_dead_links_are_found(page):
    good, no_heading, no_file = found(page, "link")
    check_link(good)
    with pytest.raises(DocumentError, match=r"page\.md:4: no such heading: #no-such"):
        check_link(no_heading)
    with pytest.raises(DocumentError, match=r"page\.md:4: no such file: nowhere\.md"):
        check_link(no_file)


def test_an_object_of_the_reference_is_an_anchor(page):
    page.write_text("::: computemeter.Meter\n    options:\n\n[a](#computemeter.Meter.step)\n\n"
                    "[b](#computemeter.Meter.stop)\n")  # fmt: skip
    good, bad = found(page, "link")
    check_link(good)
    with pytest.raises(DocumentError, match="no such heading"):
        check_link(bad)
