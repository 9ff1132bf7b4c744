"""What the scripts need of the machine.

Several processes, and how many threads compute; Ctrl-C; files that are written whole; downloads,
checked by their sha256; clocks, and what the machine can do at best.
"""
