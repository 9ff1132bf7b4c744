"""The training loop and what is around it.

A step and its CUDA graph; epochs of one run or several; the folder that a run leaves, and plots of
it; tests and predictions of a net from a file; flags and exit status of scripts.
"""
