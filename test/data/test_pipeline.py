"""The stream of samples: complete epochs, mixed sources, the same for any number of workers."""

import itertools
import json
import os

import cv2
import numpy as np
import pytest

from mtc import config as configuration
from mtc.data import readers
from mtc.data.bad_samples import Bad, BadSamples, allowed
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


def batches(config, count, first=0, samples=None):
    with Pipeline(samples or readers.training(config), config, BODY, first=first) as stream:
        return list(itertools.islice(stream, count))


def same(one, other):
    arrays = set(one._fields) - {"names", "bad"}
    return (one.names, one.bad) == (other.names, other.bad) and all(np.array_equal(getattr(one, key), getattr(other, key)) for key in arrays)


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


def test_a_batch_that_is_made_apart_from_the_stream_is_the_stream_s_and_does_not_move_it(small_config):
    config = small_config("train.batch_size=3", *AUGMENTED)
    straight = batches(config, 4)
    with Pipeline(readers.training(config), config, BODY) as stream:
        first = next(stream)
        made = stream.make(9)
        rest = list(itertools.islice(stream, 3))
    assert same(made, straight[3])
    assert all(same(one, other) for one, other in zip([first] + rest, straight))


class Damaged:
    """Six samples of one source, some of them with files that cannot be used."""

    def __init__(self, small_config, tmp_path):
        self.config = lambda fraction, *more: small_config(
            "data.mix={synthetic3d: 1}", "train.batch_size=2", "data.max_bad_fraction={}".format(fraction), *more
        )
        self.samples = readers.training(self.config(0))
        self._folder = tmp_path

    def spoil(self, *indices):
        """Give samples a truncated copy of their image."""
        for index in indices:
            sample = self.samples["synthetic3d"][index]
            copy = self._folder / os.path.basename(sample.image)
            with open(sample.image, "rb") as f:
                copy.write_bytes(f.read()[:-100])
            self.samples["synthetic3d"][index] = sample._replace(image=str(copy))
        return [self.samples["synthetic3d"][index].name for index in indices]

    def batches(self, count, fraction, *more, first=0):
        return batches(self.config(fraction, *more), count, first=first, samples=self.samples)


@pytest.fixture
def damaged(small_config, tmp_path):
    return Damaged(small_config, tmp_path)


def test_a_truncated_image_is_replaced_by_the_next_sample_and_named(damaged):
    [bad] = damaged.spoil(2)
    first, second, third = damaged.batches(3, 0.2, "compat.shuffle=false")
    after = damaged.samples["synthetic3d"][3].name
    assert second.names == [after, after]
    assert [(one.number, one.source, one.name) for one in second.bad] == [(2, "synthetic3d", bad)]
    assert "truncated" in second.bad[0].reason
    assert not first.bad + third.bad
    assert not np.array_equal(second.uv[0], second.uv[1])  # each number has its own randomness


def test_a_replacement_is_cropped_and_varied_as_the_number_it_stands_for(damaged):
    people = damaged.samples["synthetic3d"]
    whole, people[2] = people[2], people[3]
    expected = damaged.batches(2, 0, "compat.shuffle=false", *AUGMENTED)[1]
    people[2] = whole
    damaged.spoil(2)
    assert same(damaged.batches(2, 0.2, "compat.shuffle=false", *AUGMENTED)[1]._replace(bad=[]), expected)


def test_the_sample_after_the_last_one_is_the_first(damaged):
    damaged.spoil(5)
    assert damaged.batches(3, 0.2, "compat.shuffle=false")[2].names[1] == damaged.samples["synthetic3d"][0].name


def test_bad_samples_on_the_way_to_a_replacement_are_all_named(damaged):
    bad = damaged.spoil(2, 3)
    batch = damaged.batches(2, 0.4, "compat.shuffle=false")[1]
    assert [(one.number, one.name) for one in batch.bad] == [(2, bad[0]), (2, bad[1]), (3, bad[1])]
    assert batch.names == [damaged.samples["synthetic3d"][4].name] * 2


@pytest.mark.parametrize("augmented", [(), AUGMENTED])
def test_a_stream_with_replacements_is_the_same_for_any_number_of_workers_and_when_resumed(damaged, augmented):
    damaged.spoil(1, 2)
    one, four = (damaged.batches(8, 0.5, "data.workers={}".format(workers), *augmented) for workers in (1, 4))
    resumed = damaged.batches(3, 0.5, *augmented, first=10)
    assert sum(bool(batch.bad) for batch in one) > 2
    assert all(same(*pair) for pair in zip(one, four))
    assert all(same(*pair) for pair in zip(one[5:], resumed))


