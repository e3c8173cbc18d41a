"""The two exceptions that carry a single line that a person can act on."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something a user gave (a key, a file, a shape) cannot be used.

    `main` prints its message alone, without a traceback; everywhere else it is a ValueError.
    """


class RunError(RuntimeError):
    """A run cannot go on: losses that are no numbers, a full disk, a lost process.

    `main` prints its message alone, without a traceback.
    """


def unknown(kind: str, name: str, valid: Iterable[str]) -> InputError:
    """An InputError for a name that is not in a table, with the nearest name and all valid ones."""
    valid = sorted(valid)
    near = difflib.get_close_matches(str(name), valid, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return InputError(f"unknown {kind} {name!r}{hint} valid: {', '.join(valid)}")
