"""Evaluators that return ``{task: {metric: value}}``, and pictures of what a model finds."""
