"""The tensor warehouse: format, ETL, splits, manifest and reading."""
