"""Tables in text files: CSV with any separator, TSV, JSON lines, a JSON list. Text stays text: no type is guessed.

What cannot be read for certain is an error that names the file and the line, or asks for `data.sep` or `data.encoding`.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipeval.configs.errors import ClipevalError, nearest
from clipeval.data.account import Account
from clipeval.data.known_columns import KnownColumn
from clipeval.data.values import has_column
from clipeval.results import safe_json

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a |"}
CSV_ENDINGS, JSON_ENDINGS = (".csv", ".tsv", ".tab", ".psv"), (".jsonl", ".ndjson", ".json")
_NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class TextTable:
    """Rows in the file's order.

    Attributes:
        path: the file.
        columns: their names.
        rows: {column: value}; of a CSV every value is text, of JSON what JSON says.
        lines: the line of the file on which each row begins, from 1.
    """

    path: Path
    columns: list[str]
    rows: list[Mapping[str, Any]]
    lines: list[int]

    def location(self, row: int) -> str:
        """A row, for people."""
        return f"{self.path}, line {self.lines[row]}"


def read_table(
    path: Path,
    needed: Sequence[str | KnownColumn],
    account: Account,
    sep: str | None = None,
    encoding: str | None = None,
) -> TextTable:
    """Reads a table.

    Args:
        path: its ending says whether it is a CSV (.csv, .tsv) or JSON (.jsonl, .json).
        needed: columns that it must have (dotted paths into structures of JSON); of a `KnownColumn`, one of its names.
        account: rows that cannot be read are unusable.
        sep: what separates columns; None: the one with which the header holds the needed columns.
        encoding: None: UTF-8, or what a byte order mark says.

    Raises:
        ClipevalError: the file is missing, of another kind, not decodable, or lacks a column.
    """
    if not path.is_file():
        raise ClipevalError(f"{path} is not a file; a table was expected, a .csv, .tsv or .jsonl file.")
    ending = path.suffix.lower()
    if ending not in (*CSV_ENDINGS, *JSON_ENDINGS):
        hint = (
            " A parquet file is read by task=hf_dataset, or of labels by task=labels." if ending == ".parquet" else ""
        )
        raise ClipevalError(f"{path}: a name that ends in .csv, .tsv or .jsonl was expected.{hint}")
    text = decode(path, encoding)
    if not text.strip():
        raise ClipevalError(f"{path} is empty; a table with the columns {', '.join(map(str, needed))} was expected.")
    is_json = ending in JSON_ENDINGS
    table = _read_json(path, text) if is_json else _read_csv(path, text, needed, account, _separator(sep, path))
    if not table.rows and not account.left_out:
        raise ClipevalError(f"{path} has a header and no rows.")
    for column in needed:
        if isinstance(column, str) and table.rows and not has_column(table.columns, column):
            hint = (
                ""
                if ending in JSON_ENDINGS
                else " The first line names the columns; data.sep says what separates them."
            )
            raise ClipevalError(f"{path}: {nearest('column', column, table.columns)}.{hint}")
    return table


def decode(path: Path, encoding: str | None = None) -> str:
    """A file's text.

    Raises:
        ClipevalError: it is missing or in another encoding; names the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ClipevalError(f"{path} is missing. Fetch the set with `clipeval download`.") from None
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    chosen = encoding or marked or "utf-8"
    try:
        text = data.decode(chosen)
    except LookupError:
        raise ClipevalError(
            f"data.encoding={chosen} is no encoding that Python knows; utf-8, latin-1, cp1252 are."
        ) from None
    except UnicodeError as problem:
        start = getattr(problem, "start", 0)
        line = data[:start].count(b"\n") + 1
        ask = (
            "Save it as UTF-8"
            if encoding
            else "Save it as UTF-8, or name its encoding, such as data.encoding=latin-1, cp1252 or utf-16"
        )
        raise ClipevalError(f"{path}, line {line}: not {chosen} (byte {start}). {ask}.") from None
    if "\0" in text:
        raise ClipevalError(
            f"{path} holds the character 0, as UTF-16 without a byte order mark does: say data.encoding=utf-16-le, or save it "
            "as UTF-8."
        )
    return text.removeprefix("\ufeff")


def lines_of(text: str) -> list[str]:
    """The lines of a text file: they end in a line feed, a carriage return or both, and in no other character.

    (`str.splitlines` also splits at U+2028 and other characters that a caption may hold.)
    """
    parts = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return parts[:-1] if parts and parts[-1] == "" else parts


