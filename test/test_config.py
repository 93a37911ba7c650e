"""Presets, overrides, and the sentences that bad ones get."""

import os

import pytest

from mtc import config
from mtc.errors import UserError


@pytest.mark.parametrize("name", config.presets())
def test_every_preset_loads_and_says_what_it_reproduces_takes_and_gives(name):
    assert config.load(name).name == name
    with open(os.path.join(config.PRESETS, name + ".yaml"), encoding="utf-8") as f:
        header = [line for line in f.read().split("\nname:")[0].splitlines()]
    assert all(line.startswith("#") for line in header)
    assert [word for word in ("Reproduces:", "Takes:", "Expect:") if not any(word in line for line in header)] == []


def test_the_ascend_presets_are_the_published_fine_tune():
    full, perf = config.load("ascend_full"), config.load("ascend_perf")
    assert (full.train.start_step, full.train.steps, full.train.batch_size) == (390000, 400000, 1)
    assert perf.train.steps - perf.train.start_step == 100
    assert (full.train.lr, full.train.lr_steps, full.train.pof_weight) == ([1e-4, 1e-5], [100000], 1.0)
    assert (full.compat.mask, full.compat.shuffle, full.compat.ignore_paf_2d) == ("all", False, True)
    assert config.identity(full) == config.identity(perf)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lr=1e-3,1e-4", lambda c: c.train.lr == [1e-3, 1e-4]),
        ("train.lr=[0.001, 1e-4]", lambda c: c.train.lr == [1e-3, 1e-4]),
        ("train.steps=1e3", lambda c: c.train.steps == 1000),
        ("data.mix.synthetic3d=3", lambda c: c.data.mix == {"coco": 1, "synthetic3d": 3}),
        ("compat.shuffle=false", lambda c: c.compat.shuffle is False),
        ("npu.options={a: true, b: 2, c: text, d: 1.5}", lambda c: c.npu.options == {"a": True, "b": 2, "c": "text", "d": 1.5}),
        ("npu.options.hccl_timeout=3400", lambda c: c.npu.options == {"hccl_timeout": 3400}),
        ('npu.options.aoe_mode="2"', lambda c: c.npu.options == {"aoe_mode": "2"}),
        ("storage.uri=123", lambda c: c.storage.uri == "123"),
        ("storage.uri=", lambda c: c.storage.uri == ""),
        ("snapshot.discard=Adam,beta", lambda c: c.snapshot.discard == ["Adam", "beta"]),
        ("snapshot.rename={body/CPM: CPM}", lambda c: c.snapshot.rename == {"body/CPM": "CPM"}),
    ],
)
def test_overrides_take_the_keys_type(override, expected):
    overrides = [override] + (["train.lr_steps=400"] if "train" in override else [])
    assert expected(config.load("demo", overrides))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.stepz=3", "unknown key 'train.stepz'; did you mean 'train.steps'?"),
        ("modle.width=1", "unknown section 'modle'; did you mean 'model'?"),
        ("train.steps=many", "train.steps: expected a whole number, got 'many'"),
        ("train.steps=1.5", "expected a whole number, got 1.5"),
        ("train.steps=.inf", "expected a whole number"),
        ("train.steps=.nan", "expected a whole number"),
        ("train.seed=4294967296", "is above 4294967295"),
        ("compat.background_weight=-0.5", "must be -1"),
        ("train.steps=true", "expected a whole number, got True"),
        ("compat.shuffle=1", "expected true or false, got 1"),
        ("model.width=nan", "expected a number, got 'nan'"),
        ("model.width=-1", "-1.0 is below 0.01"),
        ("model.kind=foot", "'foot' is not one of body, hand"),
        ("train.device=npx", "did you mean 'npu'?"),
        ("model.crop=100", "must be divisible by 8"),
        ("data.mix={coco: 0}", "at least one source needs a share above 0"),
        ("data.mix={cocoo: 1}", "did you mean 'coco'?"),
        ("train.lr=1e-4", "one learning rate more than steps"),
        ("train.steps=0", "below 1"),
        ("train.micro_batch=3", "train.micro_batch=3: must divide train.batch_size=8"),
        ("train.micro_batch=16", "must divide train.batch_size=8"),
        ("train.steps", "expected section.key=value"),
        ("steps=3", "did you mean 'train.steps'?"),
        ("train.lr.x=1", "'train.lr' has no entries"),
        ("npu.options.a=[1, 2]", "npu.options.a: expected true or false, a number or text, got [1, 2]"),
        ("npu.options.a=.inf", "npu.options.a: expected true or false, a number or text"),
        ("train.precision=mixed", "'mixed' is not one of fp32, mixed_fp16, mixed_bf16"),
        ("loss_scale.initial=0.5", "0.5 is below 1"),
        ("npu.gradient_fusion=[60, 30]", "npu.gradient_fusion=[60.0, 30.0]: at most 8 shares of 0 or more that add up to exactly 100"),
        ("npu.gradient_fusion=[110, -10]", "at most 8 shares of 0 or more"),
        ("npu.gradient_fusion=[20, 10, 10, 10, 10, 10, 10, 10, 10]", "at most 8 shares of 0 or more"),
    ],
)
def test_bad_overrides_are_refused_with_the_nearest_name(override, sentence):
    with pytest.raises(UserError) as error:
        config.load("demo", [override])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: [1", "cannot be read"),
        ("- 1", "expected sections"),
        ("train: 3", "must hold keys"),
        ("trian: {}", "did you mean 'train'?"),
        ("train: {step: 3}", "'train.steps'"),
    ],
)
def test_bad_files_are_named(tmp_path, text, sentence):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml") as error:
        config.load(str(path))
    assert sentence in str(error.value)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'demo'"):
        config.load("demos")


