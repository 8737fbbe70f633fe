"""What kind of disk a folder lies on: SQLite's locks and its write-ahead log need a local one."""

import re
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError

_MOUNTS: Final = Path("/proc/self/mountinfo")
_NETWORK: Final = frozenset(
    (
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.mount.nfs",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
        "orangefs", "smb3", "smbfs",
    )
)  # fmt: skip
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def refuse_network_disk(folder: Path, mounts: Path = _MOUNTS) -> None:
    """Raises ConfigError if the folder lies on a known network file system; where that cannot be told, it passes."""
    kind = file_system(folder, mounts)
    if kind in _NETWORK:
        raise ConfigError(
            f"{folder} lies on a network file system ({kind})",
            expected="a local disk: SQLite's locks do not hold there",
            do="give --state another folder",
        )


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system, as the kernel's table of mounts names it; empty where there is no such table."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real, found = folder.resolve(), (-1, "")
    for line in lines:
        before, _, after = line.partition(" - ")  # proc(5): mount point is field 5, the type the first after the dash
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split()[4]))
        if real.is_relative_to(point) and len(point.parts) >= found[0]:
            found = (len(point.parts), after.split()[0])
    return found[1]
