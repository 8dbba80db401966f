"""Projectors and predictors."""

from __future__ import annotations

from torch import nn


def mlp(*widths: int, norm: str = "BN", last_norm: nn.Module | None = None) -> nn.Sequential:
    """Linear layers with (norm and) ReLU between them: ``(N, widths[0]) → (N, widths[-1])``.

    Args:
        widths: channels of the input, of every hidden layer, and of the output.
        norm: "BN" for a BatchNorm after every hidden layer, "" for none.
        last_norm: a norm that follows the last layer.

    Raises:
        ValueError: another ``norm``, or fewer than two widths.

    Source: "" with one hidden layer is the projector of MoCo-v2 (arXiv 2003.04297, section 3) and
    MLS; "BN" is what BYOL, SimCLR, SimSiam and Barlow Twins have, each with its own widths.
    """
    _check_norm(norm)
    if len(widths) < 2:
        raise ValueError(f"an MLP needs the widths of input and output, got {widths}")
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-2], widths[1:-1], strict=True):
        layers.append(nn.Linear(before, after, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(nn.ReLU(inplace=True))
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_norm is None))
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


def dense_projector(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    norm: str = "",
    last_norm: nn.Module | None = None,
) -> nn.Sequential:
    """The two-layer projector of every position of a map: ``(N, in, S, S) → (N, out, S, S)``.

    Args:
        in_dim: channels of the backbone's map, d_g.
        hidden_dim: channels between.
        out_dim: channels of the embedding, d_z.
        norm: "" as in DenseCL, or "BN" for a BatchNorm after the first layer.
        last_norm: a norm that follows the last layer.

    Raises:
        ValueError: another ``norm``.

    Source: DenseCL (arXiv 2011.09157), section 3.2: 1x1 convolutions for MoCo-v2's linear layers.
    """
    _check_norm(norm)
    layers: list[nn.Module] = [nn.Conv2d(in_dim, hidden_dim, 1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(hidden_dim))
    layers += [nn.ReLU(inplace=True), nn.Conv2d(hidden_dim, out_dim, 1, bias=last_norm is None)]
    return nn.Sequential(*layers, *([last_norm] if last_norm is not None else []))


def _check_norm(norm: str) -> None:
    if norm not in ("", "BN"):
        raise ValueError(f"the norm must be '' or 'BN', got {norm!r}")
