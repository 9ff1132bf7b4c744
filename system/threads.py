"""How many threads compute, so that a busy neighbour does not stop a training on a CPU.

Threads that share an operation wait for one another. When another program takes one of the cores,
all wait for the thread that lost it, and a step with two threads may take ten times as long as with
one. So the number of threads follows the time that steps take.
"""
import collections
import statistics
import time

import torch

SLOWER = 1.4    # times the best recent step: when steps take this long, fewer threads are tried
FASTER = .9     # times the usual step: what is tried is better, if its steps take less
AGAIN = 2.      # seconds until more threads are tried again, doubled whenever they are no better,
LATEST = 30.    # up to this
TRIAL = 2       # steps


class Pace:
    """The number of threads of the steps of a run: begin() before a step, end() after it.

    It starts at `most`, and is halved and doubled from there, down to one. How many threads a step
    has, and with it the last bits of a sum, differs from run to run; if `fixed`, it is `most`.
    """

    def __init__(self, most, fixed=False):
        self.numbers = [most >> k for k in range(1 if fixed else most.bit_length())]   # halved
        self.now, self.trial, self.tried = 0, None, []
        self.times, self.best = collections.deque(maxlen=3), None
        self.since, self.patience = time.perf_counter(), AGAIN
        self.steps, self.used = 0, collections.Counter()

    def begin(self):
        """Set the number of threads of a step, and start its clock."""
        self.number = self.numbers[self.now if self.trial is None else self.trial]
        if len(self.numbers) > 1 and self.number != torch.get_num_threads():
            torch.set_num_threads(self.number)       # which takes milliseconds
        self.started = time.perf_counter()

    def end(self):
        """Stop the clock of a step, and choose the number of threads of the next one."""
        taken = time.perf_counter() - self.started
        self.used[self.number] += 1
        self.steps += 1
        if len(self.numbers) == 1 or self.steps == 1:      # the first one is slow for other reasons
            return
        if self.trial is None:
            self.times.append(taken)
            self.trial = self.to_try()
        else:
            self.tried.append(taken)
            if len(self.tried) == TRIAL or taken > SLOWER * statistics.median(self.times):
                self.decide()

    def to_try(self):
        """Choose what to try next, or None: fewer threads at first or if slow; at times more."""
        if len(self.times) < self.times.maxlen:
            return None
        slow = self.best is None or min(self.times) > SLOWER * self.best
        self.best = min(self.best or min(self.times), *self.times)
        if slow and self.now + 1 < len(self.numbers):
            return self.now + 1
        waited = time.perf_counter() - self.since
        return self.now - 1 if self.now and waited > self.patience else None

    def decide(self):
        """Keep the tried number, if its steps were faster than usual, or else try again later."""
        usual = statistics.median(self.times)
        if min(self.tried) < FASTER * usual:
            self.now, self.patience, self.best = self.trial, AGAIN, None
            self.times.clear()
        else:
            self.best = usual       # this is what a step takes, for now
            self.patience = min(2 * self.patience, LATEST)
        self.trial, self.tried, self.since = None, [], time.perf_counter()

    def most_used(self):
        """Return the number of threads that most steps had since the last call."""
        counts, self.used = self.used, collections.Counter()
        return max(counts, key=counts.get, default=self.numbers[self.now])
