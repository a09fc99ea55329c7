"""What comes from the Hugging Face hub: fetched once, checked, brought into the one layout, and locked."""

from clipeval.hub.cached import convert_cached
from clipeval.hub.fetch import download
from clipeval.hub.lock import Lock, expected_digests, read_lock, verify
from clipeval.hub.report import DownloadError, Report, Row

__all__ = [
    "DownloadError",
    "Lock",
    "Report",
    "Row",
    "convert_cached",
    "download",
    "expected_digests",
    "read_lock",
    "verify",
]
