import numpy as np
import pytest

from compressor.bench.statistics import median_interval, quantiles


def test_interval_holds_the_median_and_lies_within_the_samples():
    samples = np.random.default_rng(0).lognormal(0, 1, 81)
    low, high = median_interval(samples)
    assert samples.min() <= low < np.median(samples) < high <= samples.max()


def test_interval_holds_the_true_median_as_often_as_it_says():
    draws = np.random.default_rng(1).lognormal(0, 1, (200, 40))  # true median 1
    hits = sum(low <= 1 <= high for low, high in map(median_interval, draws))
    assert 180 <= hits <= 199  # 95 % of 200, within three standard deviations


def test_a_higher_level_is_wider_and_more_samples_are_narrower():
    samples = np.random.default_rng(2).normal(10, 1, 400)
    narrow, wide = median_interval(samples, 0.5), median_interval(samples, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    few = median_interval(samples[:20])
    many = median_interval(samples)
    assert many[1] - many[0] < few[1] - few[0]


def test_the_seed_decides_the_resampling():
    samples = np.random.default_rng(3).normal(10, 1, 30)
    assert median_interval(samples, seed=4) == median_interval(samples, seed=4)
    assert median_interval(samples, seed=4) != median_interval(samples, seed=5)


def test_one_sample_is_its_own_interval():
    assert median_interval([3.5]) == (3.5, 3.5)


def test_drawing_in_pieces_changes_nothing_but_the_draws(monkeypatch):
    samples = np.random.default_rng(6).normal(10, 1, 1000)
    whole = median_interval(samples)
    monkeypatch.setattr("compressor.bench.statistics._CHUNK", 7000)  # 7 resamples at a time, 5 in the last piece
    assert median_interval(samples) == pytest.approx(whole, abs=0.02)


def test_quantiles_interpolate():
    assert quantiles([4.0, 1.0, 2.0, 3.0], 0.0, 0.5, 0.9, 1.0) == pytest.approx([1.0, 2.5, 3.7, 4.0])
