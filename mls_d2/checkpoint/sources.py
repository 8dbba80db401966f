"""Where ResNet checkpoints come from, and which of their encoders the authors transfer.

The table is read from above: the first entry that fits a file is taken, so special ones come first.
To add a source, add an entry here and a file of it to ``tests/mls_d2/checkpoint/test_sources.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NO_NORMALISATION = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
MSRA = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Source:
    """One kind of checkpoint.

    Attributes:
        name: for ``--source``.
        title: what it is.
        encoder: the prefix of the encoder that is taken, without ``module.`` and ``_orig_mod.``,
            which are taken off everywhere; None is any.
        needs: patterns, each of which some name beside the encoder must match (``re.match``).
        container: the last step of the path to the tensors, such as "teacher"; "" is any.
        layout: of the names; "" is any.
        also: prefixes below which the rest of the encoder lies.
        normalisation: pixel mean and std on the 0–255 scale.
        input_format: order of the channels.
        stride_in_1x1: whether a block's first convolution has its stride.
        note: what a user should know.
    """

    name: str
    title: str
    encoder: str | None = ""
    needs: tuple[str, ...] = ()
    container: str = ""
    layout: str = ""
    also: tuple[str, ...] = ()
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    input_format: str = "RGB"
    stride_in_1x1: bool = False
    note: str = ""


SOURCES: tuple[Source, ...] = (
    Source(
        "msra", "Detectron2 zoo, MSRA's Caffe2 weights", layout="Caffe2", input_format="BGR",
        normalisation=MSRA, stride_in_1x1=True, note="with unfused BatchNorm",
    ),
    Source("mls_d2", "a pretraining checkpoint of this project", "pair.backbone.",
           (r"pair\.momentum_backbone\.",), layout="Detectron2"),
    Source("mls_d2-single", "the same of SimCLR, SimSiam, Barlow Twins", "encoder.backbone.",
           (r"encoder\.projector\.",), layout="Detectron2", note="without momentum copies"),
    Source("detectron2-c4", "a Detectron2 C4 detector", "backbone.", (r"roi_heads\.res5\.",),
           layout="Detectron2", also=("roi_heads.",)),
    Source("detectron2-fpn", "a Detectron2 FPN detector", "backbone.bottom_up.",
           layout="Detectron2"),
    Source("detectron2", "a backbone in Detectron2's names", layout="Detectron2",
           note="passed through"),
    Source("vissl", "VISSL", None, layout="VISSL", note="the online trunk"),
    Source("hugging-face", "Hugging Face transformers", None, layout="Hugging Face"),
    Source("classy-vision", "ClassyVision", None, layout="ClassyVision"),
    Source("moco-v3", "MoCo v3, ResNet-50", "base_encoder.",
           (r"momentum_encoder\.(?!0\.)", r"predictor\.")),
    Source("slotcon", "SlotCon", "encoder_k.", (r"grouping_q\.",),
           note="the momentum copy, which its authors transfer"),
    Source("pixpro", "PixPro", "encoder.", (r"encoder_k\.", r"value_transform\.")),
    Source("soco", "SoCo, C4 or FPN", "encoder.", (r"encoder_k\.", r"projector")),
    Source("resim", "ReSim", "encoder_q.", (r"encoder_k\.", r"encoder_q\.fpn_")),
    Source("setsim", "SetSim", "encoder_q.0.", (r"encoder_q\.1\.", r"encoder_k\.0\.")),
    Source("revisiting-contrastive", "Revisiting Contrastive SSL", "encoder_q.",
           (r"encoder_k\.", r"queue_backbone")),
    Source("insloc", "InsLoc, C4 or FPN", "backbone.", (r"backbone_k\.",),
           also=("roi_head.shared_head.",)),
    Source("openmmlab-0", "OpenSelfSup, DenseCL, ORL, MMSelfSup 0.x", "backbone.",
           (r"(encoder_q|online_net|base_encoder)\.0\.",),
           note="its backbone is stored twice, the copies are equal"),
    Source("openmmlab-1", "MMSelfSup 1.x, MMPretrain", "backbone.",
           (r"(encoder_k|target_net|momentum_encoder)\.(0\.|steps)",)),
    Source("moco", "MoCo v1 and v2, PCL", "encoder_q.", (r"encoder_k\.",)),
    Source("simsiam", "SimSiam", "encoder.", (r"encoder\.fc\.", r"predictor\.")),
    Source("pycontrast", "PyContrast: InfoMin, PIRL, InsDis", "encoder.",
           (r"(head|jigsaw|linear)",), container="model"),
    Source("barlow-twins", "Barlow Twins", "backbone.", (r"projector\.", r"bn\.running_mean")),
    Source("vicreg", "VICReg, VICRegL", "backbone.", (r"(maps_)?projector\.",), container="model"),
    Source("swav", "SwAV, DeepCluster-v2, SeLa-v2", "", (r"prototypes",)),
    Source("dino", "DINO, ResNet-50", "backbone.", container="teacher",
           note="the teacher, which its authors evaluate"),
    Source("lightly-benchmark", "lightly's benchmarks", "backbone.",
           (r"(teacher_backbone|student_backbone|online_classifier)\.",), layout="torchvision"),
    Source("lightly-dino", "lightly's DINO example", "teacher_backbone.",
           (r"student_backbone\.",), layout="numbered Sequential"),
    Source("lightly", "lightly's examples", "backbone.",
           (r"(backbone_momentum|momentum_backbone|projection_head)",),
           layout="numbered Sequential"),
    Source("solo-learn", "solo-learn", "backbone.",
           (r"(momentum_backbone|classifier|projector|predictor)\b",), container="state_dict"),
    Source("solo-learn-old", "solo-learn before December 2021", "encoder.",
           (r"(momentum_encoder|classifier)\.",), container="state_dict"),
    Source("simclr-sthalles", "SimCLR by sthalles", "backbone.", (r"backbone\.fc\.",),
           normalisation=NO_NORMALISATION),
    Source("simclr-spijkervet", "SimCLR by Spijkervet", "encoder.", (r"projector\.",),
           normalisation=NO_NORMALISATION),
    Source("byol-yaox12", "BYOL by yaox12, DetCon-B in PyTorch", "online_network.encoder.",
           (r"target_network\.",), layout="numbered Sequential"),
    Source("byol-sthalles", "BYOL by sthalles", "encoder.",
           container="online_network_state_dict", layout="numbered Sequential",
           normalisation=NO_NORMALISATION),
    Source("byol-lucidrains", "BYOL by lucidrains, the whole learner", "net.",
           (r"online_encoder\.net\.",), note="stored twice, the copies are equal"),
    Source("torchvision", "torchvision, timm, and whatever uses their names bare",
           layout="torchvision", note="SimCLR by Google has these names too, and was trained "
           "without normalisation"),
)  # fmt: skip
"""All known sources, special ones first."""


def sources_table() -> str:
    """Return the sources as a Markdown table, for docs/checkpoints.md."""
    rows = ["| `--source` | what | encoder taken | input | note |", "|---|---|---|---|---|"]
    for source in SOURCES:
        mean, std = source.normalisation
        usual = (mean, std) == IMAGENET and source.input_format == "RGB"
        given = "usual" if usual else f"{source.input_format}, mean {mean}, std {std}"
        names = {None: "any prefix", "": "bare names"}
        taken = names.get(source.encoder, f"`{source.encoder}`")
        place = f", under `{source.container}`" if source.container else ""
        cells = (f"`{source.name}`", source.title, taken + place, given, source.note)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
