"""From ``results.json`` files to tables and plots; reads nothing but files."""
