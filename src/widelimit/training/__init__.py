"""Data, training steps, in-jit sweeps over (learning rate x seed), checkpoints and result rows."""

from widelimit.training.checkpoint import Checkpoint
from widelimit.training.cli import main
from widelimit.training.compilation import enable_compilation_cache
from widelimit.training.cost import Mode, choose_mode
from widelimit.training.environment import describe_environment
from widelimit.training.files import json_safe, read_json, write_atomic, write_json
from widelimit.training.losses import accuracy, cross_entropy, mse
from widelimit.training.program import Problem
from widelimit.training.progress import Progress
from widelimit.training.results import Results, open_results
from widelimit.training.rows import RowLog, column, pivot
from widelimit.training.sweep import SweepResult, sweep

__all__ = [
    "Checkpoint",
    "Mode",
    "Problem",
    "Progress",
    "Results",
    "RowLog",
    "SweepResult",
    "accuracy",
    "choose_mode",
    "column",
    "cross_entropy",
    "describe_environment",
    "enable_compilation_cache",
    "json_safe",
    "main",
    "mse",
    "open_results",
    "pivot",
    "read_json",
    "sweep",
    "write_atomic",
    "write_json",
]
