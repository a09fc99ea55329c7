"""What came out: records, statistics, tables and pages. This package reads and writes records and knows no model."""
