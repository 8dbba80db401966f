"""The losses of whole images as pure functions.

Shape legend: N images of the batch, D rows of the dictionary, d channels of an embedding.

All losses are computed in float32 at least, also under autocast: a cosine rounded to bfloat16 and
divided by a temperature of 0.2 would be wrong in the second digit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.numerics import check_temperature, wide


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
        Scalar. It is log(D + 1) if all similarities are equal.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: MoCo (arXiv 1911.05722), Eq. 1; the L_nce of MLS, Eq. 10.
    """
    positive, negative = similarities(query, key, dictionary)
    return info_nce_from_similarities(positive, negative, temperature)


def info_nce_from_similarities(positive: Tensor, negative: Tensor, temperature: float) -> Tensor:
    """:func:`info_nce` from similarities at hand: ``(N,)`` positive, ``(N, D)`` negative."""
    check_temperature(temperature)
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
        Scalar. It is log(2) if all cosines are 0.

    Raises:
        ValueError: shapes that differ, or τ <= 0.

    Source: MLS (arXiv 2308.03286), Eq. 9.
    """
    scaled = _scaled(logits, labels, temperature)
    return F.binary_cross_entropy_with_logits(scaled, labels.to(scaled.dtype))


def positive_bce(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Only the terms with ``y_i = 1`` of :func:`multi_label_bce`, divided by D all the same.

    Args, returns and errors as there. It is (k / D) · log(2) if all cosines are 0.

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
        Scalar. It is log(D - k + 1) if all cosines are equal.

    Raises:
        ValueError: shapes that differ, or τ <= 0.

    Source: MLS (arXiv 2308.03286), Eq. 2.
    """
    scaled = _scaled(logits, labels, temperature)
    labels = labels.bool()
    negatives = scaled.masked_fill(labels, float("-inf")).logsumexp(dim=1, keepdim=True)
    # log(e^p / (e^p + e^n)) = log σ(p - n); no mask indexing, which would wait for the device.
    terms = F.logsigmoid(scaled - negatives).masked_fill(~labels, 0.0)
    return -terms.sum() / labels.sum()


