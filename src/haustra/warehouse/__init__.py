"""The tensor warehouse: its format, building it, and reading it."""
