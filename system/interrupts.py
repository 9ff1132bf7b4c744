"""Ctrl-C, in one place: it ends a script with one line and status 130, whatever it is doing.

Python raises KeyboardInterrupt wherever the interpreter happens to be, perhaps in a destructor or a
callback of a library that drops exceptions. So it is also noted, and loops `check` the note.
"""
import os
import signal
import time

TWICE = 1       # seconds: the terminal and a launcher may both send what was one Ctrl-C
noted = 0.      # when the first one came


def catch():
    """Let SIGINT raise KeyboardInterrupt here, but not in forked workers, which end with us."""
    global noted
    owner, noted = os.getpid(), 0.

    def handle(signum, frame):
        global noted
        again = noted and time.monotonic() - noted < TWICE
        if os.getpid() == owner and not again:
            noted = time.monotonic()
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)


def check():
    """Raise the KeyboardInterrupt that was dropped, if one was."""
    if noted:
        raise KeyboardInterrupt