def test_a_config_survives_its_json(tmp_path):
    from mtc import files

    made = config.load("demo", ["data.mix.coco=3"])
    files.write_json(str(tmp_path / "config.json"), config.to_dict(made))
    assert config.read(str(tmp_path / "config.json")) == made
    assert config.read(str(tmp_path / "other.json")) is None


def test_a_batch_in_too_many_parts_is_refused():
    with pytest.raises(UserError, match="more than 64 parts: choose a larger micro batch"):
        config.load("demo", ["train.batch_size=130", "train.micro_batch=2"])


def test_how_a_loss_is_computed_is_not_what_a_run_is():
    assert config.identity(config.load("demo", ["compat.loss=full_resolution"])) == config.identity(config.load("demo"))
    assert config.identity(config.load("demo", ["compat.mask=all"])) != config.identity(config.load("demo"))


@pytest.mark.parametrize("key", ["storage.uri", "storage.endpoint", "fetch.source", "fetch.manifest", "snapshot.uri"])
@pytest.mark.parametrize("uri", ["https://name:hidden-word@host/x", "s3://name:hidden-word@bucket/x", "http://hidden-word@host"])
def test_credentials_in_a_url_are_refused_without_repeating_them(key, uri):
    with pytest.raises(UserError, match="credentials do not belong into a URL") as refusal:
        config.load("demo", ["{}={}".format(key, uri)])
    assert "hidden-word" not in str(refusal.value)


def test_replicas_share_a_batch_evenly():
    with pytest.raises(UserError, match=r"train\.replicas=3: must divide train\.batch_size=8"):
        config.load("demo", ["train.replicas=3"])
    with pytest.raises(UserError, match=r"train\.micro_batch=8: must divide train\.batch_size=8 / train\.replicas=2"):
        config.load("demo", ["train.replicas=2", "train.micro_batch=8"])


def test_patience_without_an_evaluation_is_refused():
    with pytest.raises(UserError, match=r"needs evaluation\.samples above 0"):
        config.load("demo", ["evaluation.samples=0", "evaluation.patience=3"])


def test_what_an_earlier_version_did_not_know_has_its_default():
    loaded = config.load("demo")
    old = config.identity(loaded)
    del old["train"]["ema"]
    assert config.difference(config.completed_identity(old), config.identity(loaded)) == ""
