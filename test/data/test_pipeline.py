"""The stream of samples: complete epochs, mixed sources, the same for any number of workers."""

import itertools

import cv2
import numpy as np
import pytest

from mtc.data import readers
from mtc.data.pipeline import Pipeline, SampleOrder, jitter_generator
from mtc.errors import UserError
from mtc.skeleton import BODY


def test_an_epoch_holds_each_sample_once_and_epochs_differ():
    order = SampleOrder({"coco": 7}, {"coco": 1}, seed=3, shuffle=True)
    epochs = [[order[n] for n in range(7 * e, 7 * e + 7)] for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [[("coco", i) for i in range(7)]] * 3
    assert epochs[0] != epochs[1]


def test_without_shuffling_samples_come_in_file_order():
    order = SampleOrder({"coco": 3}, {"coco": 1}, seed=3, shuffle=False)
    assert [order[n][1] for n in range(5)] == [0, 1, 2, 0, 1]


def test_sources_are_mixed_by_their_shares_and_each_keeps_its_epochs():
    order = SampleOrder({"coco": 4, "synthetic3d": 2}, {"coco": 2, "synthetic3d": 1}, seed=0, shuffle=True)
    drawn = [order[n] for n in range(12)]
    assert [source for source, _ in drawn[:3]] == ["coco", "coco", "synthetic3d"]
    assert sorted(i for source, i in drawn[:6] if source == "coco") == [0, 1, 2, 3]
    assert sorted(i for source, i in drawn[:6] if source == "synthetic3d") == [0, 1]


def test_the_order_of_a_sample_does_not_depend_on_what_was_asked_before():
    forwards, once = (SampleOrder({"coco": 50}, {"coco": 1}, seed=1, shuffle=True) for _ in range(2))
    assert [forwards[n] for n in range(400)][371] == once[371]


AUGMENTED = (
    "augment.rotate=30", "augment.flip=0.5", "augment.brightness=0.2", "augment.contrast=0.2", "augment.saturation=0.2", "augment.hue=0.05",
    "augment.blur=0.5", "augment.occlude=0.5",
)  # fmt: skip


def batches(config, count, first=0):
    with Pipeline(readers.training(config), config, BODY, first=first) as stream:
        return list(itertools.islice(stream, count))


def same(one, other):
    return one.names == other.names and all(np.array_equal(getattr(one, key), getattr(other, key)) for key in one._fields if key != "names")


@pytest.mark.parametrize("augmented", [(), AUGMENTED])
def test_any_number_of_workers_gives_the_same_batches_with_and_without_a_cache(small_config, augmented):
    streams = [
        batches(small_config("data.workers={}".format(workers), "data.cache_mb={}".format(cache), "train.batch_size=3", *augmented), 8)
        for workers, cache in ((1, 0), (3, 0), (2, 100), (2, 1))
    ]
    for several in zip(*streams):
        assert all(same(several[0], other) for other in several[1:])


def test_batches_are_bytes_and_labels_and_no_two_share_memory(small_config):
    config = small_config("train.batch_size=3")
    first, second = batches(config, 2)
    joints = len(BODY.joints)
    for key, shape, kind in (
        ("image", (3, 64, 64, 3), np.uint8), ("mask", (3, 64, 64), np.uint8), ("uv", (3, joints, 2), np.float32),
        ("xyz", (3, joints, 3), np.float32), ("valid", (3, joints), bool), ("is_3d", (3,), bool),
    ):  # fmt: skip
        assert getattr(first, key).shape == shape
        assert getattr(first, key).dtype == kind
        assert not np.shares_memory(getattr(first, key), getattr(second, key))
    assert len(set(first.names)) == 3
    assert first.image.std() > 10
    assert first.mask.max() == 255


def test_opencv_s_own_threads_rest_while_the_workers_are_at_work(small_config):
    before = cv2.getNumThreads()
    config = small_config()
    try:
        cv2.setNumThreads(2)
        with Pipeline(readers.training(config), config, BODY):
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_an_image_that_cannot_be_read_is_named_when_its_batch_is_asked_for(small_config, tmp_path):
    config = small_config("data.mix={synthetic3d: 1}", "compat.shuffle=false", "train.batch_size=2", "data.prefetch=2")
    samples = readers.training(config)
    samples["synthetic3d"][3] = samples["synthetic3d"][3]._replace(image=str(tmp_path / "gone.jpg"))
    with Pipeline(samples, config, BODY) as stream:
        next(stream)
        with pytest.raises(UserError, match="gone.jpg cannot be read"):
            next(stream)


def test_a_generator_seeded_again_draws_as_a_new_one():
    used = np.random.RandomState(3)
    used.standard_normal()
    for n in (0, 7, 2**33 + 5):
        one, other = jitter_generator(4, n), jitter_generator(4, n, used)
        assert other is used
        assert (one.standard_normal(3) == other.standard_normal(3)).all()
        assert one.random_sample() == other.random_sample()


def test_a_stream_that_starts_later_continues_the_same_stream(small_config):
    config = small_config(*AUGMENTED)
    straight, later = batches(config, 5), batches(config, 2, first=3 * config.train.batch_size)
    assert all(same(one, other) for one, other in zip(straight[3:], later))


def test_jitter_differs_from_epoch_to_epoch(small_config):
    config = small_config("data.mix={synthetic3d: 1}", "train.batch_size=6")
    first, second = batches(config, 2)
    assert sorted(first.names) == sorted(second.names)
    name = first.names[0]
    assert not np.array_equal(first.uv[0], second.uv[second.names.index(name)])


def test_held_out_samples_share_no_image_with_training(small_config):
    config = small_config()
    training = {sample.image for samples in readers.training(config).values() for sample in samples}
    assert training
    assert not training & {sample.image for sample in readers.held_out(config)}
