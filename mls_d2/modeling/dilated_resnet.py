"""Detectron2's ResNet with dilation instead of late strides."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

from mls_d2.core.errors import UserError

# By output stride: of res2, res3, res4 and res5 the stride and the dilation.
_STAGES = {
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def build_dilated_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build the ResNet of ``cfg.MODEL.RESNETS`` with its ``OUTPUT_STRIDE``.

    The first block of a dilated stage has half its dilation, because its input is as dense as the
    stage before: on every position that the undilated network has, the outputs are then the same.
    Tensors have the names and shapes of Detectron2's ``build_resnet_backbone``.

    Args:
        cfg: a Detectron2 config.
        input_shape: gives the number of channels of an image.

    Raises:
        UserError: a depth without bottleneck blocks, or an output stride other than 8, 16 or 32.

    Source: Dilated Residual Networks (CVPR 2017); mmsegmentation's ``contract_dilation``.
    """
    node = cfg.MODEL.RESNETS
    for key, allowed in (("DEPTH", _BLOCKS), ("OUTPUT_STRIDE", _STAGES)):
        if node[key] not in allowed:
            message = f"MODEL.RESNETS.{key} is {node[key]}, expected one of {list(allowed)}"
            raise UserError(message, code="bad-value")
    stem = BasicStem(input_shape.channels, node.STEM_OUT_CHANNELS, norm=node.NORM)
    stages = []
    channels, width = node.STEM_OUT_CHANNELS, node.NUM_GROUPS * node.WIDTH_PER_GROUP
    for index, (stride, dilation) in enumerate(_STAGES[node.OUTPUT_STRIDE]):
        count = _BLOCKS[node.DEPTH][index]
        out_channels = node.RES2_OUT_CHANNELS << index
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                count,
                in_channels=channels,
                out_channels=out_channels,
                bottleneck_channels=width << index,
                stride_per_block=[stride] + [1] * (count - 1),
                dilation_per_block=[max(1, dilation // 2)] + [dilation] * (count - 1),
                stride_in_1x1=node.STRIDE_IN_1X1,
                num_groups=node.NUM_GROUPS,
                norm=node.NORM,
            )
        )
        channels = out_channels
    return ResNet(
        stem, stages, out_features=node.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
