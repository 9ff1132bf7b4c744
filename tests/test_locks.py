"""The lock on the folder of a run."""
import pathlib
import subprocess
import sys

import pytest
from helpers import QUICK, ROOT

import cifar
import tables
from engine import runs


def test_lock_is_for_one_and_leaves_no_empty_folder(tmp_path):
    with runs.lock('a/b/c'):
        assert tables.locked('a/b/c') and not tables.locked('a/b')
        with pytest.raises(tables.InputError, match='another process is at work on a/b/c'):
            with runs.lock('a/b/c'):
                pass
        (tmp_path / 'a/kept').write_text('')
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['a', 'kept']
    assert not tables.locked('a/b/c') and not (tmp_path / 'a/b').exists()
    with pytest.raises(ZeroDivisionError), runs.lock('x/y'):
        (tmp_path / 'x/y/log.txt').write_text('')
        raise ZeroDivisionError
    assert [p.name for p in (tmp_path / 'x/y').iterdir()] == ['log.txt']
    with pytest.raises(runs.InputError, match='a/kept/b is not a folder'), runs.lock('a/kept/b'):
        pass


def test_lock_ends_with_its_process():
    code = f'''
import sys
sys.path.insert(0, {str(ROOT)!r})
from engine import runs
with runs.lock('a'):
    print('held', flush=True)
    sys.stdin.read()
'''
    holder = subprocess.Popen([sys.executable, '-c', code], text=True, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    assert holder.stdout.readline() == 'held\n'
    assert tables.locked('a')
    with pytest.raises(tables.InputError), runs.lock('a'):
        pass
    holder.kill()
    holder.communicate()
    assert pathlib.Path('a/lock').exists() and not tables.locked('a')
    with runs.lock('a'):
        assert tables.locked('a')


def test_lock_of_a_file_that_was_just_removed_is_none(monkeypatch):
    """Between opening and locking the holder lets go; who took that file would be alone with it."""
    real, calls = runs.fcntl.flock, []

    def flock(*args):
        calls.append(args)
        if len(calls) == 1:
            pathlib.Path('a/lock').unlink()
        real(*args)

    monkeypatch.setattr(runs.fcntl, 'flock', flock)
    with runs.lock('a'):
        assert len(calls) == 2 and pathlib.Path('a/lock').exists()


def test_second_process_is_refused(fails, tmp_path):
    """By the script itself, before anything is read or written."""
    with runs.lock('logs/a'):
        status, said = fails(cifar.main, '--save', 'logs/a', *QUICK)
    assert status == 2 and 'another process is at work on logs/a' in said
    assert not (tmp_path / 'logs').exists()
