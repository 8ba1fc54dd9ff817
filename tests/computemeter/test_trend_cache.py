"""The cache: gives back what it was given, and whatever is wrong with a file, it is thrown away."""

import multiprocessing
import os
import runpy
import sqlite3
import stat
import time
import zlib
from contextlib import closing

import numpy as np
import pytest
from team_runs import run, segmented

from computemeter.trend import cache as caching
from computemeter.trend.cache import RunCache

SOURCE = "http://ann:s3cret@host:5000"


def cache(folder, source=SOURCE, options=""):
    return RunCache(source, options, folder=folder)


def filled(folder, *runs, at=None):
    memory = cache(folder)
    for each in runs:
        memory.remember(each.run_id, f"stamp of {each.run_id}", each)
    memory.completed(time.time() if at is None else at, None)
    memory.save()
    return memory


def test_runs_and_reasons_come_back_as_they_were(tmp_path):
    big = run("a", run_flops=12_345_678_901_234_567_890_123_457, ratio=0.1 + 0.2, name="caf\udce9")
    memory = filled(tmp_path, big, segmented())
    memory.remember("c", "stamp", "no device")
    memory.save()
    again = cache(tmp_path)
    assert again.stamps() == {"a": "stamp of a", "b": "stamp of b", "c": "stamp"}
    assert again.recall(["a", "c", "b"]) == [big, "no device", segmented()]
    assert again.read_at(None) == memory.read_at(None)


def test_of_all_lots_each_run_comes_back_in_its_place_and_a_text_once(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "_LOT", 2)
    runs = [segmented(), *(run(f"r{n}", user="ann") for n in range(4))]
    filled(tmp_path, *runs)
    found = cache(tmp_path).recall([each.run_id for each in runs])
    assert found == runs
    assert len({id(each.user) for each in found[1:]}) == 1


def test_a_run_that_is_forgotten_or_changed_is(tmp_path):
    filled(tmp_path, run("a"), run("b"))
    memory = cache(tmp_path)
    memory.forget(["a", "never seen"])
    memory.remember("b", "later", run("b", run_flops=7))
    memory.save()
    assert cache(tmp_path).stamps() == {"b": "later"}
    assert cache(tmp_path).recall(["b"])[0].run_flops == 7


def test_sources_and_options_have_caches_of_their_own_and_no_password_is_kept(tmp_path):
    filled(tmp_path, run())
    assert cache(tmp_path, "http://host:5000").stamps() == {}
    assert cache(tmp_path, options="4xA100").stamps() == {}
    assert cache(tmp_path, "http://ann:another@host:5000").stamps()  # as it is shown
    (path,) = tmp_path.iterdir()
    assert b"s3cret" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_relative_database_is_another_in_another_folder(tmp_path, monkeypatch):
    paths = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        paths.add(cache(tmp_path, "sqlite:///mlflow.db").path)
    assert len(paths) == 2


def test_a_reading_since_a_day_is_none_of_earlier_runs(tmp_path):
    memory = cache(tmp_path)
    memory.completed(time.time(), 1000.0)
    memory.save()
    again = cache(tmp_path)
    assert again.read_at(None) is again.read_at(999.0) is None
    assert again.read_at(1000.0) == again.read_at(2000.0) == memory.read_at(1000.0)


def test_after_a_week_everything_is_read_again(tmp_path, monkeypatch):
    filled(tmp_path, run(), at=time.time() - caching.KEPT_SECONDS + 60)
    assert cache(tmp_path).stamps()
    filled(tmp_path, run())  # a later reading makes what is there no younger
    later = time.time() + 120
    monkeypatch.setattr(caching.time, "time", lambda: later)
    assert cache(tmp_path).stamps() == {}


def damage_none(path):
    path.write_bytes(b"")


def damage_other(path):
    path.write_bytes(b"hello, no database at all" * 99)


def damage_torn(path):
    path.write_bytes(path.read_bytes()[:5000])


