"""The tables of the papers as data: the command line of each cell, and the paper's number."""
