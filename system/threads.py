"""How many threads compute, so that a busy neighbour does not stop a training on a CPU.

Threads that share an operation wait for one another. When something else runs on one of the cores,
all wait for the one that was set aside, and a step with two threads may take ten times as long as
one with a single thread. So the number follows the time that steps take.
"""
import collections
import statistics
import time

import torch

SLOWER = 1.4    # times the best step of late: then fewer threads are tried
FASTER = .9     # of the usual step: then what was tried is better
AGAIN = 2.      # seconds until more threads are tried again, doubled whenever they are no better,
LATEST = 30.    # up to this
TRIAL = 2       # steps


class Pace:
    """The number of threads of the steps of a run: begin() before a step, end() after it.

    It starts at `most` and moves by halves and doubles, down to one. Which step has how many is not
    the same in every run, and with it the last bits of a sum: if `fixed`, it is always `most`.
    """

    def __init__(self, most, fixed=False, clock=time.perf_counter, use=torch.set_num_threads,
                 used=torch.get_num_threads):
        self.numbers, self.clock, self.use, self.in_use = [most], clock, use, used
        while self.numbers[-1] > 1 and not fixed:
            self.numbers.append(self.numbers[-1] // 2)
        self.now, self.trial, self.tried = 0, None, []
        self.times, self.best = collections.deque(maxlen=3), None
        self.since, self.patience = clock(), AGAIN
        self.steps, self.used = 0, collections.Counter()

    def begin(self):
        """Set the number of threads of a step that begins, and start the clock."""
        self.number = self.numbers[self.now if self.trial is None else self.trial]
        if len(self.numbers) > 1 and self.number != self.in_use():
            self.use(self.number)       # which takes milliseconds
        self.started = self.clock()

    def end(self):
        """Take the time of a step that ends, and choose the number of threads of the next one."""
        taken = self.clock() - self.started
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
        """Choose which number to try next, or None: fewer threads at first, and when steps have
        become slow; more from time to time."""
        if len(self.times) < self.times.maxlen:
            return None
        slow = self.best is None or min(self.times) > SLOWER * self.best
        self.best = min(self.best or min(self.times), *self.times)
        if slow and self.now + 1 < len(self.numbers):
            return self.now + 1
        return self.now - 1 if self.now and self.clock() - self.since > self.patience else None

    def decide(self):
        """Keep what was tried, if it is faster than what is usual, else wait longer with the next
        try."""
        usual = statistics.median(self.times)
        if min(self.tried) < FASTER * usual:
            self.now, self.patience, self.best = self.trial, AGAIN, None
            self.times.clear()
        else:
            self.best = usual       # this is what a step takes, for now
            self.patience = min(2 * self.patience, LATEST)
        self.trial, self.tried, self.since = None, [], self.clock()

    def most_used(self):
        """Return the number of threads that most steps had since the last call."""
        counts, self.used = self.used, collections.Counter()
        return max(counts, key=counts.get, default=self.numbers[self.now])
