"""What the scripts need of the machine.

Processes and threads, Ctrl-C, files that are written whole, downloads, clocks.
"""
