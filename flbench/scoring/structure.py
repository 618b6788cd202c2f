"""The arithmetic of SSIM (Wang et al. 2004): what it is of every window that lies inside an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

WINDOW = 7
"""Side of SSIM's uniform window in pixels, scikit-image's default. A smaller image has no SSIM: undefined."""

BORDER = WINDOW // 2
"""Pixels along each edge that SSIM's mean leaves out, because their windows reach outside of the image."""

# (0.01, 0.03) squared, times the squared data range of 1: scikit-image's defaults.
_C1 = 0.01**2
_C2 = 0.03**2

# Measured: strips whose temporaries stay in the second cache take half the time of whole images of 224 pixels.
_STRIP_PIXELS = 1 << 14


def ssim_inside(t: Float, p: Float) -> Float:
    """Return the SSIM of every window that lies inside two maps, with scikit-image's defaults for a data range of 1.

    Args:
        t: float64 (N, H, W) in [0, 1], at least `WINDOW` high and wide.
        p: The same.

    Returns:
        float64 (N, H - 6, W - 6) in [-1, 1].
    """
    count, height, width = t.shape
    result = np.empty((count, height - 2 * BORDER, width - 2 * BORDER))
    rows = max(WINDOW, _STRIP_PIXELS // width)
    for image in range(count):
        for top in range(0, height - 2 * BORDER, rows):
            seen = slice(top, top + rows + 2 * BORDER)
            result[image, top : top + rows] = _ssim_strip(t[image, seen], p[image, seen])
    return result


def _ssim_strip(t: Float, p: Float) -> Float:
    """Return the SSIM of every window inside a strip of an image: (H, W) to (H - 6, W - 6).

    With n = 49 pixels in a window and sums Σ over it, both fractions of the definition are multiplied through, by n²
    and by n (n - 1), so that no mean is formed: (2 Σt Σp + c1) (2 (n Σtp - Σt Σp) + c2) over
    ((Σt)² + (Σp)² + c1) (n Σ(t² + p²) - (Σt)² - (Σp)² + c2). It is symmetric to the bit, and exactly 1 for equal maps.
    """
    height, width = t.shape
    n = WINDOW * WINDOW
    c1, c2 = _C1 * n * n, _C2 * n * (n - 1)
    squares = t * t
    squares += p * p
    sum_t, sum_p, sum_tp, sum_squares = (_window_sums(a) for a in (t, p, t * p, squares))
    product = sum_t * sum_p
    own = np.square(sum_t, out=sum_t)
    own += np.square(sum_p, out=sum_p)
    sum_tp *= n
    sum_tp -= product
    sum_tp *= 2
    sum_tp += c2
    sum_squares *= n
    sum_squares -= own
    sum_squares += c2
    product *= 2
    product += c1
    own += c1
    product *= sum_tp
    own *= sum_squares
    rows = height - 2 * BORDER
    result = np.empty(rows * width)
    np.divide(product, own, out=result[: len(product)])
    return result.reshape(rows, width)[:, : width - 2 * BORDER]


def _window_sums(a: Float) -> Float:
    """Return the sums of all 7 × 7 windows inside (H, W), by columns and rows, from sums of two and of four.

    The result is flat: the sum at row · W + column is that of the window whose corner lies there. Windows that reach
    over the right edge go on in the next row and mean nothing. Unbroken runs are added twice as fast as rows are.
    """
    width = a.shape[1]
    rows = _seven(a.reshape(-1), width)
    return _seven(rows, 1)


def _seven(a: Float, step: int) -> Float:
    """Return the sums of seven values each, `step` apart: (P,) to (P - 6 step,)."""
    pair = a[:-step] + a[step:]
    four = pair[: -2 * step] + pair[2 * step :]
    seven = four[: -3 * step] + pair[4 * step : -step]
    seven += a[6 * step :]
    return seven
