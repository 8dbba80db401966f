"""The segmentation network: a backbone, a head, and an auxiliary head used in training alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from mls_d2.core.errors import UserError, nearest
from mls_d2.modeling.segmentation_heads import FCNHead, PSAHead, PSPHead


class EncoderDecoder(nn.Module):
    """Detectron2 meta architecture for semantic segmentation, after mmsegmentation's.

    Args:
        backbone: Detectron2's; maps ``(N, 3, H, W)`` to features by name.
        head: maps the features ``in_feature`` to logits.
        in_feature: name of the features that ``head`` reads.
        auxiliary_head: the same for ``auxiliary_feature``; used in training only.
        auxiliary_feature: name of the features that ``auxiliary_head`` reads.
        auxiliary_weight: weight of its loss.
        pixel_mean: of an image's channels, in the units of its pixels.
        pixel_std: likewise.
        ignore_value: label of pixels without a class.
        align_corners: of the bilinear upsampling of logits.
        window: (height, width) of the windows into which a test image is cut; zeros for none.
        stride: (vertical, horizontal) distance of the windows.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        in_feature: str,
        auxiliary_head: nn.Module,
        auxiliary_feature: str,
        auxiliary_weight: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        ignore_value: int,
        align_corners: bool,
        window: tuple[int, int],
        stride: tuple[int, int],
    ) -> None:
        super().__init__()
        self.backbone, self.sem_seg_head, self.auxiliary_head = backbone, head, auxiliary_head
        self._features = in_feature, auxiliary_feature
        self._auxiliary_weight = auxiliary_weight
        self._ignore_value, self._align_corners = ignore_value, align_corners
        self._window, self._stride = window, stride
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments that a config asks for."""
        head, auxiliary = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.AUXILIARY_HEAD
        backbone = build_backbone(cfg)
        shapes: dict[str, ShapeSpec] = backbone.output_shape()
        in_feature = _one_of(head.IN_FEATURES, "MODEL.SEM_SEG_HEAD.IN_FEATURES", shapes)
        auxiliary_feature = _one_of(
            auxiliary.IN_FEATURES, "MODEL.AUXILIARY_HEAD.IN_FEATURES", shapes
        )
        return {
            "backbone": backbone,
            "head": build_head(cfg, shapes[in_feature].channels),
            "in_feature": in_feature,
            "auxiliary_head": FCNHead(
                shapes[auxiliary_feature].channels,
                head.NUM_CLASSES,
                channels=auxiliary.CONVS_DIM,
                norm=head.NORM,
                dropout=head.DROPOUT,
            ),
            "auxiliary_feature": auxiliary_feature,
            "auxiliary_weight": auxiliary.LOSS_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "ignore_value": head.IGNORE_VALUE,
            "align_corners": head.ALIGN_CORNERS,
            "window": tuple(cfg.TEST.SLIDING_WINDOW),
            "stride": tuple(cfg.TEST.SLIDING_STRIDE),
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses in training, else logits.

        Args:
            batched_inputs: with ``image`` ``(3, h, w)`` uint8 each; in training also ``sem_seg``
                ``(H, W)`` uint8 of one size for all, H >= h and W >= w, with the image in its upper
                left corner; in inference optionally ``height`` and ``width`` of the output.

        Returns:
            ``{"loss_sem_seg": …, "loss_auxiliary": …}``, or for each image
            ``{"sem_seg": (K, height, width) logits}``.
        """
        if not self.training:
            return [{"sem_seg": self._infer(item)} for item in batched_inputs]
        labels = torch.stack([item["sem_seg"] for item in batched_inputs])
        labels = labels.to(self.pixel_mean.device, torch.long)
        # Padded after the normalisation, with the mean colour.
        height, width = labels.shape[1:]
        images = [self._normalise(item["image"]) for item in batched_inputs]
        images = [F.pad(im, (0, width - im.shape[2], 0, height - im.shape[1])) for im in images]
        features = self.backbone(torch.stack(images))
        main, auxiliary = self._features
        return {
            "loss_sem_seg": self._loss(self.sem_seg_head(features[main]), labels),
            "loss_auxiliary": self._auxiliary_weight
            * self._loss(self.auxiliary_head(features[auxiliary]), labels),
        }

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = self._upsample(logits.float(), labels.shape[1:])
        return pixel_cross_entropy(logits, labels, self._ignore_value)

    def _infer(self, item: dict[str, Any]) -> Tensor:
        image = self._normalise(item["image"])[None]
        if any(self._window):
            logits = slide(self._predict, image, self._window, self._stride)
        else:
            logits = self._predict(image)
        size = (item.get("height", image.shape[2]), item.get("width", image.shape[3]))
        return self._upsample(logits, size)[0]

    def _predict(self, image: Tensor) -> Tensor:
        """Return logits of the size of the image."""
        logits = self.sem_seg_head(self.backbone(image)[self._features[0]])
        return self._upsample(logits.float(), image.shape[2:])

    def _normalise(self, image: Tensor) -> Tensor:
        return (image.to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std

    def _upsample(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(logits.shape[2:]) == tuple(size):
            return logits
        return F.interpolate(
            logits, tuple(size), mode="bilinear", align_corners=self._align_corners
        )


def pixel_cross_entropy(logits: Tensor, labels: Tensor, ignore_value: int) -> Tensor:
    """Return the sum of the labelled pixels' cross entropies over the number of all pixels.

    This is the mean of mmsegmentation's recipes, which gave the published numbers; images with few
    labelled pixels weigh less, and a batch without any gives 0.

    Args:
        logits: ``(N, K, H, W)``.
        labels: ``(N, H, W)`` int64, in [0, K) or ``ignore_value``.
        ignore_value: label of pixels that add nothing.
    """
    total = F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="sum")
    return total / labels.numel()


def slide(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
) -> Tensor:
    """Average the logits of all windows that cover a pixel.

    The last window of a row or column ends at the image's border, so it may overlap more.

    Args:
        predict: maps ``(1, C, h, w)`` to logits ``(1, K, h, w)``.
        image: ``(1, C, H, W)``.
        window: (height, width) of a window; limited to the image.
        stride: (vertical, horizontal) distance of windows, at most the window's size.

    Returns:
        ``(1, K, H, W)``.
    """
    height, width = image.shape[2:]
    total: Tensor | None = None
    count = image.new_zeros(height, width)
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            logits = predict(image[..., rows, columns])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., rows, columns] += logits
            count[rows, columns] += 1
    assert total is not None
    return total / count


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first positions of windows along one side of an image."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