def test_a_bad_sample_changes_no_other(damaged):
    whole = damaged.batches(6, 0.2, *AUGMENTED)
    damaged.spoil(4)
    spoilt = damaged.batches(6, 0.2, *AUGMENTED)
    replaced = {one.number for batch in spoilt for one in batch.bad}
    assert len(replaced) == 2  # in two epochs
    for n in set(range(12)) - replaced:
        batch, row = divmod(n, 2)
        for key in ("image", "mask", "uv", "xyz"):
            assert np.array_equal(getattr(whole[batch], key)[row], getattr(spoilt[batch], key)[row])


def test_more_bad_samples_in_a_row_than_are_allowed_fail_with_the_first_one_s_reason(damaged):
    damaged.spoil(2, 3)
    with pytest.raises(UserError, match="{} is truncated.* right after it .* either: 1".format(damaged.samples["synthetic3d"][2].image)):
        damaged.batches(2, 0.2, "compat.shuffle=false")


def test_a_fraction_of_0_stops_at_the_first_bad_sample(damaged):
    damaged.spoil(2)
    with pytest.raises(UserError, match="is truncated after"):
        damaged.batches(2, 0, "compat.shuffle=false")


def test_a_folder_that_is_gone_is_told_without_trying_every_sample(damaged, monkeypatch):
    from mtc.data import pipeline

    missing = [sample._replace(image=sample.image + ".gone") for sample in damaged.samples["synthetic3d"]] * 200
    tried, crop_sample = [], pipeline.crop_sample
    monkeypatch.setattr(pipeline, "crop_sample", lambda sample, **how: tried.append(sample) or crop_sample(sample, **how))
    config = damaged.config(0.005, "data.prefetch=1")
    with Pipeline({"synthetic3d": missing}, config, BODY) as stream, pytest.raises(UserError, match="gone cannot be read"):
        next(stream)
    assert len(tried) <= 4 * (1 + 6)  # two batches of two, 0.005 * 1200 replacements


def test_the_fraction_does_not_make_a_run_another(small_config):
    assert configuration.identity(small_config("data.max_bad_fraction=0.5")) == configuration.identity(small_config())


@pytest.mark.parametrize(("fraction", "size", "most"), [(0, 100, 0), (0.001, 999, 0), (0.001, 1000, 1), (0.29, 100, 29), (1, 7, 7)])
def test_the_allowed_number_is_the_fraction_of_the_size_rounded_down(fraction, size, most):
    assert allowed(fraction, size) == most


def bad(*names, source="coco"):
    return [Bad(n, source, name, "{} is truncated".format(name)) for n, name in enumerate(names)]


def test_a_bad_sample_counts_once_however_often_it_comes():
    found = BadSamples({"coco": 10}, 0.2)
    assert [one.name for one in found.add(bad("a", "b", "a"))] == ["a", "b"]
    assert found.add(bad("b", "a")) == []


def test_a_source_with_more_bad_samples_than_allowed_stops_the_run_with_names_and_remedy():
    found = BadSamples({"coco": 30, "synthetic3d": 30}, 0.1)
    found.add(bad("a", "b", "c") + bad("a", "b", source="synthetic3d"))
    with pytest.raises(UserError) as caught:
        found.add(bad("d"))
    text = str(caught.value)
    assert "source coco: 4 of its 30 samples cannot be used" in text
    assert "allows 3: a (a is truncated), b (b is truncated), c (c is truncated), ..." in text
    assert "tasks.fetch" in text
    assert "raise data.max_bad_fraction" in text


def test_a_resumed_run_counts_on_from_the_bad_samples_of_its_checkpoint():
    straight = BadSamples({"coco": 10}, 0.2)
    straight.add(bad("a", "b"))
    resumed = BadSamples({"coco": 10}, 0.2, known=json.loads(json.dumps(straight.state())))
    assert resumed.state() == straight.state() == [["coco", "a", "a is truncated"], ["coco", "b", "b is truncated"]]
    assert resumed.add(bad("a")) == []
    for found in (straight, resumed):
        with pytest.raises(UserError, match="3 of its 10"):
            found.add(bad("c"))


def test_bad_samples_that_do_not_come_any_more_stop_no_run():
    repaired = BadSamples({"coco": 10}, 0.1, known=[["coco", "a", "?"], ["coco", "b", "?"]])
    assert repaired.add([]) == []
