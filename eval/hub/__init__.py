"""What comes from the Hugging Face hub: fetched once, checked, brought into the one layout, and locked."""

from eval.hub.cached import convert_cached
from eval.hub.fetch import download
from eval.hub.lock import Lock, expected_digests, read_lock, verify
from eval.hub.report import DownloadError, Report, Row

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