HEADS = ("PSPHead", "PSAHead")
"""Values of ``MODEL.SEM_SEG_HEAD.NAME``."""


def build_head(cfg: CfgNode, in_channels: int) -> nn.Module:
    """Return the head that ``cfg.MODEL.SEM_SEG_HEAD.NAME`` names.

    Raises:
        UserError: an unknown name.
    """
    node = cfg.MODEL.SEM_SEG_HEAD
    shared = {"channels": node.CONVS_DIM, "norm": node.NORM, "dropout": node.DROPOUT}
    if node.NAME == "PSPHead":
        scales, corners = node.POOL_SCALES, node.ALIGN_CORNERS
        return PSPHead(
            in_channels, node.NUM_CLASSES, pool_scales=scales, align_corners=corners, **shared
        )
    if node.NAME == "PSAHead":
        size = tuple(node.PSA_MASK_SIZE)
        return PSAHead(in_channels, node.NUM_CLASSES, mask_size=size, **shared)
    raise UserError(
        f"MODEL.SEM_SEG_HEAD.NAME '{node.NAME}' is unknown; {nearest(node.NAME, HEADS)}",
        code="unknown-name",
    )


def _one_of(names: Sequence[str], key: str, shapes: dict[str, ShapeSpec]) -> str:
    if len(names) != 1 or names[0] not in shapes:
        raise UserError(
            f"{key} is {list(names)}, expected one of MODEL.RESNETS.OUT_FEATURES {list(shapes)}",
            code="bad-value",
        )
    return names[0]
