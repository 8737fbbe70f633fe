"""A reviewer approves the waivers of a file. No torch."""

import datetime
from pathlib import Path

from invmm_gate.attest.keys import load_signing_key
from invmm_gate.attest.waiver_approval import approval_file, approve
from invmm_gate.core.errors import ConfigError
from invmm_gate.files.atomic import write_whole
from invmm_gate.policy.waivers import load_waivers


def approve_waivers(waivers: Path, *, key: Path, now: datetime.datetime) -> tuple[Path, int]:
    """Sign a waivers file as its reviewer: the approval beside it, and how many waivers it covers.

    Raises ConfigError, also for a waiver that is not for one probe of one model.
    """
    signing_key = load_signing_key(key)
    found = load_waivers(waivers)
    if not found:
        raise ConfigError(f"{waivers} holds no waivers", expected="at least one to approve")
    try:
        envelope = approve(found, signing_key, now=now)
    except ConfigError as error:
        raise ConfigError(f"{waivers}: {error.found}", expected=error.expected, do=error.do) from error
    path = approval_file(waivers)
    write_whole(path, envelope)
    return path, len(found)
