"""Where ResNet checkpoints come from, and which of their encoders the authors transfer.

The first entry that fits a file is taken, so special ones come first. To add a source, add an entry
here and a file of it to ``tests/mls_d2/convert/sources.py``. docs/checkpoints.md shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NO_NORMALISATION = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
MSRA = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
FAIR_X101 = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))


@dataclass(frozen=True)
class KnownSource:
    """One kind of checkpoint: how it is recognised, what is taken, and what the tensors hide."""

    name: str  # for --source
    title: str
    # Prefix of the encoder to take, without those of wrappers (module. and so on); None: any.
    encoder: str | None = ""
    needs: tuple[str, ...] = ()  # patterns (re.match), one name in the same dict must match each
    container: tuple[str, ...] = ()  # the last key on the path to the dict is one of these
    layout: str = ""  # of the names, see layouts.py; "": any
    num_groups: int = 0  # of the network; 0: any
    also: tuple[str, ...] = ()  # prefixes of the rest of the encoder, if it is in several places
    detector_parts: str = ""  # how its FPN and box head are named, see detector_parts.py
    auto: bool = True  # whether it can be recognised; if not, the user must name it
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET  # mean, std on 0–255
    input_format: str = "RGB"
    stride_in_1x1: bool = False  # whether a block's first convolution has its stride
    note: str = ""  # what a user should know
    doubt: str = ""  # what is not known about its files
    code: str = ""  # repositories on GitHub
    licence: str = ""  # of that code, by its README or LICENSE
    weights: str = ""  # a published file

    @property
    def input(self) -> dict[str, Any]:
        """What the network was trained on, as named in the metadata of backbone files."""
        return {
            "pixel_mean": list(self.normalisation[0]),
            "pixel_std": list(self.normalisation[1]),
            "input_format": self.input_format,
            "stride_in_1x1": self.stride_in_1x1,
        }


_FBAI = "https://dl.fbaipublicfiles.com"
SOURCES: tuple[KnownSource, ...] = (
    KnownSource("fair-x101", "FAIR's ResNeXt-101-32x8d, Caffe2 weights", layout="Caffe2",
        num_groups=32, input_format="BGR", normalisation=FAIR_X101,
        code="facebookresearch/detectron2"),
    KnownSource("fair-x101-folded", "the same with folded norms", layout="Caffe2 with folded norms",
        num_groups=32, input_format="BGR", normalisation=MSRA,
        note="its norms' statistics are folded: for NORM FrozenBN only"),
    KnownSource("msra", "Detectron2 zoo, MSRA's Caffe2 weights", layout="Caffe2",
        input_format="BGR", normalisation=MSRA, stride_in_1x1=True,
        code="facebookresearch/detectron2"),
    KnownSource("msra-folded", "the same of Detectron's zoo", layout="Caffe2 with folded norms",
        input_format="BGR", normalisation=MSRA, stride_in_1x1=True,
        note="its norms' statistics are folded: for NORM FrozenBN only"),
    KnownSource("mls_d2", "a pretraining checkpoint of this project", "encoder.backbone.",
        (r"encoder\.projector\.",), layout="Detectron2",
        note="the online encoder; momentum_encoder.backbone. is its momentum copy"),
    KnownSource("mls_d2-pair", "the same, in the names before version 2", "pair.backbone.",
        (r"pair\.momentum_backbone\.",), layout="Detectron2"),
    KnownSource("detectron2-c4", "a Detectron2 C4 detector", "backbone.", (r"roi_heads\.res5\.",),
        layout="Detectron2", also=("roi_heads.",)),
    KnownSource("detectron2-fpn", "a Detectron2 FPN detector", "backbone.bottom_up.",
        layout="Detectron2"),
    KnownSource("detectron2-model", "another Detectron2 model", "backbone.", layout="Detectron2"),
    KnownSource("detectron2", "a backbone in Detectron2's names, the zoo's torchvision R-50",
        layout="Detectron2", note="nothing to rename"),
    KnownSource("byol-deepmind", "BYOL by DeepMind, .pkl", None, layout="Haiku",
        container=("0", "online_params"),
        note="the online network; trained with TensorFlow's SAME padding, one pixel aside at "
        "stride 2",
        doubt="Haiku's container class in the published file; needs --stub-unknown-objects",
        code="google-deepmind/deepmind-research",
        weights="https://storage.googleapis.com/deepmind-byol/checkpoints/pretrain_res50x1.pkl"),
    KnownSource("detcon", "DetCon by DeepMind, .npy", None, layout="Haiku", note="as for BYOL",
        doubt="the names inside, taken to be BYOL's", code="google-deepmind/detcon",
        weights="https://storage.googleapis.com/dm-detcon/resnet50_detcon_b_imagenet_1k.npy"),
    KnownSource("simclr-v2", "SimCLR v2 in PyTorch by Separius", None, layout="SimCLR v2",
        normalisation=NO_NORMALISATION, note="without Selective Kernels",
        doubt="the names were read in a fork's copy of its resnet.py",
        code="Separius/SimCLRv2-Pytorch"),
    KnownSource("vissl-dino", "VISSL's DINO", "momentum_teacher.trunk.", container=("loss",),
        layout="VISSL", note="the teacher, which its authors extract",
        code="facebookresearch/vissl", licence="MIT"),
    KnownSource("vissl", "VISSL", None, container=("trunk", "model_state_dict"), layout="VISSL",
        note="the online trunk", code="facebookresearch/vissl", licence="MIT"),
    KnownSource("hugging-face", "Hugging Face transformers", None, layout="Hugging Face",
        code="huggingface/transformers"),
    KnownSource("classy-vision", "ClassyVision", None, layout="ClassyVision",
        code="facebookresearch/ClassyVision"),
    KnownSource("moco-v3", "MoCo v3, ResNet-50", "base_encoder.",
        (r"momentum_encoder\.(?!0\.)", r"predictor\."), code="facebookresearch/moco-v3",
        licence="CC BY-NC 4.0"),
    KnownSource("slotcon", "SlotCon", "encoder_k.", (r"grouping_q\.",),
        note="the momentum copy, which its authors transfer", code="CVMI-Lab/SlotCon",
        licence="Apache-2.0"),
    KnownSource("pixpro", "PixPro", "encoder.", (r"encoder_k\.", r"value_transform\."),
        code="zdaxie/PixPro", licence="MIT"),
    KnownSource("soco", "SoCo, C4 or FPN", "encoder.", (r"encoder_k\.", r"projector"),
        detector_parts="SoCo", licence="MIT"),
    KnownSource("resim", "ReSim, C4 or FPN", "encoder_q.", (r"encoder_k\.", r"encoder_q\.fpn_"),
        detector_parts="ReSim", code="Tete-Xiao/ReSim", licence="CC BY-NC 4.0",
        note="its FPN lies inside the encoder and lacks level 2 and output 5"),
    KnownSource("setsim", "SetSim", "encoder_q.0.", (r"encoder_q\.1\.", r"encoder_k\.0\."),
        code="DerrickWang005/SetSim.pytorch"),
    KnownSource("revisiting-contrastive", "Revisiting Contrastive SSL", "encoder_q.",
        (r"encoder_k\.", r"queue_backbone"), code="wvangansbeke/Revisiting-Contrastive-SSL",
        licence="CC BY-NC 4.0"),
    KnownSource("insloc", "InsLoc, C4 or FPN", "backbone.", (r"backbone_k\.",),
        also=("roi_head.shared_head.",), detector_parts="InsLoc", code="limbo0000/InstanceLoc"),
    KnownSource("openmmlab-0", "OpenSelfSup, DenseCL, ORL, MMSelfSup 0.x", "backbone.",
        (r"(encoder_q|online_net|base_encoder)\.0\.",),
        note="its backbone is stored twice, the copies are equal", code="open-mmlab/mmselfsup",
        licence="Apache-2.0 (MMSelfSup, ORL), GPL-3.0 (DenseCL)"),
    KnownSource("openmmlab-1", "MMSelfSup 1.x, MMPretrain", "backbone.",
        (r"(encoder_k|target_net|momentum_encoder)\.(0\.|steps)",),
        note="with EMAHook its state_dict holds the averages; message_hub needs "
        "--stub-unknown-objects", code="open-mmlab/mmselfsup", licence="Apache-2.0"),
    KnownSource("moco", "MoCo v1 and v2, PCL", "encoder_q.", (r"encoder_k\.",),
        code="facebookresearch/moco", licence="MIT",
        weights=f"{_FBAI}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"),
    KnownSource("simsiam", "SimSiam", "encoder.", (r"encoder\.fc\.", r"predictor\."),
        code="facebookresearch/simsiam", licence="CC BY-NC 4.0",
        weights=f"{_FBAI}/simsiam/models/100ep/pretrain/checkpoint_0099.pth.tar"),
    KnownSource("pycontrast", "PyContrast: InfoMin, PIRL, InsDis", "encoder.",
        (r"(head|jigsaw|linear)",), container=("model",), code="HobbitLong/PyContrast",
        note="model_ema holds the momentum copy"),
    KnownSource("barlow-twins", "Barlow Twins", "backbone.", (r"projector\.", r"bn\.running_mean"),
        code="facebookresearch/barlowtwins", licence="CC BY-NC 4.0",
        weights=f"{_FBAI}/barlowtwins/epochs1000_bs2048_lr0.2_lambd0.0051_"
        "proj_8192_8192_8192_scale0.024/checkpoint.pth"),
    KnownSource("vicreg", "VICReg, VICRegL", "backbone.", (r"(maps_)?projector\.",),
        container=("model",), code="facebookresearch/vicreg",
        licence="MIT (VICReg), CC BY-NC (VICRegL)",
        weights=f"{_FBAI}/vicreg/resnet50_fullckpt.pth"),
    KnownSource("swav", "SwAV, DeepCluster-v2, SeLa-v2", "", (r"prototypes",),
        code="facebookresearch/swav", weights=f"{_FBAI}/deepcluster/swav_800ep_pretrain.pth.tar"),
    KnownSource("dino", "DINO, ResNet-50", "backbone.", container=("teacher",),
        note="the teacher, which its authors evaluate", code="facebookresearch/dino",
        weights=f"{_FBAI}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth"),
    KnownSource("lightly-benchmark", "lightly's benchmarks", "backbone.",
        (r"(teacher_backbone|student_backbone|online_classifier)\.",), layout="torchvision",
        note="in its DINO the backbone is the teacher, elsewhere the online network",
        code="lightly-ai/lightly", licence="MIT"),
    KnownSource("lightly-dino", "lightly's DINO example", "teacher_backbone.",
        (r"student_backbone\.",), layout="numbered Sequential", code="lightly-ai/lightly",
        licence="MIT"),
    KnownSource("lightly", "lightly's examples", "backbone.",
        (r"(backbone_momentum|momentum_backbone|projection_head)",), layout="numbered Sequential",
        code="lightly-ai/lightly", licence="MIT"),
    KnownSource("solo-learn", "solo-learn", "backbone.",
        (r"(momentum_backbone|classifier|projector|predictor)\b",), container=("state_dict",),
        code="vturrisi/solo-learn", licence="MIT"),
    KnownSource("solo-learn-old", "solo-learn before December 2021", "encoder.",
        (r"(momentum_encoder|classifier)\.",), container=("state_dict",),
        code="vturrisi/solo-learn", licence="MIT"),
    KnownSource("simclr-sthalles", "SimCLR by sthalles", "backbone.", (r"backbone\.fc\.",),
        normalisation=NO_NORMALISATION, code="sthalles/SimCLR",
        doubt="the names were read in a fork"),
    KnownSource("simclr-spijkervet", "SimCLR by Spijkervet, Lightning or not", "encoder.",
        (r"(model\.)?projector\.",), normalisation=NO_NORMALISATION, code="Spijkervet/SimCLR",
        licence="MIT"),
    KnownSource("byol-yaox12", "BYOL by yaox12, DetCon-B in PyTorch", "online_network.encoder.",
        (r"target_network\.",), layout="numbered Sequential"),
    KnownSource("byol-yaox12-backbone", "BYOL by yaox12, its published file", None,
        container=("online_backbone",), doubt="the names below online_backbone"),
    KnownSource("byol-sthalles", "BYOL by sthalles", "encoder.",
        container=("online_network_state_dict",), layout="numbered Sequential",
        normalisation=NO_NORMALISATION, code="sthalles/PyTorch-BYOL"),
    KnownSource("byol-sthalles-encoder", "the same, encoder alone", "",
        container=("encoder_state_dict",), layout="numbered Sequential",
        normalisation=NO_NORMALISATION, code="sthalles/PyTorch-BYOL"),
    KnownSource("byol-lucidrains", "BYOL by lucidrains, the whole learner", "net.",
        (r"online_encoder\.net\.",), note="stored twice, the copies are equal",
        code="lucidrains/byol-pytorch"),
    KnownSource("simclr-google", "SimCLR v1 by Google, converted by simclr-converter",
        layout="torchvision", auto=False, normalisation=NO_NORMALISATION,
        note="its names are torchvision's, so only you can tell: trained without normalisation"),
    KnownSource("bare", "torchvision and timm; the encoder alone of Barlow Twins, VICReg, DINO; "
        "extracted OpenMMLab files (ORL, DenseCL), DetCo; whatever uses these names bare",
        layout="torchvision", code="pytorch/vision, huggingface/pytorch-image-models",
        weights="https://download.pytorch.org/models/resnet50-19c8e357.pth",
        doubt="whether DetCo's published files hold these names or Detectron2's; both are read"),
)  # fmt: skip
"""All known sources, special ones first."""


def sources_table() -> str:
    """Return the sources as a Markdown table, for docs/checkpoints.md."""
    rows = ["| `--source` | what | encoder taken | input | note |", "|---|---|---|---|---|"]
    for source in SOURCES:
        cells = (f"`{source.name}`", source.title, _taken(source), _input(source), _note(source))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def published_table() -> str:
    """Return where code and weights of the sources are, as a Markdown table."""
    rows = ["| `--source` | code | its licence | a published file |", "|---|---|---|---|"]
    for source in SOURCES:
        if source.code or source.weights:
            links = [f"[{repo}](https://github.com/{repo})" for repo in source.code.split(", ")]
            file = f"<{source.weights}>" if source.weights else ""
            cells = (f"`{source.name}`", ", ".join(links), source.licence, file)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _taken(source: KnownSource) -> str:
    names = {None: "any prefix", "": "bare names"}
    taken = names.get(source.encoder, f"`{source.encoder}`")
    also = "".join(f" and `{prefix}`" for prefix in source.also)
    place = f", under `{'` or `'.join(source.container)}`" if source.container else ""
    return taken + also + place


def _input(source: KnownSource) -> str:
    mean, std = source.normalisation
    if (mean, std) == IMAGENET and source.input_format == "RGB" and not source.stride_in_1x1:
        return "usual"
    stride = ", stride in the 1×1" if source.stride_in_1x1 else ""
    return f"{source.input_format}, mean {mean}, std {std}{stride}"


def _note(source: KnownSource) -> str:
    facts = [
        source.note,
        "" if source.auto else "never recognised: name it",
        "FPN and box head on request" if source.detector_parts in ("SoCo", "InsLoc") else "",
        "FPN on request" if source.detector_parts == "ReSim" else "",
        f"not known: {source.doubt}" if source.doubt else "",
    ]
    return "; ".join(fact for fact in facts if fact)
