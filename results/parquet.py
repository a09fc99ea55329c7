"""Predictions as Parquet: the same rows give the same bytes, so that a file's digest speaks of its content."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def encode(predictions: pd.DataFrame) -> bytes:
    """The table's bytes. The index is dropped, and so is pandas' own metadata, which names library versions."""
    table = pa.Table.from_pandas(predictions, preserve_index=False).replace_schema_metadata(None)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", version="2.6", write_page_checksum=True)
    return sink.getvalue()


def decode(content: bytes) -> pd.DataFrame:
    """The table again. Raises `pyarrow.ArrowInvalid` or `OSError` for bytes that are none."""
    frame: pd.DataFrame = pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pandas()
    return frame
