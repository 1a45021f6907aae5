"""One module per question; ``python -m experiments.<name> --help`` prints its flags.

XLA prints a page of processor features as an error whenever it loads a CPU program from the compilation
cache, on the very machine that compiled it; the level below silences that. It is read when jaxlib loads, so
it is set here.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