def parse_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of JSON lines.

    Raises:
        ClipevalError: a line holds no JSON object, or one that says a key twice.
    """
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            value = safe_json.parse(line)
        except ValueError as problem:
            raise ClipevalError(f"{path}, line {number}: not JSON ({problem}).") from None
        if not isinstance(value, dict):
            raise ClipevalError(f"{path}, line {number}: a JSON object was expected.")
        yield number, value


def _read_json(path: Path, text: str) -> TextTable:
    if text.lstrip().startswith("["):  # one list, over several lines
        try:
            content = safe_json.parse(text)
        except ValueError as problem:
            raise ClipevalError(f"{path}: not JSON ({problem}).") from None
        if not all(isinstance(row, dict) for row in content):
            raise ClipevalError(f"{path}: a JSON list of objects was expected, a row each.")
        rows, lines = list(content), list(range(1, len(content) + 1))
    else:
        numbered = list(parse_lines(path, text))
        rows, lines = [row for _, row in numbered], [line for line, _ in numbered]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return TextTable(path, columns, rows, lines)


def _separator(sep: str | None, path: Path) -> str | None:
    if sep is None:
        return "\t" if path.suffix.lower() in (".tsv", ".tab") else "|" if path.suffix.lower() == ".psv" else None
    chosen = _NAMED.get(sep, sep)
    if len(chosen) != 1:
        raise ClipevalError(f"data.sep={sep!r}: one character was expected, or tab, comma, semicolon, pipe.")
    return chosen


def _read_csv(
    path: Path, text: str, needed: Sequence[str | KnownColumn], account: Account, sep: str | None
) -> TextTable:
    fitting = [s for s in ([sep] if sep else SEPARATORS) if not _missing(needed, _header(text, s))]
    if not fitting:
        shown = _header(text, sep or ",")
        missing = next(iter(_missing(needed, shown)))
        known = f"there is no column {missing}, only {', '.join(map(repr, shown))}"
        said = nearest("column", missing, shown) if isinstance(missing, str) else known
        raise ClipevalError(
            f"{path}, line 1: {said}. The first line names the columns; they are separated by "
            f"{SEPARATORS.get(sep, repr(sep)) if sep else 'commas, semicolons, tabs or |'} (data.sep=… says otherwise)."
        )
    if len(fitting) > 1 and "," not in fitting:
        raise ClipevalError(f"{path}, line 1: what separates the columns? Say data.sep=…, such as data.sep=';'.")
    chosen = "," if "," in fitting else fitting[0]
    columns, rows, lines = _records(path, text, chosen, account)
    return TextTable(path, columns, rows, lines)


def _missing(needed: Sequence[str | KnownColumn], columns: Sequence[str]) -> list[str | KnownColumn]:
    """What of the needed columns is not there."""
    return [c for c in needed if not (c in columns if isinstance(c, str) else c.among(columns))]


def _header(text: str, sep: str) -> list[str]:
    try:
        first = next(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=sep, strict=True), [])
    except csv.Error:
        return []
    return [name.strip() for name in first]


def _records(path: Path, text: str, sep: str, account: Account) -> tuple[list[str], list[Mapping[str, Any]], list[int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
    columns: list[str] = []
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    start = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as problem:
            raise ClipevalError(
                f"{path}, line {start}: a quoted field that begins there does not end as it must ({problem}). Close its quote, and "
                'write a quote inside a quoted field twice ("").'
            ) from None
        if record is None:
            return columns, rows, lines
        line, start = start, reader.line_num + 1
        if not record:
            continue  # a blank line
        if not columns:
            columns = [name.strip() for name in record]
            twice = next((name for name in columns if name and columns.count(name) > 1), None)
            if twice:
                raise ClipevalError(
                    f"{path}, line {line}: two columns are called {twice!r}; give each a name of its own."
                )
            continue
        # A first column without a name is the index that pandas writes; elsewhere, a field too many.
        unnamed = [value for name, value in zip(columns[1:], record[1:], strict=False) if not name and value.strip()]
        if len(record) != len(columns) or unnamed:
            what = f"{len(record)} fields, where the header names {len([c for c in columns if c])}"
            account.unusable(
                f"{path}, line {line}",
                what,
                f'A field that holds {SEPARATORS.get(sep, repr(sep))} is written in quotes ("…").',
            )
            continue
        rows.append({name: value for name, value in zip(columns, record, strict=True) if name})
        lines.append(line)
