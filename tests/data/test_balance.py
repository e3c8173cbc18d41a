"""Repeat factors, class weights and the epochs they make, against numbers worked out by hand."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from collabseg_jax.data import balance
from collabseg_jax.errors import InputError

# Four images and four classes; the last class is nowhere, the last image has nothing labelled.
PIXELS = np.array([[60, 40, 0, 0], [50, 0, 50, 0], [30, 70, 0, 0], [0, 0, 0, 0]], np.int32)


def test_repeat_factors_by_hand():
    # Shares of images: 3/4, 1/2, 1/4.  t = 0.64: sqrt(.64/.5) = 1.131, sqrt(.64/.25) = 1.6.
    np.testing.assert_allclose(
        balance.repeat_factors(PIXELS, 0.64), [np.sqrt(1.28), 1.6, np.sqrt(1.28), 1], rtol=1e-12
    )
    np.testing.assert_allclose(balance.repeat_factors(PIXELS, 0.3)[1], np.sqrt(1.2), rtol=1e-12)
    np.testing.assert_array_equal(balance.repeat_factors(PIXELS, 0.25), [1, 1, 1, 1])
    # t = 1: sqrt(4/3), sqrt 2, 2; the largest of an image's classes counts.
    np.testing.assert_allclose(
        balance.repeat_factors(PIXELS, 1.0), [2**0.5, 2, 2**0.5, 1], rtol=1e-12
    )


def test_median_frequency_by_hand():
    # 140 of 300, 110 of 200 and 50 of 100 labelled pixels; the median of the three is 1/2.
    np.testing.assert_allclose(
        balance.median_frequency(PIXELS), [0.5 / (140 / 300), 0.5 / 0.55, 1, 1], rtol=1e-12
    )


def test_inverse_log_by_hand():
    shares = np.array([140, 110, 50, 0]) / 300
    np.testing.assert_allclose(balance.inverse_log(PIXELS), 1 / np.log(1.02 + shares), rtol=1e-12)
    np.testing.assert_allclose(balance.inverse_log(PIXELS)[3], 50.498, atol=1e-3)  # 1 / ln 1.02


def test_numbers_as_class_weights():
    assert balance.check_class_weights("0.8, 1.2,0", 3) == (0.8, 1.2, 0.0)
    for text in ("", *balance.CLASS_WEIGHTS):
        assert balance.check_class_weights(text, 3) is None


@pytest.mark.parametrize(
    "text,message",
    [
        ("median", "unknown losses.ce.class_weights 'median'.*median_frequency"),
        ("1,x,2", "unknown losses.ce.class_weights"),
        ("1,2", "found 2 numbers, expected one for each of the 3 classes"),
        ("1,2,-1", "expected finite numbers >= 0"),
        ("1,2,nan", "expected finite numbers >= 0"),
        ("0,0,0", "not all 0"),
    ],
)
def test_class_weights_that_cannot_be(text, message):
    with pytest.raises(InputError, match=message) as error:
        balance.check_class_weights(text, 3)
    assert "\n" not in str(error.value)


@hypothesis.given(
    st.lists(st.floats(1, 9), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
    st.integers(0, 10**6),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_an_epoch_has_each_record_as_often_as_its_rate_says(rates, seed, epoch):
    order = balance.RepeatedEpochs(range(len(rates)), rates, seed)
    length = order.epoch_length
    assert sum(rates) - 1e-5 <= length < sum(rates) + 1
    drawn = [order[i] for i in range(epoch * length, (epoch + 1) * length)]
    counts = np.bincount(drawn, minlength=len(rates))
    exact = np.array(rates) * length / sum(rates)
    assert (counts >= 1).all() and (np.abs(counts - exact) < 1 + 1e-6).all()
    assert (
        drawn[-1]
        == balance.RepeatedEpochs(range(len(rates)), rates, seed)[(epoch + 1) * length - 1]
    )


def test_over_epochs_the_rates_come_out():
    rates = [1, 1.3, 2.75, 1.5]  # 6.55, so an epoch is 7 long
    order = balance.RepeatedEpochs(range(4), rates, 3)
    epochs = [[order[i] for i in range(7 * e, 7 * e + 7)] for e in range(2000)]
    counts = np.bincount(np.concatenate(epochs), minlength=4) / 2000
    np.testing.assert_allclose(counts, np.array(rates) * 7 / 6.55, atol=0.05)
    assert len({tuple(epoch) for epoch in epochs}) > 500  # every epoch is a new order
