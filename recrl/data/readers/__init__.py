"""One file a format. A reader takes ``(source, options, bad_rows)`` and gives a log, or, where the source is split
already, a whole data set.

A new format is one file with a ``READER`` and one line here.
"""

from __future__ import annotations

READERS = {
    "amazon": "recrl.data.readers.amazon:READER",
    "minionerec": "recrl.data.readers.minionerec:READER",
    "recif": "recrl.data.readers.recif:READER",
    "synthetic": "recrl.data.readers.synthetic:READER",
}
