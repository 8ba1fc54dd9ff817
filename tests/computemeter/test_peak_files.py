"""Where a user's own peaks are found, and what a wrong file does."""

import sys
from pathlib import Path

import pytest

from computemeter import peak_files
from computemeter.peak_files import PeakFile, config_file, reason, user_file

ROW = '[[device]]\nname = "{name}"\naliases = ["z9"]\ntflops = {{ fp32 = 1 }}\n'


@pytest.fixture(autouse=True)
def config_folder(monkeypatch, tmp_path):
    if sys.platform != "linux":
        pytest.skip("only Linux takes its config folder from the environment")
    monkeypatch.delenv("COMPUTEMETER_PEAKS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "computemeter"
    folder.mkdir(parents=True)
    peak_files._warn_once.cache_clear()
    return folder


def test_without_a_file_nothing_is_wrong(caplog):
    assert user_file() == (None, "")
    assert caplog.messages == []


def test_the_config_folder_is_looked_into(config_folder):
    assert config_file() == config_folder / "peaks.toml"
    config_file().write_text(ROW.format(name="from the folder"))
    file, problem = user_file()
    assert (file.name, problem) == ("peaks.toml", "")
    assert file.find("NVIDIA Z9").name == "from the folder"
    assert file.find("Z9").source == "peaks.toml"


def test_the_environment_comes_before_the_folder(config_folder, monkeypatch, tmp_path):
    config_file().write_text(ROW.format(name="from the folder"))
    named = tmp_path / "named.toml"
    named.write_text(ROW.format(name="named"))
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(named))
    assert user_file()[0].find("Z9").name == "named"
    monkeypatch.setenv("COMPUTEMETER_PEAKS", "")  # not set
    assert user_file()[0].find("Z9").name == "from the folder"


def test_a_home_may_be_written_as_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.toml").write_text(ROW.format(name="at home"))
    monkeypatch.setenv("COMPUTEMETER_PEAKS", "~/mine.toml")
    assert user_file()[0].find("Z9").name == "at home"


def test_a_file_that_is_named_and_missing_is_a_warning(monkeypatch, tmp_path, caplog):
    path = tmp_path / "folder" / "gone.toml"
    monkeypatch.setenv("COMPUTEMETER_PEAKS", str(path))
    file, problem = user_file()
    assert file is None
    assert problem == "COMPUTEMETER_PEAKS: gone.toml is not used: No such file or directory"
    assert user_file() == (None, problem)
    assert len(caplog.messages) == 1
    assert str(tmp_path) not in caplog.text  # its name, not where it is


@pytest.mark.parametrize("damage", [b"[[device]", b"\xff\xfe", b"x = 1", b""])
def test_a_damaged_file_in_the_folder_is_a_warning(damage):
    config_file().write_bytes(damage)
    file, problem = user_file()
    assert file is None
    assert problem.startswith("peaks: peaks.toml in the config folder is not used: ")
    assert "\n" not in problem


def test_a_folder_in_the_files_place_is_a_warning():
    config_file().mkdir()
    assert user_file()[1].endswith("Is a directory")


def test_reading_a_file_by_hand_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        PeakFile.read(tmp_path / "none.toml")
    (tmp_path / "wrong.toml").write_text("[[device]]\nname = 'x'")
    with pytest.raises(ValueError, match="x: aliases, tflops missing"):
        PeakFile.read(str(tmp_path / "wrong.toml"))


def test_a_reason_is_one_line_without_a_path():
    assert reason(PermissionError(13, "Permission denied", "/home/me/x")) == "Permission denied"
    assert reason(ValueError("two\nlines")) == "two lines"


def test_the_projects_own_table_is_a_file_of_that_form():
    import computemeter

    path = Path(computemeter.__file__).parent / "data" / "peaks.toml"
    assert len(PeakFile.read(path).entries) == 170
