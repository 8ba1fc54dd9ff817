"""The file of a model: what may be in it, and what its texts may not do."""

import json
from html.parser import HTMLParser

import pytest
from disclosures import PF, entry, made, model, segment
from ledgers import header, totals, write
from markdown_it import MarkdownIt
from parents import checkpoint, parent

from computemeter.disclosure import DisclosureError
from computemeter.disclosure.entries import Base
from computemeter.disclosure.model import read_model
from computemeter.disclosure.plain import to_dict
from computemeter.disclosure.text import markdown
from computemeter.disclosure.totals import assemble

# The file of a model.


def test_a_model_of_everything(tmp_path):
    segment(tmp_path / "pre", "a", head={"name": "pre", "base_model": "b"})
    write(tmp_path / "tune", header("t", "tune", name="tune"), totals(device_seconds=10.0))
    found = model(
        tmp_path,
        """
        scope = "the 1B model of March"
        [[run]]
        path = "pre"
        planned_steps = 20
        [[run]]
        id = "tune"
        source = "tune"
        category = "excluded"
        reason = "an ablation"
        [[base]]
        name = "b"
        flops = 9e16
        source = "its model card"
        error = 0.3
        [[manual]]
        name = "questions"
        category = "synthetic_data"
        parameters = 1e6
        tokens = 1e9
        source = "the vendor's invoice"
        energy_kwh = 2
        """,
    )
    # Data is made by one pass: 2 x 1e6 x 1e9 = 2e15.
    assert (found.training.flops, found.synthetic_data.flops) == (10 * PF, 2 * PF)
    assert (found.base.flops, found.total.flops) == (90 * PF, 102 * PF)
    assert found.projected.flops == 112 * PF
    text = markdown(found)
    assert "| no (a third is 3.0e16) | 2.0e16 | no |" in text  # 10 of 30 PF; planned are 20
    assert "| 1,000,000 | 1,000,000,000 | given by hand as 2 x P x D x 1 passes; " in text
    assert "| tune | 1.0e15 (1,000,000,000,000,000) | an ablation |" in text
    assert "- Energy: 2 kWh as given by hand; of 1 more not known" in text
    assert json.loads(json.dumps(to_dict(found)))["scope"] == "the 1B model of March"


MANUAL = '[[manual]]\nname="x"\nsource="s"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing to report"),
        ("nam = 1", r"unknown key 'nam' \(did you mean 'name'\?\); accepted are name, scope, run"),
        ("name = 1", "Cannot overwrite a value"),
        ("run = 1", r"run: write it as \[\[run\]\]"),
        ("[[run]]\ncateogry = 1", r"run 1: unknown key 'cateogry' \(did you mean 'category'\?\)"),
        ("[[run]]", "run 1: give either a path, or an id and a source"),
        ('[[run]]\nid = "x"', "run 1: an id and a source belong together"),
        ('[[run]]\npath = "none"', "run 1: .*none: No such file or directory"),
        ('[[run]]\nid = "x"\nsource = "none"', "run 1: .*none.*no such file or folder"),
        (MANUAL, "manual 1: it has no figure: give flops, or parameters and tokens, or devices"),
        (MANUAL + "flops = -3", "manual 1: flops = -3: accepted is a number above 0"),
        (MANUAL + "flops = nan", "manual 1: flops = nan: accepted"),
        (MANUAL + "flops = true", "manual 1: flops = True: accepted"),
        (MANUAL + "flops = 1e200", "manual 1: flops = 1e.200: accepted"),
        (MANUAL + "flops = 1\ncategory = 'data'", "category = 'data': accepted are training, syn"),
        (MANUAL + "flops = 1\ncategory = 'excluded'", "an excluded entry needs a reason"),
        (MANUAL + "flops = 1\nreason = 'why'", "reason is for what is excluded"),
        (MANUAL + "flops = 1\ntokens = 2", "give either flops or tokens"),
        (MANUAL + "parameters = 2", "tokens is missing: accepted is a number above 0"),
        (MANUAL + "hours = 2\ndevices = 1.5", "devices = 1.5: accepted is a whole number"),
        (MANUAL + "hours = 2\ndevice_hours = 1", "give either device_hours, or devices and hours"),
        (
            MANUAL + "device_hours = 2\npeak_flops = 1\nutilization = 33",
            r"utilization = 33: accepted is a share above 0 and at most 1 \(0.33, not 33\)",
        ),
        ('[[manual]]\nname = "x"\nflops = 1', "manual 1: source is missing: accepted is a text"),
        ('[[base]]\nname = "x"\nflops = 1', "base 1: source is missing"),
        ('[[base]]\nreceipt = "none"', "base 1: .*none: there is no compute_receipt.json with it"),
        # 1 device-hour at 1 FLOP/s is 3,600 FLOP.
        (
            MANUAL + "flops = 7200\ndevice_hours = 1\npeak_flops = 1\nutilization = 0.5",
            "x claims 2x what its devices can do",
        ),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(DisclosureError, match=message) as raised:
        model(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'model.toml'}: ")
    assert "\n" not in str(raised.value)


