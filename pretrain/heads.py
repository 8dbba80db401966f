"""Projectors."""

from __future__ import annotations

from torch import nn


def mlp_projector(in_dim: int, hidden_dim: int, out_dim: int, *, norm: str = "") -> nn.Sequential:
    """The two-layer projector of MoCo-v2: Linear, (norm,) ReLU, Linear; ``(N, in) → (N, out)``.

    Args:
        in_dim: channels of the backbone feature, d_g.
        hidden_dim: channels between.
        out_dim: channels of the embedding, d_z.
        norm: "" as in MoCo-v2 and MLS, or "BN" for a BatchNorm after the first layer.

    Raises:
        ValueError: another ``norm``.

    Source: MoCo-v2 (arXiv 2003.04297), section 3.
    """
    if norm not in ("", "BN"):
        raise ValueError(f"projector norm must be '' or 'BN', got {norm!r}")
    layers: list[nn.Module] = [nn.Linear(in_dim, hidden_dim, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm1d(hidden_dim))
    return nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(hidden_dim, out_dim))
