"""The names of the files of a run directory that are read without its model."""

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
