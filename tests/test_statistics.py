"""Statistics against scipy's bootstrap, a plain loop over the same resamples, and by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from flbench.errors import UsageError
from flbench.scoring import resampling
from flbench.scoring.comparison import gammas, mean_over, paired_difference, tie_groups
from flbench.scoring.statistics import summarise

METRICS = ("acc", "coss", "psnr", "ssim", "mae", "auroc")
WORST = {"coss": 0.0, "psnr": 0.0, "ssim": -1.0, "mae": 1.0, "false_alarm": 1.0}


def table(people: int = 12, *, seed: int = 0, lift: float = 0.0, most: int = 4, test: str = "bald") -> pd.DataFrame:
    """Score table of `people` identities with one to `most` photos, and a fake of each."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        level = 0.6 + lift + 0.1 * rng.normal()
        for photo in range(rng.integers(1, most + 1)):
            for label in ("real", "fake"):
                fake = label == "fake"
                value = float(np.clip(level + 0.05 * rng.normal(), 0, 1))
                rows.append(
                    {
                        "test": test,
                        "condition": "clean",
                        "sample_id": f"{label}-{person:03d}-{photo}",
                        "identity": f"person {person}",
                        "label": label,
                        "status": "ok",
                        "reason": "",
                        "score": round(float(np.clip((0.6 if fake else 0.4) + 0.2 * rng.normal(), 0, 1)), 1),
                        "coss": value if fake else math.nan,
                        "psnr": 40 * value if fake else math.nan,
                        "ssim": 2 * value - 1 if fake else math.nan,
                        "mae": 1 - value if fake else math.nan,
                        "false_alarm": math.nan if fake else value / 10,
                    }
                )
    return pd.DataFrame(rows)


def resamples_of(people: int, resamples: int, seed: int) -> np.ndarray:
    return np.concatenate(list(resampling.draws(people, resamples, seed, 7)))


def by_loop(rows: pd.DataFrame, number: Callable[[pd.DataFrame], float], resamples: int, seed: int) -> list[float]:
    """The same resamples, one by one, on tables in which a person drawn twice is there twice."""
    of = dict(list(rows.groupby("identity")))
    names = sorted(of)
    replicates = []
    for drawn in resamples_of(len(names), resamples, seed):
        parts = [of[name] for name, count in zip(names, drawn, strict=True) for _ in range(int(count))]
        replicates.append(number(pd.concat(parts)))
    return replicates


NUMBERS: dict[str, Callable[[pd.DataFrame], float]] = {
    "coss": lambda t: t["coss"].mean(),
    "false_alarm": lambda t: t["false_alarm"].mean(),
    "acc": lambda t: ((t["score"] >= 0.5) == (t["label"] == "fake")).mean(),
    "tpr": lambda t: (t[t["label"] == "fake"]["score"] >= 0.5).mean(),
    "tnr": lambda t: (t[t["label"] == "real"]["score"] < 0.5).mean(),
    "auroc": lambda t: roc_auc_score(t["label"] == "fake", t["score"]),
}


@pytest.mark.parametrize("metric", NUMBERS)
def test_interval_is_that_of_a_plain_loop_over_the_same_resamples(metric: str) -> None:
    rows = table()
    got = summarise(rows, METRICS, resamples=60, seed=3)[metric]
    replicates = by_loop(rows, NUMBERS[metric], 60, 3)
    assert got.value == pytest.approx(NUMBERS[metric](rows), abs=1e-12)
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(replicates, (2.5, 97.5))), abs=1e-12)
    assert (got.undefined, got.failed, got.capped) == (0, 0, 0)


