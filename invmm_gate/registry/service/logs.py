"""Log lines of the registry service: one line each, with the time, whatever the text holds."""

import datetime
import logging
import sys
from typing import Final, final

LOGGER: Final = logging.getLogger("invmm_gate.registry")
_LONGEST: Final = 500


@final
class OneLine(logging.Formatter):
    """Time in UTC, level, message. Control characters are spelled out, so that no name can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; of an exception only its kind and message."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            text += f": {type(error).__name__}: {error}"
        shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
        return f"{time}Z {record.levelname.lower()} {shown[:_LONGEST]}"


def log_to_stderr() -> None:
    """Send the lines of the door and of its HTTP server to stderr, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    for logger, level in ((LOGGER, logging.INFO), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