def test_a_base_that_is_a_checkpoint_counts_as_its_own_weights(tmp_path):
    _, receipt = parent(tmp_path)  # 70 FLOP in the end
    checkpoint(tmp_path / "early.ckpt", "8c2b", run_flops=50)
    made = model(tmp_path, '[[base]]\nreceipt = "early.ckpt"')
    [base] = made.bases
    assert (base.name, base.flops, base.receipt) == ("small", 50, receipt.hash)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DisclosureError, match=r"none.toml: No such file or directory"):
        read_model(tmp_path / "none.toml")


def test_a_run_may_be_in_a_model_once(tmp_path):
    segment(tmp_path / "led", "a")
    twice = '[[run]]\npath = "led"\n[[run]]\nid = "r"\nsource = "led"'
    with pytest.raises(DisclosureError, match="run r is there twice"):
        model(tmp_path, twice)


def test_more_steps_than_planned(tmp_path):
    segment(tmp_path / "led", "a")
    with pytest.raises(
        DisclosureError, match="run 1: planned_steps = 9: 10 steps have run already"
    ):
        model(tmp_path, '[[run]]\npath = "led"\nplanned_steps = 9')


# Untrusted texts.

NASTY = [
    "<script>alert(1)</script>",
    "[click](http://evil.example) ![x](http://evil.example/x.png)",
    "a | b \\| c **bold** `code` $x$ # *",
    "line\n\n# heading\n- item",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_untrusted_texts_stay_texts(nasty):
    def document(text):
        return markdown(
            assemble(
                text,
                [
                    entry(name=text, source=text, diagnosis=text, verdict="warn", status=text,
                          notes=(text,), cause="count_suspect"),
                    entry(name=text, run="s", segments=(), category="excluded", reason=text),
                    entry(name=text, run=None, segments=(), origin="manual", source=text),
                ],
                [Base(name=text, flops=1, source=text)],
                scope=text,
            )
        )  # fmt: skip

    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    plain, marked = parser.parse(document("x")), parser.parse(document(nasty))
    assert [token.type for token in marked] == [token.type for token in plain]
    types = {child.type for token in marked for child in token.children or []}
    assert types <= {"text", "strong_open", "strong_close", "softbreak"}
    assert " ".join(nasty.split()) in shown_by_a_browser(parser.render(document(nasty)))


def shown_by_a_browser(markup):
    parts = []
    reader = HTMLParser()
    reader.handle_data = parts.append
    reader.feed(markup)
    return " ".join("".join(parts).split())


def test_a_password_in_a_source_is_not_repeated():
    text = markdown(made(entry(source="postgresql://ann:s3cret@host/db")))
    assert "s3cret" not in text
