"""What the pipeline calls the functions of `nenni_core.files`."""

from nenni_core.files import (
    read_json,
    sha256_of,
    sync_file,
    sync_folder,
    write_atomically,
    write_csv,
    write_json,
)

__all__ = [
    "read_json",
    "sha256_of",
    "sync_file",
    "sync_folder",
    "write_atomically",
    "write_csv",
    "write_json",
]
