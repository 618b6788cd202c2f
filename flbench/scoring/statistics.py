"""One value per metric for the images of a test slice: means and pooled values with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from flbench.record import Value
from flbench.scoring.metrics import PSNR_CAP
from flbench.scoring.resampling import (
    ALWAYS,
    RESAMPLES,
    Column,
    bootstrap,
    check_known,
    column_of,
    interval_of,
    people_of,
    sorted_rows,
    statistic_of,
)


def summarise(
    scores: pd.DataFrame, metrics: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Value]:
    """Reduce the images of one test slice under one condition to one value per metric.

    Map metrics are means over fakes, `false_alarm` is a mean over real images; `acc`, `tpr` and `tnr` are shares of
    all, fake and real images that are right with the score at 0.5 or above called fake; `auroc` is pooled.

    A failed image (status other than "ok", or, where scores count, without a score) costs the worst there is: COSS 0,
    PSNR 0 dB, SSIM -1, MAE 1, F1, IoU, pixel AUROC and AP 0, false alarm 1, a wrong class, the lowest rank for a fake
    and the highest for a real image. SSIM's worst is -1 and not 0, because a bad map may lie below 0 and failing must
    never pay. An undefined value is left out. Both are counted.

    An interval is null where fewer than two identities count (for `auroc`: on either side); resamples in which a
    metric has no image at all are left out of its interval.

    Args:
        scores: One row per image; a sample is there once. An image without an identity counts as a person of its own.
        metrics: Names from `flbench.protocol.METRICS`.
        resamples: Number of bootstrap resamples, the same ones for every metric.
        seed: Seed of the resamples.

    Returns:
        The metrics asked for, then `tpr`, `tnr` and `false_alarm`.

    Raises:
        UsageError: An unknown metric.
        ValueError: Rows of several slices or conditions, or a sample twice.
    """
    check_known(metrics)
    if len(scores[["test", "condition"]].drop_duplicates()) > 1:
        raise ValueError("one slice and one condition at a time")
    table = sorted_rows(scores)
    people, codes = people_of(table)
    columns = {name: column_of(table, name) for name in dict.fromkeys((*metrics, *ALWAYS))}
    statistics = [statistic_of(column, codes, people) for column in columns.values()]
    drawn = bootstrap(statistics, people, resamples, seed)
    return {
        name: _value(name, column, statistic.plain(people), interval_of(replicates, statistic))
        for (name, column), statistic, replicates in zip(columns.items(), statistics, drawn, strict=True)
    }


def _value(name: str, column: Column, value: float, interval: tuple[float | None, float | None]) -> Value:
    """Put a number, its interval and what was counted together."""
    undefined = math.isnan(value)
    n = 0 if undefined else int(column.counts.sum())
    return Value(
        value=None if undefined else value,
        low=interval[0],
        high=interval[1],
        n=n,
        undefined=int(column.applies.sum()) - n,
        failed=int((column.failed & column.applies).sum()),
        capped=int((column.applies & (column.values >= PSNR_CAP)).sum()) if name == "psnr" else 0,
    )
