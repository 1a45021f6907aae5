"""Data, training steps, in-jit sweeps over (learning rate x seed), checkpoints and result rows."""

from widelimit.training.cli import main
from widelimit.training.environment import describe_environment
from widelimit.training.files import json_safe, read_json, write_atomic, write_json
from widelimit.training.progress import Progress
from widelimit.training.results import Results, open_results
from widelimit.training.rows import RowLog, column, pivot

__all__ = [
    "Progress",
    "Results",
    "RowLog",
    "column",
    "describe_environment",
    "json_safe",
    "main",
    "open_results",
    "pivot",
    "read_json",
    "write_atomic",
    "write_json",
]
