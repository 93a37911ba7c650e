"""Where our whole training graph would run, by the list of the 910's operators."""

import pytest

from mtc import config as configuration
from mtc import devices
from mtc.skeleton import SKELETONS
from mtc.training import graph as graphs
from test.npu.placement import falls

pytestmark = pytest.mark.first

CASES = {
    "body, 2D and 3D": ("coco_body", "data.mix={coco: 1, synthetic3d: 1}"),
    "body, the reference's": ("ascend_full",),
    "hand": ("coco_body", "model.kind=hand", "data.mix={synthetic_hand: 1}", "augment.flip=0"),
    "parts, averages, recomputed": ("coco_body", "train.batch_size=2", "train.micro_batch=1", "train.ema=0.9", "train.recompute=stages"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_operation_of_the_training_graph_leaves_the_ai_cores(npu_double, case):
    preset, *options = CASES[case]
    small = ["model.width=0.125", "model.stages=2", "model.crop=64", "train.device=npu", "npu.chip=910", "train.precision=mixed_fp16"]
    config = configuration.load(preset, small + options)
    training = graphs.build(config, SKELETONS[config.model.kind], devices.select(config))
    found = falls(training.graph, [training.train], list(training.inputs.values()) + [training.rate, training.place])
    assert [(fall.name, fall.type, fall.where, fall.why) for fall in found] == []
