"""The actions of others that are used, each at one commit, and the inputs that they take there.

Commits and inputs were read from the tags of the actions' own repositories. A newer commit (Dependabot proposes them)
is entered here too, with its inputs.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Pinned:
    commit: str
    version: str
    takes: str

    @property
    def inputs(self) -> frozenset[str]:
        return frozenset(self.takes.split())


PINNED: Final = {
    "actions/checkout": Pinned(
        "3d3c42e5aac5ba805825da76410c181273ba90b1",
        "v7.0.1",
        "repository ref token ssh-key ssh-known-hosts ssh-strict ssh-user persist-credentials path clean filter "
        "sparse-checkout sparse-checkout-cone-mode fetch-depth fetch-tags show-progress lfs submodules "
        "set-safe-directory github-server-url allow-unsafe-pr-checkout",
    ),
    "actions/setup-python": Pinned(
        "5fda3b95a4ea91299a34e894583c3862153e4b97",
        "v7.0.0",
        "python-version python-version-file cache architecture check-latest token cache-dependency-path "
        "update-environment allow-prereleases freethreaded pip-version",
    ),
    "actions/setup-node": Pinned(
        "820762786026740c76f36085b0efc47a31fe5020",
        "v7.0.0",
        "node-version node-version-file architecture check-latest registry-url scope token cache "
        "package-manager-cache cache-dependency-path mirror mirror-token",
    ),
    "actions/upload-artifact": Pinned(
        "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f",
        "v7.0.0",
        "name path if-no-files-found retention-days compression-level overwrite include-hidden-files archive",
    ),
    "github/codeql-action/upload-sarif": Pinned(
        "8aad20d150bbac5944a9f9d289da16a4b0d87c1e",
        "v4.36.2",
        "sarif_file checkout_path ref sha token matrix category wait-for-processing",
    ),
}
