"""The zip container of model files, read with bounded resources. ``_atomic.py`` has the atomic writing."""

import contextlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from mlx_baselines3._atomic import atomic_open, target_path

__all__ = [
    "ArchiveReader",
    "Content",
    "ModelFileError",
    "atomic_open",
    "bounded_json",
    "printable",
    "target_path",
    "write_entries",
]

# Bytes, or pieces that are written in order, so that they need not be in memory at once.
Content = bytes | Iterable[bytes | memoryview]

# Errors that `zipfile` and `zlib` raise for invalid bytes.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    IndexError,
)
_MAX_ENTRIES = 4096
# Entries re-compressed with `zip` are still read, but a small file must not unpack to a huge one.
_EXPANSION_FACTOR = 4
_EXPANSION_SLACK = 16 * 2**20
# The encoder's depth plus the nesting of a single encoded value.
_MAX_DEPTH = 256
# Python needs about sixty bytes for a value of two characters ("[]"). Compressed JSON can be much longer than
# the file, so beyond this number of values the file itself must be proportionally long.
_FREE_VALUES = 200_000
# A name in a file can be as long as the file.
_MAX_MESSAGE = 8000
# A fixed date for all entries, so that the same model gives the same bytes.
_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)


class ModelFileError(ValueError):
    """
    The file is not a model archive, is corrupted, or comes from a newer version of the format.

    :param message: the error; the middle of long texts, such as names in a file, is omitted
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """
    Make a text with parts of a file safe for a terminal.

    :param text: the text
    :return: the text, without its middle if it is long, and with escapes for unprintable characters (control
        characters, surrogates) other than line ends and tabs
    """
    if len(text) > _MAX_MESSAGE:
        text = f"{text[: _MAX_MESSAGE * 3 // 4]} [...] {text[-_MAX_MESSAGE // 4 :]}"
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text
    )


def bounded_json(text: str, available: int, what: str) -> Any:
    """
    Parse JSON with memory in proportion to the length of its file.

    :param text: the JSON
    :param available: length of the file in bytes
    :param what: the beginning of an error message, including a verb
    :return: its value
    :raises ModelFileError: if it is not JSON, nested too deeply, or has too many values for the file
    """
    values = text.count(",") + text.count("[") + text.count("{")
    if values > max(_FREE_VALUES, available):
        raise ModelFileError(f"{what} {values} values, too many for a file of {available} bytes.")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} not JSON ({error}).") from error
    _check_depth(parsed, what)
    return parsed


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ModelFileError(f"{what} nested more than {_MAX_DEPTH} deep.")


def write_entries(stream: IO[bytes], entries: Mapping[str, Content]) -> None:
    """
    Write a zip of uncompressed entries.

    :param stream: binary file to write to
    :param entries: name and contents of each entry, in order
    """
    with zipfile.ZipFile(stream, mode="w") as archive:
        for name, contents in entries.items():
            info = zipfile.ZipInfo(name, _ENTRY_DATE)
            info.external_attr = 0o600 << 16
            if isinstance(contents, bytes):
                archive.writestr(info, contents)
                continue
            # The length is not known beforehand.
            with archive.open(info, "w", force_zip64=True) as entry:
                for piece in contents:
                    entry.write(piece)


class ArchiveReader:
    """
    Reads the entries of a zip that may have been corrupted or forged.

    Every size is checked against the length of the file before anything is allocated, and nothing is ever
    unpacked to disk.

    :param stream: seekable binary file
    :param label: name of the file in error messages
    :raises ModelFileError: if it is not a zip, is truncated, or declares impossible entries

    Its attribute ``length`` is the length of the file in bytes.
    """

    def __init__(self, stream: IO[bytes], label: str) -> None:
        self.label = label
        try:
            self.length = stream.seek(0, io.SEEK_END)
            if self.length == 0:
                # Devices report length 0 too, and may yield endless bytes.
                raise ValueError("it is empty")
            self._zip = zipfile.ZipFile(stream)
        except _ZIP_ERRORS as error:
            raise ModelFileError(
                f"Error: the file {label} wasn't a zip-file or is truncated ({error})."
            ) from error
        self._entries: dict[str, zipfile.ZipInfo] = {}
        self._check_entries()

    @property
    def names(self) -> list[str]:
        """Names of the entries, in the order of the file."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """
        Read a whole entry and check its CRC.

        :param name: name of the entry
        :return: its contents
        :raises ModelFileError: if it is absent or corrupted
        """
        info = self._entries.get(name)
        if info is None:
            raise ModelFileError(f"{self.label}: the entry '{name}' is missing.")
        try:
            with self._zip.open(info) as entry:
                # With an explicit size, because read() without one inflates before it checks the declared
                # size.
                contents = entry.read(info.file_size)
                complete = len(contents) == info.file_size and not entry.read(1)
        except _ZIP_ERRORS as error:
            raise ModelFileError(f"{self.label}: the entry '{name}' is corrupted ({error}).") from error
        if not complete:
            raise ModelFileError(f"{self.label}: the entry '{name}' is not as long as it says.")
        return contents

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """
        Read an entry piece by piece. Its CRC is checked at its end.

        :param name: name of the entry
        :return: a context manager giving a binary file
        :raises ModelFileError: if the entry is absent, or corrupted as far as it is read
        """
        info = self._entries.get(name)
        if info is None:
            raise ModelFileError(f"{self.label}: the entry '{name}' is missing.")
        try:
            with self._zip.open(info) as entry:
                yield entry
        except ModelFileError:
            raise
        except _ZIP_ERRORS as error:
            raise ModelFileError(f"{self.label}: the entry '{name}' is corrupted ({error}).") from error

    def size(self, name: str) -> int:
        """
        :param name: name of an entry
        :return: its length in bytes, according to the archive
        :raises ModelFileError: if it is absent
        """
        if name not in self._entries:
            raise ModelFileError(f"{self.label}: the entry '{name}' is missing.")
        return self._entries[name].file_size

    def text(self, name: str) -> str:
        """
        Read one entry as UTF-8.

        :param name: name of the entry
        :return: its text
        :raises ModelFileError: if it is absent, corrupted or not UTF-8
        """
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{self.label}: the entry '{name}' is not text ({error}).") from error

    def _check_entries(self) -> None:
        infos = self._zip.infolist()
        if len(infos) > _MAX_ENTRIES:
            raise ModelFileError(f"{self.label}: {len(infos)} entries, at most {_MAX_ENTRIES} were expected.")
        for info in infos:
            self._check_entry(info)
            if info.filename in self._entries:
                raise ModelFileError(f"{self.label}: the entry '{info.filename}' occurs twice.")
            self._entries[info.filename] = info
        stored = sum(info.compress_size for info in infos)
        declared = sum(info.file_size for info in infos)
        if stored > self.length or declared > _EXPANSION_FACTOR * self.length + _EXPANSION_SLACK:
            raise ModelFileError(
                f"{self.label}: its entries claim {declared} bytes ({stored} packed), but the file has only "
                f"{self.length}."
            )

    def _check_entry(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if not name or name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise ModelFileError(f"{self.label}: unsafe entry name {name!r}.")
        if info.flag_bits & 0x1:
            raise ModelFileError(f"{self.label}: the entry '{name}' is encrypted, which is not supported.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelFileError(f"{self.label}: the entry '{name}' is packed in an unknown way.")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise ModelFileError(f"{self.label}: the entry '{name}' has two different sizes.")
