"""Predictions as Parquet: the same rows give the same bytes, so that a file's digest speaks of its content."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

LARGEST = 2**34
"""Bytes of a table of predictions, unpacked. That of ImageNet's validation set has 5 MB."""


def encode(predictions: pd.DataFrame) -> bytes:
    """The table's bytes. The index is dropped, and so is pandas' own metadata, which names library versions."""
    table = pa.Table.from_pandas(predictions, preserve_index=False).replace_schema_metadata(None)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", version="2.6", write_page_checksum=True)
    return sink.getvalue()


def decode(content: bytes, rows: int | None = None) -> pd.DataFrame:
    """The table again, as its columns alone say: metadata of pandas or Arrow, of which `encode` writes none, is not read.

    Args:
        content: the bytes.
        rows: how many the table has to have, by its record; None: any number.

    Raises:
        ValueError: they are no such table (`pyarrow.ArrowInvalid`), or one that is larger than its record and `LARGEST` allow.
        OSError: they are damaged.
    """
    with pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True, arrow_extensions_enabled=False) as file:
        about = file.metadata
        if rows is not None and about.num_rows != rows:
            raise ValueError(f"it has {about.num_rows:,} rows, and its record says {rows:,}")
        size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
        if size > LARGEST:
            raise ValueError(f"it unpacks to {size:,} bytes, and {LARGEST:,} are the most that are read")
        frame: pd.DataFrame = file.read().replace_schema_metadata(None).to_pandas(ignore_metadata=True)
    return frame
