"""Data without a download: digits, the user's own CIFAR-10 or arrays, synthetic tasks, text; and batches."""

from widelimit.training.data.batches import batch_indices, batch_table
from widelimit.training.data.corpus import Tokens, text, token_batch, token_file, windows
from widelimit.training.data.dataset import Dataset
from widelimit.training.data.labelled import TargetKind
from widelimit.training.data.read_cifar10 import cifar10
from widelimit.training.data.read_digits import digits
from widelimit.training.data.read_npz import npz
from widelimit.training.data.synthetic import gaussian_teacher, power_law, single_index

__all__ = [
    "Dataset",
    "TargetKind",
    "Tokens",
    "batch_indices",
    "batch_table",
    "cifar10",
    "digits",
    "gaussian_teacher",
    "npz",
    "power_law",
    "single_index",
    "text",
    "token_batch",
    "token_file",
    "windows",
]
