"""What of a preprocessing is this family's own. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from cvft.families.family import FieldValue


@dataclass(frozen=True)
class Inputs:
    """A preprocessing's own fields; they stand in contracts under these names.

    Args:
        system: System prompt; an empty one stands for none.
        frame_px: Side that frames are resized to, whatever their shape.
        pixel_mean: Mean of each channel as a fraction of its largest value, three numbers.
        pixel_std: Standard deviation of each channel, likewise.
    """

    system: str
    frame_px: int
    pixel_mean: str
    pixel_std: str

    @classmethod
    def of(cls, fields: Mapping[str, FieldValue]) -> Self:
        """Reads the fields of a preprocessing."""
        values: Any = fields
        return cls(**values)

    def to_fields(self) -> dict[str, FieldValue]:
        """Returns them by their names in a contract."""
        return asdict(self)


def write_channels(values: tuple[float, ...]) -> str:
    """Writes a number per channel as a contract holds them."""
    return " ".join(repr(float(value)) for value in values)


def read_channels(text: str) -> tuple[float, float, float]:
    """Reads a number per channel.

    Raises:
        ValueError: when there are not three numbers.
    """
    first, second, third = map(float, text.split(" "))
    return first, second, third
