"""What the scripts need of the machine: processes, threads, Ctrl-C, files, downloads, clocks."""
