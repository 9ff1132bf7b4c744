"""The papers' tables as data, and what comes of them.

Modules of tables, which `catalogue` joins; the commands of their runs; the results in the runs'
logs, as tables, pictures and pages.
"""
