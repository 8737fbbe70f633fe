"""One key pair for all tests."""

from pathlib import Path

import pytest

from invmm_gate.attest.keys import SigningKey, TrustRoots
from tests.attest.material import key_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigningKey, TrustRoots]:
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def key(pair: tuple[SigningKey, TrustRoots]) -> SigningKey:
    return pair[0]


@pytest.fixture(scope="session")
def roots(pair: tuple[SigningKey, TrustRoots]) -> TrustRoots:
    return pair[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
