"""Projectors and predictors."""

from torch import nn


def mlp(
    *widths: int, norm: str = "BN", last_norm: nn.Module | None = None, dense: bool = False
) -> nn.Sequential:
    """Linear layers with (norm and) ReLU between them: ``(N, widths[0]) → (N, widths[-1])``.

    Args:
        widths: channels of the input, of every hidden layer, and of the output.
        norm: "BN" for a BatchNorm after every hidden layer, "" for none.
        last_norm: a norm that follows the last layer.
        dense: 1x1 convolutions, of every position of a map: ``(N, C, S, S) → (N, C', S, S)``.

    Raises:
        ValueError: another ``norm``, or fewer than two widths.

    Source: "" with one hidden layer is the projector of MoCo-v2 (arXiv 2003.04297, section 3) and
    MLS; "BN" is what BYOL, SimCLR, SimSiam and Barlow Twins have, each with its own widths.
    Convolutions are DenseCL's (arXiv 2011.09157, section 3.2).
    """
    if norm not in ("", "BN"):
        raise ValueError(f"the norm must be '' or 'BN', got {norm!r}")
    if len(widths) < 2:
        raise ValueError(f"an MLP needs the widths of input and output, got {widths}")

    def linear(before: int, after: int, *, bias: bool) -> nn.Module:
        return nn.Conv2d(before, after, 1, bias=bias) if dense else nn.Linear(before, after, bias)

    layers: list[nn.Module] = []
    for before, after in zip(widths[:-2], widths[1:-1], strict=True):
        layers.append(linear(before, after, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(after) if dense else nn.BatchNorm1d(after))
        layers.append(nn.ReLU(inplace=True))
    layers.append(linear(widths[-2], widths[-1], bias=last_norm is None))
    return nn.Sequential(*layers, *([last_norm] if last_norm is not None else []))


def contrast_projector(in_dim: int, hidden_dim: int, out_dim: int, *, norm: str = "") -> nn.Module:
    """The projector of MoCo-v2: ``(N, in_dim) → (N, out_dim)``.

    Args:
        in_dim: channels of the backbone's feature, d_g.
        hidden_dim: channels between.
        out_dim: channels of the embedding, d_z.
        norm: "" as in MoCo-v2 and MLS, or "BN" for a BatchNorm after both layers, the last without
            scale and shift: MoCo-v3's (arXiv 2104.02057, section 4).

    Raises:
        ValueError: another ``norm``.
    """
    last_norm = nn.BatchNorm1d(out_dim, affine=False) if norm else None
    return mlp(in_dim, hidden_dim, out_dim, norm=norm, last_norm=last_norm)
