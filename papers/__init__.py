"""The papers' tables: as data, as command lines, and as what the logs say of them."""
