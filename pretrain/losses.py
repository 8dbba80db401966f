"""Contrastive losses as pure functions.

Shape legend: N images of the batch, D rows of the dictionary, d channels of an embedding.

All losses are computed in float32 at least, also under autocast: a cosine rounded to bfloat16 and
divided by a temperature of 0.2 would be wrong in the second digit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarities(query: Tensor, key: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inner products of queries with their own keys and with the dictionary's rows.

    Args:
        query: ``(N, d)``, L2-normalised (cosines result).
        key: ``(N, d)``, L2-normalised; row i is the positive of query i.
        dictionary: ``(D, d)``, L2-normalised rows.

    Returns:
        ``(N,)`` and ``(N, D)``, float32 (float64 for float64 input).

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if query.shape != key.shape or query.ndim != 2 or dictionary.shape[1:] != query.shape[1:]:
        raise ValueError(
            "expected query (N, d), key (N, d) and dictionary (D, d), got "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(dictionary.shape)}"
        )
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key, dictionary = query.to(dtype), key.to(dtype), dictionary.to(dtype)
    with torch.autocast(query.device.type, enabled=False):
        return (query * key).sum(dim=1), query @ dictionary.T


def info_nce(query: Tensor, key: Tensor, dictionary: Tensor, temperature: float) -> Tensor:
    """InfoNCE of MoCo: ``-log(exp(q·k/τ) / (exp(q·k/τ) + Σ_j exp(q·Q_j/τ)))``, mean over the batch.

    Args:
        query: ``(N, d)``, should be L2-normalised.
        key: ``(N, d)``, should be L2-normalised; row i is the positive of query i.
        dictionary: ``(D, d)``, the negatives, rows should be L2-normalised.
        temperature: τ > 0.

    Returns:
        Scalar. It is log(D + 1) where all similarities are equal.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: MoCo (arXiv 1911.05722), Eq. 1; the L_nce of MLS, Eq. 10.
    """
    positive, negative = similarities(query, key, dictionary)
    return info_nce_from_similarities(positive, negative, temperature)


def info_nce_from_similarities(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """:func:`info_nce` from similarities at hand: ``(N,)`` positive, ``(N, D)`` negative."""
    _check_temperature(temperature)
    logits = torch.cat([positive.unsqueeze(1), negative], dim=1) / temperature
    targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, targets)


def multi_label_bce(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Binary cross-entropy of every dictionary row as a class of its own, mean over rows and batch.

    ``-(1/D) Σ_i [y_i log σ(p_i/τ) + (1 - y_i) log(1 - σ(p_i/τ))]``.

    Args:
        logits: ``(N, D)``, the cosines p *before* the temperature.
        labels: ``(N, D)``, bool or {0, 1}, the pseudo-labels y.
        temperature: τ > 0.

    Returns:
        Scalar. It is log(2) where all cosines are 0.

    Raises:
        ValueError: shapes that differ, or τ <= 0.

    Source: MLS (arXiv 2308.03286), Eq. 9.
    """
    scaled = _scaled(logits, labels, temperature)
    return F.binary_cross_entropy_with_logits(scaled, labels.to(scaled.dtype))


def positive_bce(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Only the terms with ``y_i = 1`` of :func:`multi_label_bce`, divided by D all the same.

    Args, returns and errors as there. It is (k / D) · log(2) where all cosines are 0.

    Source: MLS (arXiv 2308.03286), Table 6, "BCE-pos".
    """
    scaled = _scaled(logits, labels, temperature)
    return -(labels * F.logsigmoid(scaled)).mean()


def knn_softmax(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Each neighbour against the negatives by a softmax of its own, mean over the k neighbours.

    ``-(1/k) Σ_{i: y_i = 1} log(exp(p_i/τ) / (exp(p_i/τ) + Σ_{j: y_j = 0} exp(p_j/τ)))``, mean over
    the batch: other neighbours are not among the negatives.

    Args:
        logits: ``(N, D)``, the cosines p *before* the temperature.
        labels: ``(N, D)``, bool or {0, 1}, with the same number k >= 1 of neighbours in each row.
        temperature: τ > 0.

    Returns:
        Scalar. It is log(D - k + 1) where all cosines are equal.

    Raises:
        ValueError: shapes that differ, or τ <= 0.

    Source: MLS (arXiv 2308.03286), Eq. 2.
    """
    scaled = _scaled(logits, labels, temperature)
    labels = labels.bool()
    negatives = scaled.masked_fill(labels, float("-inf")).logsumexp(dim=1, keepdim=True)
    # log(e^p / (e^p + e^n)) = log σ(p - n)
    return -F.logsigmoid(scaled - negatives)[labels].mean()


def _scaled(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature`` in float32 at least, the shapes checked."""
    _check_temperature(temperature)
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ in shape"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"the temperature must be > 0, got {temperature}")
