"""Letters for texts of property tests. Hypothesis' own alphabet is all of Unicode, of which a new checkout
makes a table first: a second in each worker.
"""

from __future__ import annotations

from typing import Final

LETTERS: Final = (*map(chr, range(0x250)), "\u2028", "\u3042", "\ufeff", "\uffff", "\U0001f600")
LATIN: Final = LETTERS[:256]  # what a header may be
