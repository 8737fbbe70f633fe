"""The queue's tables and its longer statements."""

from typing import Final

SCHEMA: Final = 2
"""A file of another layout is refused."""
TABLES: Final = """
CREATE TABLE owner (id TEXT NOT NULL) STRICT;
CREATE TABLE deliveries (id TEXT PRIMARY KEY, received REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_age ON deliveries (received);
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  created_at_ms INTEGER,
  state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  waits INTEGER NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0,
  token TEXT,
  owner TEXT,
  lease_until REAL,
  outcome TEXT,
  exit_code INTEGER,
  log TEXT,
  terms TEXT NOT NULL DEFAULT '',
  queued_at REAL NOT NULL,
  ended_at REAL,
  UNIQUE (name, version)
) STRICT;
CREATE INDEX jobs_by_turn ON jobs (state, not_before, id);
"""
COLUMNS: Final = "id, name, version, created_at_ms, state, attempts, waits, token, outcome, exit_code, log, terms"
CLAIM: Final = f"""
UPDATE jobs SET state = 'running', attempts = attempts + 1, token = :token, owner = :owner, lease_until = :until
WHERE id = (
  SELECT id FROM jobs
  WHERE (state = 'queued' AND (not_before <= :now OR not_before > :far)) OR (state = 'running' AND lease_until <= :now)
  ORDER BY not_before, id LIMIT 1
) RETURNING {COLUMNS}
"""  # noqa: S608  (no outside text)
AGAIN: Final = """
UPDATE jobs SET state = 'queued', attempts = 0, waits = 0, not_before = 0, outcome = NULL, exit_code = NULL,
  terms = '', created_at_ms = ?, queued_at = ? WHERE id = ?
"""
