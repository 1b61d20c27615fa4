"""``adaptive``: for each stretch of a bitmap the shortest of five ways to name its pages.

What a driver would do: set a bit per page, as the seed patch does. Walk the bitmap once, word by
word, and keep five sums: the fewest bytes that lead up to this word if its pages are named as runs
of their own (8 bytes each), as runs behind a head (4 each), as single pages behind a head (2 each),
as bits behind a head (8 per word), or in a list of page numbers at the end of the message (4 each);
a head is 8 bytes, and follows the cheapest of the five. Remember per word, in a byte, which of the
five began anew, and which was cheapest before. Walk back along the cheapest, and write. The table
of bits stands in `balloonlab.kernels.adaptive`.

Every other format here names its pages by one of these ways, or by a dearer one, so none is shorter
by more than some heads per bitmap of 32 GiB. What the device gets is sorted and merged, but the
pages of the list.
"""

from __future__ import annotations

from ..kernels.adaptive import PFN_LIMIT
from ..kernels.bitmap_v4 import RECORD_WORDS
from ..kernels.formats import Decoding, Encoding
from .bitmap_v4 import max_kicks
from .features import Feature
from .format import Format

ADAPTIVE = Format(
    name="adaptive",
    encoding=Encoding.SEGMENTS,
    decoding=Decoding.SEGMENTS,
    max_message_bytes=8 * RECORD_WORDS,
    pfn_limit=PFN_LIMIT,
    discard="range",
    feature=Feature.PAGE_BITMAP,
    max_kicks=max_kicks,
)
