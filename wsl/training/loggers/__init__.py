"""Loggers: what is told of a training's scalars beside metrics.jsonl, one per file."""
