"""The stream of samples: complete epochs, mixed sources, the same for any number of workers."""

import itertools

import numpy as np

from mtc.data import readers
from mtc.data.pipeline import Pipeline, SampleOrder
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


def test_any_number_of_workers_gives_the_same_batches(small_config):
    streams = []
    for workers in (1, 3):
        config = small_config("data.workers={}".format(workers), "train.batch_size=3")
        with Pipeline(readers.training(config), config, BODY) as batches:
            streams.append(list(itertools.islice(batches, 6)))
    for one, other in zip(*streams):
        assert one.names == other.names
        assert all(np.array_equal(getattr(one, key), getattr(other, key)) for key in one._fields if key != "names")


def test_a_stream_that_starts_later_continues_the_same_stream(small_config):
    config = small_config()
    samples = readers.training(config)
    with Pipeline(samples, config, BODY) as batches:
        straight = list(itertools.islice(batches, 5))
    with Pipeline(samples, config, BODY, first=3 * config.train.batch_size) as batches:
        later = list(itertools.islice(batches, 2))
    for one, other in zip(straight[3:], later):
        assert one.names == other.names
        assert np.array_equal(one.image, other.image)


def test_jitter_differs_from_epoch_to_epoch(small_config):
    config = small_config("data.mix={synthetic3d: 1}", "train.batch_size=6")
    with Pipeline(readers.training(config), config, BODY) as batches:
        first, second = next(batches), next(batches)
    assert sorted(first.names) == sorted(second.names)
    name = first.names[0]
    assert not np.array_equal(first.uv[0], second.uv[second.names.index(name)])


def test_held_out_samples_share_no_image_with_training(small_config):
    config = small_config()
    training = {sample.image for samples in readers.training(config).values() for sample in samples}
    assert training
    assert not training & {sample.image for sample in readers.held_out(config)}
