"""The registry's records: versions, tags and aliases. The one place that asks MLflow's registry for them."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.core.errors import RegistryError
from invmm_gate.registry.client.artefacts import Artefacts, Uploads, checkpoint_in
from invmm_gate.registry.client.connection import (
    as_default,
    asked,
    connect,
    registry_store,
    require_answer,
    transferring,
    unless_missing,
)
from invmm_gate.registry.client.locations import client_places
from invmm_gate.registry.client.registry_names import POSING, is_verdict_tag, safe_registry_name, version_label
from invmm_gate.tracking.server import DEFAULT_URI, absolute
from invmm_gate.tracking.spool import without_credentials

_PAGE: Final = 200
_NEWEST_FIRST: Final = ["creation_timestamp DESC"]
_POSES: Final = f"tags.`{POSING}` = 'true'"
_OF_PROMPTS: Final = ("dummy-source", "prompt-template")
"""The sources of MLflow's prompts: nothing can be loaded from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """A version of a registered model as the registry tells it. None of it is evidence of anything."""

    name: str
    version: str
    source: str
    """Where its files are said to lie; `locate` decides whether the gate goes there."""
    run_id: str | None
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    created_at_ms: int = 0

    @property
    def label(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"

    @property
    def file_label(self) -> str:
        """`name-v3`, as `version_label` has it."""
        return version_label(self.name, self.version)

    def __str__(self) -> str:
        """`name version 3`, for the log."""
        return f"{self.name} version {self.version}"


@final
class Registry:
    """One MLflow server or database. Every method raises RegistryError, soon, if it does not answer or refuses."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.uri = absolute(tracking_uri or DEFAULT_URI)
        self.artefacts = Artefacts(self.uri, client_places(self.uri, lambda: self._client, self.version))
        self.uploads = Uploads(self.uri, lambda: self._client)

    @property
    def shown(self) -> str:
        """The URI without credentials."""
        return without_credentials(self.uri)

    def require_answer(self) -> None:
        """Raise RegistryDownError unless the server answers within seconds."""
        require_answer(self.uri)

    def version(self, name: str, version: str) -> VersionRecord | None:
        """The version with its aliases; None if there is none of this number, or no more."""
        safe_registry_name(name)
        if not version.isdecimal():
            raise RegistryError(
                f"version {version!a} of {name} is no number", expected="a number, as the registry gives them"
            )
        with asked(self.uri, f"tell of {name}/{version}"):
            return find_version(self._records, name, version)

    def alias(self, name: str, alias: str) -> VersionRecord | None:
        """The version that an alias points at; None if there is no such alias."""
        found = self.aliases(safe_registry_name(name)).get(alias)
        return None if found is None else self.version(name, found)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version number; empty if the model does not exist."""
        with asked(self.uri, f"tell of {name}'s aliases"):
            model = unless_missing(lambda: self._records.get_registered_model(name))
            return {str(alias): str(number) for alias, number in model.aliases.items()} if model else {}

    def versions(self, names: Sequence[str] = (), *, limit: int = 1000) -> Iterator[VersionRecord]:
        """Versions of the named models, by default of all, newest first, at most `limit`.

        Names that the gate does not work on are listed as well where none was asked for. So are models that pose as
        prompts (tag POSING), which MLflow's own lists leave out; prompts are not, unless they were named.
        """
        filters: list[str | None] = [f"name = '{safe_registry_name(name)}'" for name in names]
        streams = [self._pages(one) for one in filters or [None]]
        posing = (record for one in filters or [None] for record in self._posing(one))
        streams.append(iter(sorted(posing, key=lambda record: -record.created_at_ms)))
        merged = heapq.merge(*streams, key=lambda record: -record.created_at_ms)
        aliases: dict[str, dict[str, str]] = {}
        for _, record in zip(range(limit), merged, strict=False):
            if record.name not in aliases:  # searches do not tell them
                aliases[record.name] = self.aliases(record.name)
            own = sorted(alias for alias, number in aliases[record.name].items() if number == record.version)
            yield replace(record, aliases=tuple(own))

    def _posing(self, one: str | None) -> Iterator[VersionRecord]:
        tagged: dict[str, dict[str, VersionRecord]] = {}
        for record in self._pages(f"{one} and {_POSES}" if one else _POSES):
            tagged.setdefault(record.name, {})[record.version] = record
        for name, known in tagged.items():
            records = self._one_by_one(name, known)
            if one or any(record.source not in _OF_PROMPTS for record in records):
                yield from records

    def _one_by_one(self, name: str, known: Mapping[str, VersionRecord]) -> list[VersionRecord]:
        """All versions of a model, by their numbers: the search tells only of those that carry the tag."""
        with asked(self.uri, "list its versions"):
            store = self._records
            newest = max(int(version.version) for version in store.get_registered_model(name).latest_versions)
            numbers = [str(number) for number in range(1, newest + 1)]
            found = [known.get(number) or find_version(store, name, number) for number in numbers]
        return [record for record in found if record is not None]

    def _pages(self, one: str | None) -> Iterator[VersionRecord]:
        token: str | None = None
        while True:
            with asked(self.uri, "list its versions"):
                page = self._records.search_model_versions(
                    filter_string=one, max_results=_PAGE, order_by=_NEWEST_FIRST, page_token=token
                )
            yield from (record_of(item) for item in page)
            token = page.token
            if not token:
                return

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set the tags one after the other, in their order."""
        self.require_answer()
        for key, value in tags.items():
            # a guard may first hash the version's files
            waiting = transferring() if is_verdict_tag(key, value) else nullcontext()
            with asked(self.uri, f"set tag {key} of {name}/{version}"), waiting:
                self._client.set_model_version_tag(name, version, key, value)

    def delete_tag(self, name: str, version: str, key: str) -> None:
        """Delete a tag; one that is not there is no error."""
        with asked(self.uri, f"delete tag {key} of {name}/{version}"):
            unless_missing(lambda: self._client.delete_model_version_tag(name, version, key))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version and read it back. Raises RegistryError if it then points elsewhere."""
        self.require_answer()
        with asked(self.uri, f"point alias {alias} at {name}/{version}"), transferring():
            self._client.set_registered_model_alias(name, alias, version)
        found = self.aliases(name).get(alias)
        if found != version:
            raise RegistryError(
                f"alias {alias} of {name} points at version {found} after it was set to {version}",
                expected="an alias that nobody else moves",
                do="find out who moves it, then gate the version again",
            )

    def delete_alias(self, name: str, alias: str) -> None:
        """Delete an alias; one that is not there is no error."""
        with asked(self.uri, f"delete alias {alias} of {name}"):
            self._client.delete_registered_model_alias(name, alias)

    def create_version(self, name: str, source: str, *, tags: Mapping[str, str], run_id: str | None) -> VersionRecord:
        """A new version, of a new model if need be."""
        safe_registry_name(name)
        with asked(self.uri, f"create a version of {name}"):
            client = self._client
            try:
                client.create_registered_model(name)
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                    raise
            with as_default(self.uri):
                made = client.create_model_version(
                    name,
                    source,
                    run_id=run_id,
                    tags=dict(tags),
                    await_creation_for=0,
                    model_id=source.removeprefix("models:/") if source.startswith("models:/m-") else None,
                )
            return record_of(made)

    def fetch(self, source: str, target: Path, *, label: str = "") -> Path:
        """The checkpoint of a source such as `models:/m-...` in a fresh folder `target`, of plain files only.

        With `label` its folder is called so, and nothing is named after a temporary one. Raises ModelError if other
        files lie beside the checkpoint.
        """
        checkpoint = checkpoint_in(self.artefacts.download(source, target))
        return checkpoint.rename(checkpoint.parent / label) if label and checkpoint.is_dir() else checkpoint

    @cached_property
    def _client(self) -> Any:
        self.require_answer()
        return connect(self.uri)

    @cached_property
    def _records(self) -> Any:
        _ = self._client  # which imports MLflow, or says what to install
        return registry_store(self.uri)


def find_version(store: Any, name: str, version: str) -> VersionRecord | None:
    """The version as one of MLflow's stores has it; None if there is none."""
    found = unless_missing(lambda: store.get_model_version(name, version))
    return None if found is None else record_of(found)


def record_of(item: Any) -> VersionRecord:
    """A version as MLflow's client or store gives it."""
    return VersionRecord(
        name=str(item.name),
        version=str(item.version),
        source=str(item.source or ""),
        run_id=str(item.run_id) if item.run_id else None,
        tags={str(key): str(value) for key, value in (item.tags or {}).items()},
        aliases=tuple(sorted(str(alias) for alias in item.aliases or ())),
        created_at_ms=int(item.creation_timestamp or 0),
    )