def test_interval_agrees_with_scipy() -> None:
    rows = table(40)
    people = rows.groupby("identity")["coss"].agg(["sum", "count"])

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    theirs = bootstrap(
        (people["sum"].to_numpy(), people["count"].to_numpy()),
        ratio,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    )
    ours = summarise(rows, METRICS, resamples=20_000)["coss"]
    # The ends of two independent sets of 20,000 resamples differ by a few hundredths of the interval.
    tolerance = 0.05 * (theirs.confidence_interval.high - theirs.confidence_interval.low)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_interval_of_auroc_agrees_with_scipy() -> None:
    rows = table(40)
    groups = [group for _, group in rows.groupby("identity")]
    parts = [((g["label"] == "fake").to_numpy(), g["score"].to_numpy()) for g in groups]

    def area(index: np.ndarray) -> float:
        return roc_auc_score(np.concatenate([parts[i][0] for i in index]), np.concatenate([parts[i][1] for i in index]))

    theirs = bootstrap(
        (np.arange(len(parts)),),
        area,
        vectorized=False,
        method="percentile",
        n_resamples=200,
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = summarise(rows, METRICS)["auroc"]
    tolerance = 0.2 * (theirs.high - theirs.low)
    assert ours.low == pytest.approx(theirs.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high, abs=tolerance)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    rows = table(60, most=1)
    fake = rows["label"] == "fake"
    for _ in range(80):
        rows.loc[fake, "coss"] = rng.normal(0.5, 0.1, fake.sum())
        value = summarise(rows, ("coss",), resamples=200)["coss"]
        assert value.low is not None
        assert value.high is not None
        hits += value.low <= 0.5 <= value.high
    assert 0.88 <= hits / 80 <= 0.99


def test_photos_of_one_person_are_not_taken_for_people() -> None:
    rows = table(20, most=1)
    copies = pd.concat([rows.assign(sample_id=rows["sample_id"] + f"-{i}") for i in range(10)])
    one, ten = summarise(rows, METRICS), summarise(copies, METRICS)
    for metric in ("acc", "coss", "auroc", "tnr"):
        assert (ten[metric].value, ten[metric].low, ten[metric].high) == pytest.approx(
            (one[metric].value, one[metric].low, one[metric].high), abs=1e-12
        )
    as_people = summarise(copies.assign(identity=copies["sample_id"]), METRICS)["coss"]
    assert as_people.high - as_people.low < 0.6 * (ten["coss"].high - ten["coss"].low)


def test_an_image_without_an_identity_is_a_person_of_its_own() -> None:
    rows = table(6)
    by_sample = summarise(rows.assign(identity=rows["sample_id"]), METRICS)
    assert summarise(rows.assign(identity=""), METRICS) == by_sample
    assert summarise(rows.assign(identity=None), METRICS) == by_sample


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_order_of_rows_does_not_matter_to_the_bit(seed: int) -> None:
    rows = table(8)
    shuffled = rows.sample(frac=1, random_state=seed)
    assert summarise(shuffled, METRICS, resamples=50) == summarise(rows, METRICS, resamples=50)
    other = table(8, seed=1).sample(frac=1, random_state=seed)
    assert paired_difference(shuffled, other, "auroc", resamples=50) == paired_difference(
        rows, other, "auroc", resamples=50
    )


def test_the_step_of_the_bootstrap_does_not_matter_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(9)
    whole = summarise(rows, METRICS, resamples=101)
    monkeypatch.setattr(resampling, "_BLOCK", 40)
    monkeypatch.setattr(resampling, "_KEPT", 0)
    assert summarise(rows, METRICS, resamples=101) == whole
    assert summarise(rows, METRICS, resamples=101, seed=1) != whole


def test_resamples_that_are_kept_are_those_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = resamples_of(30, 40, 3)
    monkeypatch.setattr(resampling, "_KEPT", 0)
    np.testing.assert_array_equal(resamples_of(30, 40, 3), kept)


def test_resamples_draw_as_many_people_as_there_are_each_alike() -> None:
    drawn = resamples_of(30, 4000, 0)
    assert drawn.shape == (4000, 30)
    assert (drawn.sum(axis=1) == 30).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=5 / math.sqrt(4000))


def failing(rows: pd.DataFrame, ids: list[str], status: str = "error") -> pd.DataFrame:
    rows = rows.copy()
    hit = rows["sample_id"].isin(ids)
    rows.loc[hit, "status"] = status
    rows.loc[hit, ["score", "coss", "psnr", "ssim", "mae", "false_alarm"]] = math.nan
    return rows


