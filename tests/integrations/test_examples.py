"""The examples of loops and trainers run; they state their own counts, by hand, and assert them."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.usefixtures("accelerate")
@pytest.mark.parametrize("name", ["fabric_loop", "accelerate_loop", "hf_trainer"])
def test_examples(name, tmp_path, monkeypatch, capsys):
    if name == "hf_trainer":
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(70, epochs=2)
    assert "operations (method 1)" in capsys.readouterr().out
