"""Text as tokens, without a download: this Python's own library, your files, or a file of tokens; batches."""

from widelimit.training.data.corpus.read_text import text
from widelimit.training.data.corpus.read_tokens import token_file
from widelimit.training.data.corpus.sampling import token_batch, windows
from widelimit.training.data.corpus.tokens import Tokens

__all__ = ["Tokens", "text", "token_batch", "token_file", "windows"]