def multi_positive_softmax(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """All neighbours by one softmax over the dictionary, mean over the k neighbours and the batch.

    ``-(1/k) Σ_{i: y_i = 1} log(exp(p_i/τ) / Σ_j exp(p_j/τ))``: other than in :func:`knn_softmax`,
    the neighbours compete with one another.

    Args:
        logits: ``(N, D)``, the cosines p *before* the temperature.
        labels: ``(N, D)``, bool or {0, 1}, with the same number k >= 1 of neighbours in each row.
        temperature: τ > 0.

    Returns:
        Scalar. It is log(D) if all cosines are equal.

    Raises:
        ValueError: shapes that differ, or τ <= 0.

    Source: Revisiting Contrastive Methods (arXiv 2106.05967), section 4.3, in the form of its code:
    SupCon's L_out (arXiv 2004.11362, Eq. 2) with the neighbours as positives.
    """
    scaled = _scaled(logits, labels, temperature)
    labels = labels.to(scaled.dtype)
    return (-(labels * scaled.log_softmax(dim=1)).sum(dim=1) / labels.sum(dim=1)).mean()


def batch_similarities(view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inner products of 2N views with their partners and with the others of the batch.

    With :func:`info_nce_from_similarities` it makes NT-Xent: ``-log(exp(z_i·z_j/τ) / Σ_{l≠i}
    exp(z_i·z_l/τ))``, where j is i's partner, mean over all 2N.

    Args:
        view1: ``(N, d)``, L2-normalised (cosines result), N >= 2.
        view2: ``(N, d)``, L2-normalised; row i is the partner of ``view1[i]``.

    Returns:
        ``(2N,)`` and ``(2N, 2N - 2)``, the first views' rows first, float32 at least.

    Raises:
        ValueError: shapes that differ, or fewer than two images.

    Source: SimCLR (arXiv 2002.05709), Eq. 1.
    """
    view1, view2 = _pair(view1, view2)
    count = len(view1)
    if count < 2:
        raise ValueError("a batch needs two images at least: one has no negatives")
    views = torch.cat([view1, view2])
    with torch.autocast(views.device.type, enabled=False):
        products = views @ views.T
    # Row i without itself and its partner: columns i + 1, i + 2, … around the batch, less i + N.
    steps = torch.arange(1, 2 * count - 1, device=views.device)
    steps = steps + (steps >= count)
    rows = torch.arange(2 * count, device=views.device).unsqueeze(1)
    others = products.gather(1, (rows + steps) % (2 * count))
    return (view1 * view2).sum(dim=1).repeat(2), others


def cross_similarities(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inner products of queries with their own keys and with those of other images.

    With :func:`info_nce_from_similarities` it makes MoCo-v3's contrast: ``-log(exp(q_i·k_i/τ) /
    Σ_j exp(q_i·k_j/τ))``, mean over the batch.

    Args:
        query: ``(N, d)``, L2-normalised (cosines result), N >= 2.
        key: ``(N, d)``, L2-normalised; row i is the positive of query i.

    Returns:
        ``(N,)`` and ``(N, N - 1)``, float32 at least.

    Raises:
        ValueError: shapes that differ, or fewer than two images.

    Source: MoCo-v3 (arXiv 2104.02057), Algorithm 1.
    """
    query, key = _pair(query, key)
    count = len(query)
    if count < 2:
        raise ValueError("a batch needs two images at least, or there is nothing to tell apart")
    with torch.autocast(query.device.type, enabled=False):
        products = query @ key.T
    # Row by row, the diagonal is every (N + 1)-th entry from the first.
    others = products.flatten()[1:].view(count - 1, count + 1)[:, :-1]
    return products.diagonal(), others.reshape(count, count - 1)


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Return ``-cos(prediction, target)``, mean over the batch.

    Args:
        prediction: ``(N, d)``, not normalised.
        target: ``(N, d)``, not normalised; a method stops its gradient.

    Returns:
        Scalar in [-1, 1]. BYOL's Eq. 2 is 2 + 2 of it.

    Raises:
        ValueError: shapes that differ.

    Source: SimSiam (arXiv 2011.10566), Eq. 1.
    """
    prediction, target = _pair(prediction, target)
    return -F.cosine_similarity(prediction, target, dim=1).mean()


def cross_correlation(view1: Tensor, view2: Tensor) -> Tensor:
    """Return the correlation ``(d, d)`` over the batch of every channel of one view with the other.

    Args:
        view1: ``(N, d)`` embeddings, not normalised, N >= 2.
        view2: ``(N, d)``.

    Returns:
        ``(d, d)`` in [-1, 1], float32 at least; 0 if a channel is constant.

    Raises:
        ValueError: shapes that differ.

    Source: Barlow Twins (arXiv 2103.03230), Eq. 2, with BatchNorm's ε under the root.
    """
    view1, view2 = _pair(view1, view2)
    with torch.autocast(view1.device.type, enabled=False):
        return _standardised(view1).T @ _standardised(view2) / len(view1)


def barlow_terms(correlation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two sums of the loss of Barlow Twins, to be weighted by 1 and λ.

    Args:
        correlation: C ``(d, d)``, see :func:`cross_correlation`.

    Returns:
        The invariance term ``Σ_i (1 - C_ii)²`` and the redundancy term ``Σ_i Σ_{j≠i} C_ij²``. They
        are 0 if C is the identity.

    Source: Barlow Twins (arXiv 2103.03230), Eq. 1.
    """
    diagonal = correlation.diagonal()
    others = correlation - torch.diag(diagonal)
    return (1 - diagonal).square().sum(), others.square().sum()


def vicreg_terms(view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three terms of VICReg: invariance, variance, covariance.

    With z and z' the two views, ``s = (1/(N·d)) Σ ‖z_i - z'_i‖²``, ``v(z) = (1/d) Σ_j max(0, 1 -
    √(var(z_j) + 1e-4))`` and ``c(z) = (1/d) Σ_{j≠k} cov(z)_jk²``, it is ``s``, ``(v(z) + v(z'))/2``
    and ``c(z) + c(z')``; variances and covariances are over the batch, divided by N - 1.

    Args:
        view1: ``(N, d)`` embeddings, not normalised, N >= 2.
        view2: ``(N, d)``; row i is of the same image.

    Returns:
        Three scalars >= 0, float32 at least. If all embeddings are equal, the second is 0.99.

    Raises:
        ValueError: shapes that differ, or fewer than two images.

    Source: the code of VICReg (facebookresearch/vicreg@4e12602), which made the published numbers.
    The paper (arXiv 2105.04906, Eqs. 1 to 6) has neither the 1/d of s nor the 1/2 of the variance.
    """
    view1, view2 = _pair(view1, view2)
    if len(view1) < 2:
        raise ValueError("a variance needs two images at least")
    with torch.autocast(view1.device.type, enabled=False):
        (v1, c1), (v2, c2) = _spread_terms(view1), _spread_terms(view2)
    return F.mse_loss(view1, view2), (v1 + v2) / 2, c1 + c2


def _spread_terms(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return v and c of :func:`vicreg_terms` of ``(N, d)``."""
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / (len(rows) - 1)
    deviations = (covariance.diagonal() + 1e-4).sqrt()
    others = covariance.square().fill_diagonal_(0).sum()
    return F.relu(1 - deviations).mean(), others / rows.shape[1]


def _pair(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float32 at least, the shapes checked."""
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(f"expected (N, d) twice, got {tuple(one.shape)} and {tuple(other.shape)}")
    dtype = torch.promote_types(one.dtype, torch.float32)
    return one.to(dtype), other.to(dtype)


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + 1e-5).sqrt()


def _scaled(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature`` in float32 at least, the shapes checked."""
    check_temperature(temperature)
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ in shape"
        )
    return wide(logits) / temperature