def test_failed_images_cost_the_worst_and_are_counted() -> None:
    rows = table(5, most=1)
    lost = ["fake-000-0", "fake-003-0", "real-001-0"]
    got = summarise(failing(rows, lost, "bad_output"), METRICS)
    kept = rows[~rows["sample_id"].isin(lost)]
    for metric in ("coss", "psnr", "ssim", "mae"):
        assert got[metric].value == pytest.approx((kept[metric].sum() + 2 * WORST[metric]) / 5)
        assert (got[metric].n, got[metric].failed, got[metric].undefined) == (5, 2, 0)
    assert got["false_alarm"].value == pytest.approx((kept["false_alarm"].sum() + 1) / 5)
    assert (got["false_alarm"].n, got["false_alarm"].failed) == (5, 1)
    right = ((kept["score"] >= 0.5) == (kept["label"] == "fake")).sum()
    assert got["acc"].value == pytest.approx(right / 10)
    assert (got["acc"].failed, got["tpr"].failed, got["tnr"].failed, got["auroc"].failed) == (3, 2, 1, 3)
    pessimist = rows.set_index("sample_id")["score"]
    pessimist[lost] = [-9.0, -9.0, 9.0]
    assert got["auroc"].value == pytest.approx(roc_auc_score(rows["label"] == "fake", pessimist))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sets(st.integers(0, 200), min_size=1, max_size=10))
def test_failing_never_pays(seed: int, picks: set[int]) -> None:
    rows = table(6, seed=seed)
    lost = [rows["sample_id"].iloc[pick % len(rows)] for pick in picks]
    before, after = summarise(rows, METRICS, resamples=2), summarise(failing(rows, lost), METRICS, resamples=2)
    for metric, value in before.items():
        worse = after[metric].value - value.value
        assert (worse >= -1e-12) if metric in {"mae", "false_alarm"} else (worse <= 1e-12), metric


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_an_image_without_a_score_is_wrong_but_keeps_its_map(score: float | None) -> None:
    rows = table(4, most=1).astype({"score": object})
    rows.loc[rows["sample_id"] == "fake-000-0", "score"] = score
    got = summarise(rows, METRICS)
    assert (got["acc"].failed, got["tpr"].failed, got["auroc"].failed, got["coss"].failed) == (1, 1, 1, 0)
    right = sum(
        (s >= 0.5) == (label == "fake")
        for i, s, label in zip(rows["sample_id"], rows["score"], rows["label"], strict=True)
        if i != "fake-000-0"
    )
    assert got["acc"].value == pytest.approx(right / 8)


def test_undefined_is_left_out_and_counted() -> None:
    rows = table(5, most=1)
    rows.loc[rows["sample_id"] == "fake-002-0", "ssim"] = math.nan
    got = summarise(rows, METRICS)
    assert got["ssim"].value == pytest.approx(rows["ssim"].mean())
    assert (got["ssim"].n, got["ssim"].undefined, got["ssim"].failed) == (4, 1, 0)
    assert (got["coss"].n, got["coss"].undefined) == (5, 0)
    nothing = summarise(rows.assign(ssim=math.nan), METRICS)["ssim"]
    assert (nothing.value, nothing.low, nothing.high, nothing.n, nothing.undefined) == (None, None, None, 0, 5)


def test_only_fakes_or_only_real_images() -> None:
    rows = table(5, most=1)
    fakes = summarise(rows[rows["label"] == "fake"], METRICS)
    assert (fakes["auroc"].value, fakes["auroc"].undefined, fakes["auroc"].n) == (None, 5, 0)
    assert (fakes["tnr"].value, fakes["tnr"].n, fakes["tnr"].undefined) == (None, 0, 0)
    assert fakes["acc"].value == fakes["tpr"].value
    reals = summarise(rows[rows["label"] == "real"], METRICS)
    assert (reals["coss"].value, reals["tpr"].value, reals["auroc"].value) == (None, None, None)
    assert reals["acc"].value == reals["tnr"].value
    empty = summarise(rows[:0], METRICS)
    assert all(value.value is None and value.n == 0 for value in empty.values())


