"""What comes from the Hugging Face hub: fetched once, checked, brought into the one layout, and locked."""

from clipeval.data.lock import Lock, expected_digests, read_lock, verify
from clipeval.download.cached import convert_cached
from clipeval.download.fetch import download
from clipeval.download.report import DownloadError, Report, Row

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
