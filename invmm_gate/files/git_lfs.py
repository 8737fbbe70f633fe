"""Files that Git LFS has left in place of large ones: a few lines of text where weights or an image are expected."""

from typing import Final

_BEGINS: Final = b"version https://git-lfs.github.com/spec/"
FETCH: Final = "run 'git lfs pull' in the clone, or download the file again"
"""What to do about one."""


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins so is a pointer and not the file itself."""
    return head.startswith(_BEGINS)
