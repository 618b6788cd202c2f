"""Records, per-image scores, protocols and galleries for tests, made from a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flbench.protocol import Protocol, fingerprint
from flbench.record import Convention, DatasetInfo, MethodInfo, ProtocolInfo, Record, Result, Value
from flbench.scoring.statistics import summarise

METRICS = ("coss", "psnr", "ssim", "mae", "acc", "auroc")


def make_protocol(
    name: str = "sample",
    *,
    version: int = 1,
    tests: Sequence[str] = ("hair",),
    reference: str = "",
    over: str = "whole",
    conditions: Sequence[str] = ("clean",),
    metrics: Sequence[str] = METRICS,
    primary: str = "coss",
) -> Protocol:
    """Return a protocol with one fit and a test slice per name."""
    return Protocol.model_validate(
        {
            "name": name,
            "version": version,
            "title": f"The {name} protocol",
            "question": "How well?",
            "paper": "A paper, Table 5",
            "notes": ["One thing is decided here."],
            "fit": [{"name": "hair", "categories": ["stgan/hair"]}],
            "test": [
                {"name": test, "fit": "hair", "categories": [f"stgan/{test}"], "reference": test == reference}
                for test in tests
            ],
            "conditions": list(conditions),
            "scoring": {"over": over, "metrics": list(metrics), "primary": primary},
            "reported": [
                {
                    "source": "Table 5",
                    "method": "Paper's own",
                    "test": "STGAN hair",
                    "values": {"coss": 0.855, "psnr": 28.27},
                }
            ],
        }
    )


def make_scores(
    level: float,
    *,
    tests: Sequence[str] = ("hair",),
    conditions: Sequence[str] = ("clean",),
    people: int = 20,
    failed: int = 0,
    noise: float = 0.03,
    seed: int = 0,
) -> pd.DataFrame:
    """Return per-image scores around a COSS level; what is hard is the same for every method.

    Args:
        level: Mean COSS.
        tests: Test slices.
        conditions: Conditions; each costs 0.05 more than the one before.
        people: Identities, each with a fake and a real photo.
        failed: Number of fakes per slice that failed.
        noise: Spread of a method's own error.
        seed: Seed of that error.
    """
    rows: list[dict[str, Any]] = []
    own = np.random.default_rng(seed)
    for t, test in enumerate(tests):
        hard = np.random.default_rng(t).normal(0, 0.05, people)
        for c, condition in enumerate(conditions):
            for person in range(people):
                base = {"test": test, "condition": condition, "identity": f"p{person}", "status": "ok", "reason": ""}
                value = float(np.clip(level + hard[person] - 0.05 * c + own.normal(0, noise), 0, 1))
                maps = {"coss": value, "psnr": 40 * value, "ssim": value, "mae": 1 - value, "score": 0.4 + value / 2}
                fake = base | maps | {"sample_id": f"f-{test}-{person}", "label": "fake"}
                if person < failed:
                    fake |= {"status": "error", "reason": "boom"} | dict.fromkeys(maps)
                real = base | {
                    "sample_id": f"r-{person}",
                    "label": "real",
                    "score": 0.3,
                    "false_alarm": 0.1 * (1 - value),
                }
                rows += [fake, real]
    numbers = dict.fromkeys(("score", "coss", "psnr", "ssim", "mae", "false_alarm"), np.float64)
    return pd.DataFrame(rows).astype(numbers)


def _gamma(degraded: Value, clear: Value) -> Value:
    """Return γ with an interval that is easily told from others; the real one is tested with the statistics."""
    if degraded.value is None or not clear.value:
        return Value(value=None)
    value = 100 * degraded.value / clear.value
    return Value(value=value, low=value - 1.5, high=value + 2.5, n=degraded.n)


def make_record(
    method: str = "alpha",
    scores: pd.DataFrame | None = None,
    *,
    protocol: Protocol | None = None,
    seed: int = 0,
    reference: bool = False,
    status: str = "ok",
    given: Mapping[str, Any] | None = None,
    title: str = "",
    paper: str = "",
    flags: Sequence[str] = (),
    finished: str = "2026-01-01T00:00:00+00:00",
    mapping: Mapping[str, str] | None = None,
    missing: Sequence[str] = (),
    region: str | None = None,
    added: Sequence[str] = (),
    conventions: Mapping[str, Convention] | None = None,
    cell: str = "",
    dataset: str = "faces",
    dataset_version: str = "1",
    publishable: bool = False,
    reason: str = "",
) -> Record:
    """Return the record that these scores give."""
    protocol = protocol or make_protocol()
    results: list[Result] = []
    parts = [] if scores is None else list(scores.groupby(["test", "condition"], sort=False))
    for (test, condition), part in parts:
        metrics = summarise(part, protocol.scoring.metrics, resamples=200)
        clear = next((r.metrics for r in results if (r.test, r.condition) == (test, "clean")), metrics)
        results.append(
            Result(
                test=test,
                condition=condition,
                categories=(f"stgan/{test}",) if (part["label"] == "fake").any() else (),
                fakes=int((part["label"] == "fake").sum()),
                reals=int((part["label"] == "real").sum()),
                metrics=metrics,
                gamma={} if clear is metrics else {m: _gamma(metrics[m], clear[m]) for m in protocol.scoring.metrics},
                conventions=dict(conventions or {}) if condition == "clean" else {},
            )
        )
    over = protocol.scoring.over
    given = dict(given or {})
    return Record(
        cell=cell or f"cell-{fingerprint([method, given, seed])[:8]}",
        status=status,
        reason=reason,
        flags=tuple(flags),
        method=MethodInfo(
            name=method,
            title=title or method.title(),
            paper=paper,
            reference=reference,
            options={"width": 8} | given,
            given=given,
            parameters=0 if reference else 12_400_000,
            fits={} if reference else {"hair": f"{method}-s{seed}"},
        ),
        protocol=ProtocolInfo(
            name=protocol.name,
            version=protocol.version,
            title=protocol.title,
            fingerprint=protocol.fingerprint,
            mapping=dict(mapping or {}),
            missing=tuple(missing),
            added=tuple(added),
            region=region if region is not None else ("parsing" if over == "region" else ""),
            over=over,
            metrics=protocol.scoring.metrics,
            primary=protocol.scoring.primary,
        ),
        dataset=DatasetInfo(
            name=dataset,
            version=dataset_version,
            title="Faces",
            fingerprint="d" * 64,
            size=32,
            licence="CC0",
            publishable=publishable,
        ),
        seed=seed,
        results=tuple(results),
        timings={"fit_s": 61.0, "s_per_image": 0.01234},
        provenance={"device": "cpu, 2 threads", "threads": 2, "finished": finished, "commit": None},
    )


def write_cell(
    folder: Path, record: Record, scores: pd.DataFrame | None = None, *, panel: bytes = b"", cases: bytes = b""
) -> Path:
    """Write a cell as a study keeps it, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        scores.to_parquet(folder / "images.parquet", index=False)
    if panel:
        (folder / "panel.png").write_bytes(panel)
    if cases:
        (folder / "cases.png").write_bytes(cases)
    (folder / "run.json").write_text(record.to_json(), encoding="utf-8")
    return folder


def make_gallery(path: Path, *, count: int = 3, size: int = 24, **replaced: Any) -> Path:
    """Write a gallery of blobs on smooth photos; arrays may be replaced, or left out by None."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size] / size
    blobs = np.stack([np.exp(-((x - 0.5) ** 2 + (y - 0.3 - 0.1 * i) ** 2) / 0.03) for i in range(count)])
    real = np.stack([np.stack([90 + 80 * x, 80 + 60 * y, 120 - 40 * x], -1)] * count) + rng.normal(
        0, 2, (count, 1, 1, 3)
    )
    arrays: dict[str, Any] = {
        "real": real.clip(0, 255).astype(np.uint8),
        "fake": (real + 60 * blobs[..., None]).clip(0, 255).astype(np.uint8),
        "truth": np.round(60 * blobs).astype(np.uint8),
        "prediction": np.round(50 * blobs + 5).astype(np.uint8),
        "sample_ids": np.array([f"p{i}-stgan-hair" for i in range(count)]),
        "tests": np.array(["hair"] * count),
        "region": blobs > 0.3,
    }
    arrays |= replaced
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path
