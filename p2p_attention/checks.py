"""Values of a node's inputs. The host checks what is typed into a node, but not NaN, nor what comes by a link."""

from __future__ import annotations

from collections.abc import Sequence


def require_between(name: str, value: float, range: tuple[float, float]) -> None:
    """Raises ValueError for what is outside of ``range``, ends included, or NaN."""
    low, high = range
    if not low <= value <= high:
        raise ValueError(f"Wanted {name} from {low:g} to {high:g}, got {value:g}. Change this value or the linked one.")


def require_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError for what is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"Wanted {name} to be one of {', '.join(choices)}, got {value!r}. Choose one of these.")