def damage_flipped(path):
    data = bytearray(path.read_bytes())
    data[data.rindex(b"finished")] = ord("t")
    path.write_bytes(data)


def damage_clock(path):
    path.unlink()
    filled(path.parent, run("later"), at=time.time() + 9999)


@pytest.mark.parametrize(
    "damage", [damage_none, damage_other, damage_torn, damage_flipped, damage_clock]
)
def test_a_damaged_file_is_thrown_away(tmp_path, damage):
    path = filled(tmp_path, *[run(str(n)) for n in range(50)]).path
    damage(path)
    memory = cache(tmp_path)
    assert (memory.stamps(), memory.read_at(None)) == ({}, None)
    memory.remember("new", "stamp", run("new"))
    memory.completed(time.time(), None)
    memory.save()
    assert cache(tmp_path).recall(["new"]) == [run("new")]
    assert set(cache(tmp_path).stamps()) == {"new"}


def replaced(path, packed):
    """Put another row in a run's place, with the right checksum."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("update runs set record = ?, crc = ?", (packed, zlib.crc32(packed)))


@pytest.mark.parametrize(
    "packed", [b"xyz", b"\xff", b"5", b"[]", b"[1,2]", b"{}", b"[" * 10**5, b"[[" + b"0," * 26]
)
def test_a_row_that_cannot_be_read_is_a_damaged_file(tmp_path, packed):
    replaced(filled(tmp_path, run()).path, packed)
    assert cache(tmp_path).stamps() == {}
    filled(tmp_path, run())
    assert cache(tmp_path).recall(["a"]) == [run()]


class Text(str):
    """As a library may return in place of a text."""

    __slots__ = ()


def test_a_run_that_cannot_be_written_is_read_again_and_the_others_are_kept(tmp_path):
    filled(tmp_path, run("i"))
    odd = {"run_flops": np.int64(3)}, {"device_seconds": np.float32(1.5)}, {"tags": {b"k": "v"}}
    filled(tmp_path, *[run("io8"[n], **facts) for n, facts in enumerate(odd)], run("\ud800"))
    filled(tmp_path, run("a", device_seconds=np.float64(0.1), name=Text("net")))
    again = cache(tmp_path)
    assert set(again.stamps()) == {"a"}
    (known,) = again.recall(["a"])
    assert known == run("a", device_seconds=0.1, name="net")
    assert (type(known.device_seconds), type(known.name)) == (float, str)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o777, 0o720])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_others_could_have_written_is_not_read_and_made_anew(tmp_path, what, mode):
    folder = tmp_path / "runs"
    path = filled(folder, run()).path
    (path if what == "file" else folder).chmod(mode)
    assert cache(folder).stamps() == {}
    filled(folder, run("b"))
    assert set(cache(folder).stamps()) == {"b"}
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, path)] == [0o700, 0o600]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such owners")
def test_a_folder_of_another_user_is_not_read_and_an_os_error(tmp_path, monkeypatch):
    memory = filled(tmp_path, run())
    monkeypatch.setattr(caching.os, "getuid", lambda: os.geteuid() + 1)
    assert cache(tmp_path).stamps() == {}
    with pytest.raises(OSError, match="another user's"):
        memory.save()


def test_a_version_has_a_cache_of_its_own(tmp_path, monkeypatch):
    # It may make other records of the same runs.
    monkeypatch.setattr("computemeter._version.__version__", "99")
    later = runpy.run_path(caching.__file__)["RunCache"]
    assert later(SOURCE, folder=tmp_path).path != cache(tmp_path).path


def test_files_that_nobody_uses_any_more_are_removed(tmp_path):
    old = tmp_path / "old.sqlite"
    old.touch()
    os.utime(old, (0, 0))
    path = filled(tmp_path, run()).path
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").touch()
    memory = cache(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        memory.save()


def _fill(folder, name):
    for n in range(20):
        filled(folder, *[run(f"{name}-{n}-{each}") for each in range(20)])


def test_two_processes_at_once_damage_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(cache(tmp_path).stamps()) == 2 * 20 * 20
