"""Storage on loopback, for runs that are kept at addresses."""

from __future__ import annotations

from tests.data.conftest import bucket as bucket
from tests.data.conftest import s3 as s3
