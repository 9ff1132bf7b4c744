"""The papers' tables as data, the commands of their runs, and the results in the runs' logs."""
