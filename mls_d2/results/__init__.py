"""The schema of ``results.json``: written by transfer runs, read by reports."""
