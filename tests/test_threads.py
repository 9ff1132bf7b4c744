"""The number of threads: on an imitated machine, and (slow) beside real busy loops."""
import subprocess
import sys
import time
import types

import pytest
import torch
from helpers import ROOT

from engine import runs
from system import threads

FREE, BUSY = {4: .2, 2: .35, 1: .6}, {4: 8., 2: 3., 1: .7}


class Machine:
    """A clock that steps move by what they take with so many threads."""

    def __init__(self, monkeypatch, most=4, fixed=False):
        self.now, self.threads, self.takes = 0., most, FREE
        monkeypatch.setattr(threads, 'time', types.SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(torch, 'get_num_threads', lambda: self.threads)
        monkeypatch.setattr(torch, 'set_num_threads', self.use)
        self.pace = threads.Pace(most, fixed)

    def use(self, n):
        self.threads = n

    def steps(self, n):
        """-> the numbers of threads of n steps."""
        found = []
        for _ in range(n):
            self.pace.begin()
            found.append(self.threads)
            self.now += self.takes[self.threads]
            self.pace.end()
        return found


def test_on_free_cores_all_threads_stay(monkeypatch):
    machine = Machine(monkeypatch)
    found = machine.steps(1000)
    assert found.count(4) >= 998 and machine.pace.most_used() == 4


def test_beside_a_busy_neighbour_the_threads_become_fewer_and_come_back(monkeypatch):
    machine = Machine(monkeypatch)
    machine.steps(20)
    machine.takes = BUSY
    found = machine.steps(60)
    assert found[-5:].count(1) >= 4 and found.count(4) <= 6
    assert sum(BUSY[n] for n in found) < 3 * 60 * FREE[1]
    assert machine.pace.most_used() in (4, 1)
    machine.takes = FREE
    machine.steps(round(5 * threads.LATEST))
    assert machine.steps(1) == [4]


def test_a_machine_that_is_busy_from_the_start(monkeypatch):
    machine = Machine(monkeypatch)
    machine.takes = BUSY
    assert machine.steps(20)[-1] == 1


def test_a_neighbour_that_stays_costs_little(monkeypatch):
    machine = Machine(monkeypatch)
    machine.takes = BUSY
    machine.steps(20)
    taken = sum(BUSY[n] for n in machine.steps(200))
    assert taken < 1.6 * 200 * BUSY[1]


def test_one_slow_step_changes_nothing(monkeypatch):
    machine = Machine(monkeypatch)
    machine.steps(20)
    machine.takes = {4: 5.}
    machine.steps(1)
    machine.takes = FREE
    assert set(machine.steps(20)) == {4}


@pytest.mark.parametrize('how', [dict(most=4, fixed=True), dict(most=1)])
def test_a_number_that_is_fixed(how, monkeypatch):
    machine = Machine(monkeypatch, **how)
    machine.takes = BUSY
    assert len(set(machine.steps(50))) == 1 and machine.pace.most_used() == how['most']


@pytest.mark.slow
def test_busy_neighbours_do_not_stop_a_training():
    """A busy loop on each of two cores: an epoch takes at most three times as long. (The processes
    have two threads, whatever this one has.)"""
    def train(name):
        subprocess.run([sys.executable, ROOT / 'cifar.py', '--dataset', 'shapes', '--batch_size',
                        '64', '--epochs', '4', '--save', name], check=True, timeout=600,
                       env={'OMP_NUM_THREADS': '2'})
        lines = runs.read_log(f'{name}/log.txt')[1:]
        return min(z['train_time'] for z in lines[1:]), [z['threads'] for z in lines]

    free, _ = train('free')
    loops = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(2)]
    try:
        time.sleep(1)
        busy, threads = train('busy')
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    print(f'{free:.1f} s on free cores, {busy:.1f} s beside two busy loops, threads {threads}')
    assert busy < 3 * free