def test_one_identity_has_no_interval() -> None:
    got = summarise(table(1, most=4), METRICS)
    assert all(value.value is not None and value.low is None and value.high is None for value in got.values())
    assert paired_difference(table(1), table(1, lift=0.2), "coss")[1:3] == (None, None)


def test_fakes_of_one_identity_have_no_interval_beside_real_images_of_many() -> None:
    rows = table(6)
    rows = rows[(rows["label"] == "real") | (rows["identity"] == "person 3")]
    got = summarise(rows, METRICS)
    assert got["coss"].low is None
    assert got["auroc"].low is None
    assert got["acc"].low is not None
    assert got["tnr"].low is not None


def test_capped_values_are_counted() -> None:
    rows = table(4, most=1)
    rows.loc[rows["sample_id"].isin(["fake-000-0", "fake-001-0"]), "psnr"] = 100.0
    assert summarise(rows, METRICS)["psnr"].capped == 2
    assert summarise(rows, METRICS)["ssim"].capped == 0


def test_half_is_fake() -> None:
    rows = table(2, most=1).assign(score=0.5)
    got = summarise(rows, ("acc",))
    assert (got["acc"].value, got["tpr"].value, got["tnr"].value) == (0.5, 1.0, 0.0)
    assert list(got) == ["acc", "tpr", "tnr", "false_alarm"]


def test_what_cannot_be_summarised_is_refused() -> None:
    rows = table(3)
    with pytest.raises(UsageError, match=r"unknown metric 'cos' .did you mean coss"):
        summarise(rows, ("cos",))
    with pytest.raises(ValueError, match="one slice and one condition"):
        summarise(pd.concat([rows, rows.assign(condition="blur-5")]), METRICS)
    with pytest.raises(ValueError, match="twice"):
        summarise(pd.concat([rows, rows[:1]]), METRICS)
    with pytest.raises(ValueError, match="another label or identity"):
        paired_difference(rows, rows.assign(identity="someone else"), "coss")


@pytest.mark.parametrize("metric", ["coss", "acc", "auroc"])
def test_paired_interval_is_that_of_a_plain_loop_over_the_same_resamples(metric: str) -> None:
    a, b = table(seed=0), table(seed=0)
    rng = np.random.default_rng(1)
    fake = b["label"] == "fake"
    b.loc[fake, "coss"] -= 0.1 * rng.random(fake.sum())
    b["score"] = np.round(np.clip(b["score"] + rng.normal(0, 0.3, len(b)), 0, 1), 1)
    got = paired_difference(a, b, metric, resamples=60, seed=3)
    theirs = np.subtract(by_loop(a, NUMBERS[metric], 60, 3), by_loop(b, NUMBERS[metric], 60, 3))
    assert got.value == pytest.approx(NUMBERS[metric](a) - NUMBERS[metric](b), abs=1e-12)
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(theirs, (2.5, 97.5))), abs=1e-12)


def test_paired_interval_agrees_with_scipy() -> None:
    a, b = table(40), table(40)
    fake = a["label"] == "fake"
    b.loc[fake, "coss"] = a.loc[fake, "coss"] - 0.02 + np.random.default_rng(2).normal(0, 0.05, fake.sum())
    sums = pd.DataFrame({"a": a[fake]["coss"], "b": b[fake]["coss"], "who": a[fake]["identity"]}).groupby("who")
    columns = (sums["a"].sum().to_numpy(), sums["b"].sum().to_numpy(), sums["a"].count().to_numpy())
    theirs = bootstrap(
        columns,
        lambda x, y, n, axis: (x.sum(axis=axis) - y.sum(axis=axis)) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(3),
    ).confidence_interval
    got = paired_difference(a, b, "coss", resamples=20_000)
    tolerance = 0.05 * (theirs.high - theirs.low)
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high), abs=tolerance)


