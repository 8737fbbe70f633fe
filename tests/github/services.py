"""Stand-ins for GitHub's own actions: each checks what the real one would refuse, and keeps what it was given."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


class ServiceError(ValueError):
    """The real action would fail here."""


@dataclass
class Services:
    """What reached GitHub in one run of a workflow."""

    artifacts: Path
    sarif: list[Path] = field(default_factory=list)
    refuse_sarif: bool = False
    """Code scanning is switched off in the repository."""

    def use(self, action: str, given: dict[str, str]) -> dict[str, str]:
        """Run the named action; its outputs. An action that is not known here is an error."""
        return ACTIONS[action](self, given)


def _set_up_python(_: Services, given: dict[str, str]) -> dict[str, str]:
    if not re.fullmatch(r"3\.\d+", given["python-version"]):
        raise ServiceError(f"no Python {given['python-version']}")
    return {"python-path": sys.executable}


def _upload_artifact(services: Services, given: dict[str, str]) -> dict[str, str]:
    path = Path(given["path"])
    if given["archive"] != "false" or not path.is_file():
        raise ServiceError(f"{path} is not a file that can be uploaded as it is")
    if not re.fullmatch(r"|\d{1,3}", given["retention-days"]):
        raise ServiceError(f"retention-days {given['retention-days']!r}")
    target = services.artifacts / path.name
    if target.exists() or re.search(r'[":<>|*?\r\n\\/]', path.name):
        raise ServiceError(f"artifact name {path.name!r}")
    shutil.copyfile(path, target)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    number = str(len(list(services.artifacts.iterdir())))
    url = f"https://git.example/artifacts/{number}"
    return {"artifact-id": number, "artifact-url": url, "artifact-digest": digest}


def _upload_sarif(services: Services, given: dict[str, str]) -> dict[str, str]:
    if services.refuse_sarif:
        raise ServiceError("code scanning is not enabled for this repository")
    if json.loads(Path(given["sarif_file"]).read_text())["version"] != "2.1.0":
        raise ServiceError("not SARIF 2.1.0")
    services.sarif.append(Path(given["sarif_file"]))
    return {"sarif-id": "1"}


ACTIONS: Final[dict[str, Callable[[Services, dict[str, str]], dict[str, str]]]] = {
    "actions/setup-python": _set_up_python,
    "actions/upload-artifact": _upload_artifact,
    "github/codeql-action/upload-sarif": _upload_sarif,
}
