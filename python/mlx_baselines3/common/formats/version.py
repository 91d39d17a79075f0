"""Which version of this package, and of its format, an archive is of."""

from mlx_baselines3._system_info import get_system_info
from mlx_baselines3._version import __version__
from mlx_baselines3.common.formats.archive import ArchiveReader, ModelFileError

__all__ = ["FORMAT_VERSION", "check_format", "version_entries"]

FORMAT_VERSION = 1


def version_entries() -> dict[str, bytes]:
    """:return: entries that say which version of this package, and of the format, an archive is of"""
    return {
        "_mlx_baselines3_version": __version__.encode(),
        "format": str(FORMAT_VERSION).encode(),
        "system_info.txt": get_system_info(print_info=False)[1].encode(),
    }


def check_format(archive: ArchiveReader) -> None:
    """
    :param archive: an archive of this package
    :raises ModelFileError: if it is in a newer format, or does not say in which
    """
    version = archive.text("format")
    if not version.isascii() or not version.isdigit() or not 1 <= int(version[:9]) <= FORMAT_VERSION:
        raise ModelFileError(
            f"{archive.label} is in format {version!r:.20} (written by mlx_baselines3 "
            f"{archive.text('_mlx_baselines3_version'):.20}); this version reads up to {FORMAT_VERSION}. "
            "Update mlx-baselines3 to load it."
        )