def test_pairing_is_by_sample_and_leaves_out_what_has_no_partner() -> None:
    a, b = table(6), table(6, lift=-0.1)
    b = b[b["identity"] != "person 5"].sample(frac=1, random_state=0)
    got = paired_difference(a, b, "coss", resamples=100)
    both = a.merge(b, on="sample_id").query("label_x == 'fake'")
    assert got.n == len(both)
    assert got.value == pytest.approx((both["coss_x"] - both["coss_y"]).mean())
    apart = paired_difference(a, b.assign(test="another"), "coss")
    assert apart == (None, None, None, 0)
    assert not apart.separable


def test_pairing_leaves_out_what_is_undefined_in_one() -> None:
    a, b = table(6, most=1), table(6, most=1, lift=-0.2)
    a.loc[a["sample_id"] == "fake-001-0", "ssim"] = math.nan
    b.loc[b["sample_id"] == "fake-002-0", "ssim"] = math.nan
    kept = ~a["sample_id"].isin(["fake-001-0", "fake-002-0"])
    got = paired_difference(a, b, "ssim", resamples=50)
    assert got.n == 4
    assert got.value == pytest.approx(a[kept]["ssim"].mean() - b[kept]["ssim"].mean())


def test_several_slices_count_alike() -> None:
    small, large = table(3, test="small"), table(30, test="large", seed=1)
    a = pd.concat([small, large])
    b = pd.concat([small.assign(coss=small["coss"] - 0.3), large.assign(coss=large["coss"] - 0.1)])
    got = paired_difference(a, b, "coss", resamples=100)
    assert got.value == pytest.approx(0.2)
    assert got.n == (a["label"] == "fake").sum()
    one = paired_difference(a[a["test"] == "large"], b, "coss", resamples=100)
    assert one.value == pytest.approx(0.1)


@pytest.mark.parametrize("metric", ["coss", "psnr", "ssim", "acc", "tpr", "auroc", "false_alarm"])
def test_a_mean_over_slices_is_to_the_bit_the_difference_to_a_method_worth_nothing(metric: str) -> None:
    rows = pd.concat(
        [table(9, seed=1), failing(table(12, seed=2, test="hair"), ["fake-000-0", "real-001-0"])], ignore_index=True
    )
    wrong = (rows["label"] == "real").astype(float)
    nothing = rows.assign(status="ok", score=wrong, coss=0.0, psnr=0.0, ssim=0.0, false_alarm=0.0)
    assert mean_over(rows, metric, resamples=50) == paired_difference(rows, nothing, metric, resamples=50)


def test_a_mean_over_slices_leaves_out_those_without_a_value() -> None:
    rows = pd.concat([table(9, seed=1), table(9, seed=2, test="hair").query("label == 'real'")], ignore_index=True)
    assert mean_over(rows, "coss").value == pytest.approx(rows["coss"].mean())
    assert mean_over(rows[rows["label"] == "real"], "coss") == (None, None, None, 0)


def test_opposite_order_gives_the_opposite_difference() -> None:
    a = table(10)
    b = a.assign(mae=a["mae"] + np.random.default_rng(4).normal(0, 0.1, len(a)))
    forth = paired_difference(a, b, "mae", resamples=300)
    back = paired_difference(b, a, "mae", resamples=300)
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low), abs=1e-12)


def test_ranks_are_shared_where_the_data_cannot_tell() -> None:
    best = table(30)
    fake = best["label"] == "fake"
    rng = np.random.default_rng(6)

    def worse(by: float, spread: float = 0.05) -> pd.DataFrame:
        return best.assign(coss=best["coss"] - by + np.where(fake, rng.normal(0, spread, len(best)), 0))

    tables = [best, worse(0.2), worse(0.2), worse(0.2), worse(0.4)]
    assert tie_groups(tables, "coss") == ["1", "2–4", "2–4", "2–4", "5"]
    assert tie_groups([best, best.copy()], "coss") == ["1–2", "1–2"]
    assert tie_groups([best], "coss") == ["1"]
    assert tie_groups([], "coss") == []
    lower = best.assign(mae=best["mae"] + 0.2)
    assert tie_groups([best, lower], "mae") == ["1", "2"]


