"""The arithmetic of SSIM (Wang et al. 2004): what it is of every window that lies inside an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flbench.compiled import compiled

Float = NDArray[np.float64]

WINDOW = 7
"""Side of SSIM's uniform window in pixels, scikit-image's default. A smaller image has no SSIM: undefined."""

BORDER = WINDOW // 2
"""Pixels along each edge that SSIM's mean leaves out, because their windows reach outside of the image."""

# (0.01, 0.03) squared, times the squared data range of 1: scikit-image's defaults.
_C1 = 0.01**2
_C2 = 0.03**2


@compiled("float64[:, ::1](float64[:, ::1], float64[:, ::1])")
def ssim_inside(t: Float, p: Float) -> Float:
    """Return the SSIM of every window that lies inside two maps, with scikit-image's defaults for a data range of 1.

    With n = 49 pixels in a window and sums Σ over it, both fractions of the definition are multiplied through, by n²
    and by n (n - 1), so that no mean is formed: (2 Σt Σp + c1) (2 (n Σtp - Σt Σp) + c2) over
    ((Σt)² + (Σp)² + c1) (n Σ(t² + p²) - (Σt)² - (Σp)² + c2). It is symmetric to the bit, and exactly 1 for equal maps.

    Sums of seven pixels of each column are kept while the window goes down: a row comes in, a row goes out.

    Args:
        t: float64 (H, W) in [0, 1], at least `WINDOW` high and wide.
        p: The same.

    Returns:
        float64 (H - 6, W - 6) in [-1, 1].
    """
    height, width = t.shape
    n = WINDOW * WINDOW
    c1, c2 = _C1 * n * n, _C2 * n * (n - 1)
    result = np.empty((height - 2 * BORDER, width - 2 * BORDER))
    ts, ps, tps, squares = np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width)
    for y in range(height):
        for x in range(width):
            ts[x] += t[y, x]
            ps[x] += p[y, x]
            tps[x] += t[y, x] * p[y, x]
            squares[x] += t[y, x] * t[y, x] + p[y, x] * p[y, x]
        top = y - 2 * BORDER
        if top < 0:
            continue
        for x in range(width - 2 * BORDER):
            sum_t = ts[x] + ts[x + 1] + ts[x + 2] + ts[x + 3] + ts[x + 4] + ts[x + 5] + ts[x + 6]
            sum_p = ps[x] + ps[x + 1] + ps[x + 2] + ps[x + 3] + ps[x + 4] + ps[x + 5] + ps[x + 6]
            sum_tp = tps[x] + tps[x + 1] + tps[x + 2] + tps[x + 3] + tps[x + 4] + tps[x + 5] + tps[x + 6]
            both = squares[x] + squares[x + 1] + squares[x + 2] + squares[x + 3]
            both = both + squares[x + 4] + squares[x + 5] + squares[x + 6]
            product = sum_t * sum_p
            own = sum_t * sum_t + sum_p * sum_p
            result[top, x] = (
                (2 * product + c1) * (2 * (n * sum_tp - product) + c2) / ((own + c1) * (n * both - own + c2))
            )
        for x in range(width):
            ts[x] -= t[top, x]
            ps[x] -= p[top, x]
            tps[x] -= t[top, x] * p[top, x]
            squares[x] -= t[top, x] * t[top, x] + p[top, x] * p[top, x]
    return result
