import numpy as np
import pytest

from mtc.evaluation import metrics

TRUTH = np.array([[[10, 10], [20, 20], [30, 30]], [[10, 10], [20, 20], [30, 30]]], np.float32)
# sample 0 is measured with 100 px, sample 1 with 50 px
PREDICTED = np.array([[[10, 10], [20, 35], [90, 30]], [[13, 14], [20, 28], [30, 30]]], np.float32)
VALID = np.array([[True, True, True], [True, True, False]])
YARDSTICK = np.array([100, 50], np.float32)
# distances over the yardstick: 0, 0.15, 0.6 and 0.1, 0.16, (0, not labelled)


def test_pck_is_the_share_of_all_labelled_joints_within_the_threshold():
    assert metrics.pck(PREDICTED, TRUTH, VALID, YARDSTICK, (0.1, 0.2)) == pytest.approx([2 / 5, 4 / 5])


def test_pck_by_joint_counts_each_joint_where_it_is_labelled():
    found = metrics.pck_by_joint(PREDICTED, TRUTH, VALID, YARDSTICK, (0.1, 0.2))
    assert found == pytest.approx(np.array([[1, 0, 0], [1, 1, 0]]))


def test_a_joint_that_is_never_labelled_has_no_pck():
    valid = VALID & np.array([True, True, False])
    found = metrics.pck_by_joint(PREDICTED, TRUTH, valid, YARDSTICK, (0.1,))
    assert np.isnan(found[0, 2])
    assert found[0, 0] == 1


def test_without_labelled_joints_there_is_no_pck_and_no_error():
    nothing = np.zeros_like(VALID)
    assert np.isnan(metrics.pck(PREDICTED, TRUTH, nothing, YARDSTICK)).all()
    assert all(np.isnan(value) for value in metrics.epe(PREDICTED, TRUTH, nothing, YARDSTICK).values())
    assert np.isnan(metrics.pck_gain(PREDICTED, TRUTH, TRUTH, nothing, YARDSTICK, 0.1)).all()


def test_a_prediction_that_is_no_number_is_a_miss():
    predicted = PREDICTED.copy()
    predicted[0, 0] = np.nan
    assert metrics.pck(predicted, TRUTH, VALID, YARDSTICK, (0.1, 5.0)) == pytest.approx([1 / 5, 4 / 5])


def test_epe_is_in_pixels_and_in_yardsticks():
    found = metrics.epe(PREDICTED, TRUTH, VALID, YARDSTICK)
    assert found["mean"] == pytest.approx((0 + 15 + 60 + 5 + 8) / 5)
    assert found["median"] == pytest.approx(8)
    assert found["mean_relative"] == pytest.approx((0 + 0.15 + 0.6 + 0.1 + 0.16) / 5)


def test_the_area_under_the_curve_is_1_for_the_truth_itself_and_half_for_a_line():
    assert metrics.auc(metrics.pck(TRUTH, TRUTH, VALID, YARDSTICK, metrics.CURVE)) == 1
    assert metrics.auc(metrics.CURVE / metrics.CURVE[-1]) == pytest.approx(0.5)


def test_the_interval_of_a_gain_holds_it_and_shrinks_with_more_samples():
    rng = np.random.RandomState(3)

    def gain(n):
        truth = rng.uniform(0, 100, (n, 5, 2))
        near = truth + rng.normal(0, 6, truth.shape)
        far = truth + rng.normal(0, 20, truth.shape)
        return metrics.pck_gain(near, far, truth, np.ones((n, 5), bool), np.full(n, 100.0), 0.1)

    (few, few_low, few_high), (many, low, high) = gain(10), gain(1000)
    assert few_low < few < few_high
    assert low < many < high
    assert high - low < few_high - few_low
    assert low > 0


def test_two_equal_answers_have_no_gain():
    assert metrics.pck_gain(PREDICTED, PREDICTED, TRUTH, VALID, YARDSTICK, 0.1) == (0, 0, 0)


def test_limb_directions_are_unit_vectors_from_the_first_joint_to_the_second():
    xyz = np.array([[[0, 0, 0], [0, 3, 4], [0, 3, 4]]], np.float32)
    directions, known = metrics.limb_directions(xyz, np.array([[True, True, True]]), [(0, 1), (1, 2), (2, 0)])
    assert directions[0, 0] == pytest.approx([0, 0.6, 0.8])
    assert known.tolist() == [[True, False, True]]  # a limb without length has no direction
    assert not metrics.limb_directions(xyz, np.array([[True, False, True]]), [(0, 1)])[1].any()


def test_angles_do_not_depend_on_length_and_an_empty_answer_is_90_degrees_off():
    up = np.array([0.0, 0.0, 1.0])
    predicted = np.array([[0, 0, 0.01], [0, 3, 3], [0, 0, -2], [0, 0, 0], [np.nan, 0, 0]])
    assert metrics.angles(predicted, up) == pytest.approx([0, 45, 180, 90, 90], abs=1e-4)