def test_a_group_is_compared_with_its_leader_and_does_not_creep() -> None:
    best = table(32, most=1)
    person = best["identity"].str.removeprefix("person ").astype(int)

    def step(k: int) -> pd.DataFrame:
        # Patterns of mean zero, one per method: each difference has a deviation of 0.05 or more over the people.
        pattern = np.where((person // 2**k) % 2, 0.05, -0.05)
        return best.assign(coss=best["coss"] - 0.012 * k + pattern)

    steps = [best, step(1), step(2), step(3)]
    neighbours = [paired_difference(a, b, "coss").separable for a, b in itertools.pairwise(steps)]
    assert neighbours == [False, False, False]
    assert paired_difference(steps[0], steps[2], "coss").separable
    assert tie_groups(steps, "coss") == ["1–2", "1–2", "3–4", "3–4"]


def test_one_identity_ties_with_everyone() -> None:
    assert tie_groups([table(1, lift=0.3), table(1)], "coss") == ["1–2", "1–2"]


def degraded(rows: pd.DataFrame, factor: float) -> pd.DataFrame:
    """The same images under a condition, every map metric times a factor."""
    changed = {metric: factor * rows[metric] for metric in ("coss", "psnr", "ssim", "mae")}
    return rows.assign(condition="jpeg-10", **changed)


@given(st.integers(0, 10_000), st.sampled_from([*METRICS, "tpr", "tnr", "false_alarm"]))
@settings(max_examples=30)
def test_gamma_of_a_condition_that_changes_nothing_is_exactly_100(seed: int, metric: str) -> None:
    rows = table(8, seed=seed)
    found = gammas(rows.assign(condition="blur-1"), rows, [metric], resamples=50)[metric]
    assert (found.value, found.low, found.high) == (100.0, 100.0, 100.0)


def test_gamma_is_the_share_that_is_left_and_its_interval_that_of_a_loop() -> None:
    clean = table(9, seed=3)
    noise = np.random.default_rng(0).uniform(0.5, 0.7, len(clean))
    worse = clean.assign(condition="jpeg-10", coss=clean["coss"] * noise)
    found = gammas(worse, clean, ["coss"], resamples=200, seed=5)["coss"]
    assert found.value == pytest.approx(100 * worse["coss"].mean() / clean["coss"].mean())
    both = clean.assign(left=worse["coss"])
    shares = by_loop(both, lambda drawn: 100 * drawn["left"].mean() / drawn["coss"].mean(), 200, 5)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(shares, (2.5, 97.5))))
    # A condition that takes the same share from every image leaves no doubt: pairing is what shows it.
    certain = gammas(degraded(clean, 0.5), clean, ["coss"])["coss"]
    assert (certain.low, certain.high) == pytest.approx((50, 50))


def test_gamma_of_auroc_compares_the_pooled_values() -> None:
    clean = table(10, seed=1)
    worse = clean.assign(condition="noise-0.05", score=1 - clean["score"])
    area = roc_auc_score(clean["label"] == "fake", clean["score"])
    assert gammas(worse, clean, ["auroc"], resamples=20)["auroc"].value == pytest.approx(100 * (1 - area) / area)


def test_gamma_is_undefined_where_nothing_was_there_to_lose() -> None:
    rows = degraded(table(), 0.5)
    found = gammas(rows, rows.assign(condition="clean", coss=0.0), ["coss"])["coss"]
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.undefined == (rows["label"] == "fake").sum()


def test_gamma_leaves_out_an_image_that_has_no_value_on_one_side() -> None:
    clean = table(6, seed=2)
    fake = clean.index[clean["label"] == "fake"][0]
    worse = degraded(clean, 0.5)
    worse.loc[fake, "coss"] = math.nan
    found = gammas(worse, clean, ["coss"], resamples=20)["coss"]
    assert found.value == pytest.approx(50)
    assert (found.n, found.undefined) == ((clean["label"] == "fake").sum() - 1, 1)
