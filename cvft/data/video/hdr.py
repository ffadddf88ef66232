"""Maps HDR and wide-gamut pictures to SDR: what a player shows on an ordinary screen, and what models were trained on.

    RGB 16 bit (PQ, HLG or BT.2020) -> light in nits -> BT.709 primaries -> highlights compressed -> RGB 8 bit (H, W, 3)

Without it an HDR clip is washed out: half the contrast, a third of the colour. SDR clips never come here.

Sources: ITU-R BT.2100-2 (PQ and HLG), BT.2087-0 (BT.2020 to BT.709), BT.2390-10 section 5.4.1 (compression of
highlights, here with black at 0 and the frame's own brightest value as its peak), BT.1886 (SDR screen, 100 nits).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from cvft.data.video.reader import Frames

_PQ, _HLG = 16, 18
"""FFmpeg's AVCOL_TRC_SMPTE2084 and AVCOL_TRC_ARIB_STD_B67."""

_BT2020 = 9
"""FFmpeg's AVCOL_PRI_BT2020."""

_SDR_NITS, _HLG_NITS = 100.0, 1000.0
"""White of the SDR screen; peak of the screen that HLG is defined for with a system gamma of 1.2."""

_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    dtype=np.float32,
)
"""Linear BT.2020 to linear BT.709. Source: BT.2087-0 table 3, inverted."""

_HLG_LUMA = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)

_STRIP_ROWS = 32

_NUM_STEPS = 1 << 16

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ToneMap:
    """How the pictures of one clip become SDR.

    Args:
        name: What they are, for people.
        transfer: FFmpeg's number of their transfer function.
        is_wide: Their primaries are those of BT.2020.
    """

    name: str
    transfer: int
    is_wide: bool

    @property
    def note(self) -> str:
        """A sentence for the user."""
        return f"{self.name} colours are mapped to SDR, as a player on an ordinary screen shows them"

    def apply(self, rgb: npt.NDArray[np.uint16]) -> Frames:
        """Maps a picture of 16-bit values `(H, W, 3)` to 8-bit BT.709."""
        height_px, width_px, _ = rgb.shape
        light = np.empty((3, height_px, width_px), dtype=np.float32)
        strips = [slice(top, top + _STRIP_ROWS) for top in range(0, height_px, _STRIP_ROWS)]  # they fit into a cache
        for rows in strips:
            light[:, rows] = self._to_light(rgb[rows])
        peak = max(float(light.max()), _SDR_NITS)
        picture = _picture_table(peak)
        image = np.empty((height_px, width_px, 3), dtype=np.uint8)
        for rows in strips:  # steps as fine as the eye in the dark: their square is the light
            steps = np.sqrt(light[:, rows] * np.float32(1 / peak)) * np.float32(_NUM_STEPS - 1)
            image[rows] = picture[(steps + np.float32(0.5)).astype(np.int32)].transpose(1, 2, 0)
        return image

    def _to_light(self, rgb: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        """Returns nits with BT.709 primaries, none below 0, shape `(3, rows, W)`."""
        light = _light_table(self.transfer)[rgb.transpose(2, 0, 1)]
        if self.transfer == _HLG:
            luma = sum(weight * plane for weight, plane in zip(_HLG_LUMA, light, strict=True))
            light *= np.float32(_HLG_NITS) * np.asarray(luma) ** np.float32(0.2)
        if self.is_wide:
            red, green, blue = light
            light = np.stack([a * red + b * green + c * blue for a, b, c in _TO_BT709])
        return np.asarray(np.maximum(light, 0), dtype=np.float32)


def find_tone_map(transfer: int, primaries: int) -> ToneMap | None:
    """Returns how frames with these tags become SDR, or None where they are.

    Args:
        transfer: FFmpeg's number of the transfer function (`AVColorTransferCharacteristic`).
        primaries: FFmpeg's number of the primaries (`AVColorPrimaries`).
    """
    is_wide = primaries == _BT2020
    if transfer == _PQ:
        return ToneMap("HDR (PQ)", transfer, is_wide)
    if transfer == _HLG:
        return ToneMap("HDR (HLG)", transfer, is_wide)
    return ToneMap("wide-gamut (BT.2020)", 0, True) if is_wide else None


@cache
def _light_table(transfer: int) -> npt.NDArray[np.float32]:
    """Light of every 16-bit value: nits, but for HLG relative scene light."""
    value = np.arange(_NUM_STEPS) / (_NUM_STEPS - 1)
    if transfer == _PQ:
        light = _pq_to_nits(value)
    elif transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
    else:
        light = _SDR_NITS * value**2.4
    return light.astype(np.float32)


def _picture_table(peak_nits: float) -> Frames:
    """The 8-bit value of each step of light between 0 and a frame's peak."""
    nits = (np.arange(_NUM_STEPS) / (_NUM_STEPS - 1)) ** 2 * peak_nits
    shown = _compress_highlights(nits, peak_nits) / _SDR_NITS
    return np.asarray(np.round(255 * np.minimum(shown, 1) ** (1 / 2.4)), dtype=np.uint8)


def _compress_highlights(nits: Floats, peak_nits: float) -> Floats:
    """Leaves darker values as they are and bends those above the knee so that the peak becomes SDR white."""
    if peak_nits <= _SDR_NITS:
        return nits
    peak = _nits_to_pq(np.array(peak_nits))
    value = _nits_to_pq(nits) / peak
    white = float(_nits_to_pq(np.array(_SDR_NITS)) / peak)
    knee = 1.5 * white - 0.5
    t = np.maximum(value - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * white
    return _pq_to_nits(np.where(value < knee, value, spline) * peak)


_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_to_nits(value: Floats) -> Floats:
    root = np.asarray(value) ** (1 / _M2)
    return np.asarray(10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1))


def _nits_to_pq(nits: Floats) -> Floats:
    power = (np.asarray(nits) / 10_000) ** _M1
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2)
