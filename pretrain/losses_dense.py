"""Losses of positions, regions and slots as pure functions.

Shape legend: N images of a process, P positions of a map, R regions of an image, d channels of an
embedding, K prototypes.

All losses are computed in float32 at least, also under autocast. Where nothing can be compared
they are 0, with a gradient of 0 for everything that they were made of.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.losses_clustering import transport_plan
from pretrain.numerics import check_temperature, wide


def pixel_propagation_loss(prediction: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """Return minus twice the mean cosine of positive pairs, in one order of the views.

    ``-2/N Σ_n [Σ_ij A_ij cos(y_i, x'_j) / (Σ_ij A_ij + 1e-6)]``: an image without a positive pair
    adds 0 and counts in N.

    Args:
        prediction: y ``(N, P, d)``, the propagated positions of one view, not normalised.
        target: x' ``(N, P, d)`` of the other view; a method stops its gradient.
        positive: A ``(N, P, P)`` bool; rows are positions of ``prediction``.

    Returns:
        Scalar in [-2, 2].

    Raises:
        ValueError: shapes that do not fit.

    Source: PixPro (arXiv 2011.10043), section 3.2; the factor 2 and 1e-6 are its code's.
    """
    return _matched_loss(prediction, target, positive)


def object_loss(prediction: Tensor, target: Tensor, matched: Tensor) -> Tensor:
    """Return minus twice the mean cosine of an object's boxes in two views, in one order of them.

    ``-2/N Σ_n [Σ_ij M_ij cos(p_i, t_j) / (Σ_ij M_ij + 1e-6)]``: an image without a matched pair
    adds 0 and counts in N. A row is a box on a level of the pyramid; a row without a match gets no
    gradient.

    Args:
        prediction: p ``(N, P, d)``, predictions of the boxes of one view, not normalised.
        target: t ``(N, P, d)``, projections of the other view's; a method stops its gradient.
        matched: M ``(N, P, P)`` bool; rows are those of ``prediction``.

    Returns:
        Scalar in [-2, 2].

    Raises:
        ValueError: shapes that do not fit.

    Source: SoCo (arXiv 2106.02637), section 3; the mean over pairs and 1e-6 are its code's.
    """
    return _matched_loss(prediction, target, matched)


def pixel_contrast_loss(query: Tensor, key: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Return the contrast of positive positions with all positions of the same image's other view.

    ``-log(Σ_{j: A_ij} exp(cos(x_i, x'_j)/τ) / Σ_j exp(cos(x_i, x'_j)/τ))``, mean over the positions
    i of an image that have a positive, then over images; an image without one adds 0.

    Args:
        query: x ``(N, P, d)`` of one view, not normalised.
        key: x' ``(N, P, d)`` of the other.
        positive: A ``(N, P, P)`` bool; rows are positions of ``query``.
        temperature: τ > 0.

    Returns:
        Scalar >= 0. It is log(P / p) where all cosines are equal and each position has p positives.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: PixContrast, in PixPro (arXiv 2011.10043), section 3.1.
    """
    check_temperature(temperature)
    logits = _position_cosines(query, key, positive) / temperature
    chosen = positive.any(dim=2)
    # Rows without a positive get a finite stand-in, so that no gradient is NaN.
    kept = positive | ~chosen.unsqueeze(2)
    terms = logits.logsumexp(dim=2) - logits.masked_fill(~kept, float("-inf")).logsumexp(dim=2)
    return _mean_of_rows(terms, chosen)


def set_similarity_loss(
    query: Tensor, key: Tensor, positive: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """Return the contrast of each position with its set of positives, against a queue.

    ``-1/|P_i| Σ_{j in P_i} log(exp(q_i·k_j/τ) / (Σ_{l in P_i} exp(q_i·k_l/τ) + Σ_u
    exp(q_i·u/τ)))``: all positives are in the denominator, other positions of the image are not.
    The mean is over positions with a positive, then over images; an image without one adds 0.

    Args:
        query: q ``(N, P, d)`` of one view, not normalised.
        key: k ``(N, P, d)`` of the other.
        positive: ``(N, P, P)`` bool; row i is P_i.
        queue: u ``(D, d)``, L2-normalised rows.
        temperature: τ > 0.

    Returns:
        Scalar. It is log(p + D) where all cosines are equal and each position has p positives.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: SetSim (arXiv 2107.08712), with the denominator and the means of its code.
    """
    check_temperature(temperature)
    logits = _position_cosines(query, key, positive) / temperature
    if queue.ndim != 2 or queue.shape[1:] != query.shape[2:]:
        raise ValueError(
            f"expected a queue (D, d) for queries {tuple(query.shape)}, got {tuple(queue.shape)}"
        )
    chosen = positive.any(dim=2)
    kept = positive | ~chosen.unsqueeze(2)
    with torch.autocast(query.device.type, enabled=False):
        negatives = _unit(query) @ queue.to(logits.dtype).T / temperature
    own = logits.masked_fill(~kept, float("-inf")).logsumexp(dim=2)
    normaliser = torch.logaddexp(own, negatives.logsumexp(dim=2))
    count = positive.sum(dim=2).clamp_min(1)
    terms = normaliser - (logits * positive).sum(dim=2) / count
    return _mean_of_rows(terms, chosen)


def grouping_loss(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Return the cross-entropy of two soft assignments of positions to prototypes.

    ``-Σ_k softmax((t - c)/τ_t)_k log softmax(s/τ_s)_k``, mean over images and positions.

    Args:
        student: s ``(N, K, …)`` cosines with the prototypes.
        teacher: t ``(N, K, …)`` of the same places in the other view; no gradient passes.
        centre: c ``(K,)``.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.

    Returns:
        Scalar. It is log(K) where the student's cosines are equal.

    Raises:
        ValueError: shapes that do not fit, or a temperature <= 0.

    Source: SlotCon (arXiv 2205.15288), section 3.1.
    """
    if student.shape != teacher.shape or centre.shape != student.shape[1:2]:
        raise ValueError(
            "expected cosines (N, K, …) twice and a centre (K,), got "
            f"{tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(centre.shape)}"
        )
    check_temperature(student_temperature, teacher_temperature)
    student, teacher = wide(student).flatten(2), wide(teacher).flatten(2)
    centred = teacher - centre.to(teacher.dtype).unsqueeze(1)
    target = (centred / teacher_temperature).softmax(dim=1).detach()
    logs = (student / student_temperature).log_softmax(dim=1)
    return -(target * logs).sum(dim=1).mean()


def slot_loss(
    query: Tensor,
    key: Tensor,
    candidates: Tensor,
    temperature: float,
    *,
    counted: Tensor | None = None,
    valid: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Return InfoNCE of slots: each finds the same prototype's slot of the same image.

    ``-2τ log(exp(q·k/τ) / Σ_c exp(q·c/τ))`` with cosines, mean over the slots that count. The
    candidates are the active slots of all images, other slots of the same image and k among them.

    Args:
        query: q ``(M, d)`` predictions of slots that are active in both views, not normalised.
        key: k ``(M, d)`` the other view's slots of the same images and prototypes.
        candidates: c ``(C, d)`` active slots of that view over all processes, ``key`` included.
        temperature: τ > 0.
        counted: ``(M,)`` bool, which queries count; by default all.
        valid: ``(C,)`` bool, which candidates there are; by default all.
        count: what to divide by; by default the number of queries that count. With several
            processes, its mean over them makes the mean of their losses that of all slots.

    Returns:
        Scalar >= 0. It is 2τ log(C) where all cosines are equal.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: SlotCon (arXiv 2205.15288), section 3.2.
    """
    if query.shape != key.shape or query.ndim != 2 or candidates.shape[1:] != query.shape[1:]:
        raise ValueError(
            "expected slots (M, d) twice and candidates (C, d), got "
            f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(candidates.shape)}"
        )
    check_temperature(temperature)
    q, k, c = _unit(query), _unit(key), _unit(candidates)
    with torch.autocast(query.device.type, enabled=False):
        logits = q @ c.T / temperature
    own = (q * k).sum(dim=1) / temperature
    if valid is not None:
        # Without any candidate the row stays as it is, finite; no query counts then.
        logits = logits.masked_fill(~(valid | ~valid.any()), float("-inf"))
    terms = 2 * temperature * (logits.logsumexp(dim=1) - own)
    return _mean_of_counted(terms, counted, count)


def region_similarity_loss(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    valid: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """Return InfoNCE of regions: each finds itself in the other view among cells of its map.

    ``-log(exp(r·r'/τ) / (exp(r·r'/τ) + Σ_m exp(r·m/τ)))`` with cosines, mean over valid regions.

    Args:
        query: r ``(N, R, d)`` pooled regions of one view, not normalised.
        key: r' ``(N, R, d)`` of the same places in the other view.
        negatives: m ``(M, d)`` for all images, or ``(G, M, d)``: row g is for the g-th of G equal
            parts of the images; not normalised.
        temperature: τ > 0.
        valid: ``(N, R)`` bool, which regions both views show; by default all.
        count: what to divide by; by default the number of valid regions. With several processes,
            its mean over them makes the mean of their losses that of all regions.

    Returns:
        Scalar >= 0. It is log(M + 1) where all cosines are equal.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: ReSim (arXiv 2103.12902), section 3, with the negatives of its code.
    """
    if negatives.ndim == 2:
        negatives = negatives.unsqueeze(0)
    parts, dim = len(negatives), negatives.shape[-1]
    if query.shape != key.shape or query.ndim != 3 or query.shape[2] != dim or len(query) % parts:
        raise ValueError(
            "expected regions (N, R, d) twice and negatives (M, d), or (G, M, d) with G a divisor "
            f"of N, got {tuple(query.shape)}, {tuple(key.shape)} and {tuple(negatives.shape)}"
        )
    check_temperature(temperature)
    r, other = _unit(query).reshape(parts, -1, dim), _unit(key).reshape(parts, -1, dim)
    with torch.autocast(query.device.type, enabled=False):
        against = r @ _unit(negatives).mT / temperature
    own = (r * other).sum(dim=2, keepdim=True) / temperature
    terms = torch.cat([own, against], dim=2).logsumexp(dim=2) - own.squeeze(2)
    return _mean_of_counted(terms.flatten(), None if valid is None else valid.flatten(), count)


def transport_loss(
    prediction: Tensor, target: Tensor, epsilon: float = 0.05, iterations: int = 10
) -> Tensor:
    """Return the earth mover's distance of two maps, mean over images.

    ``Σ_ij Π_ij (1 - cos(p_i, t_j))`` with the plan Π of :func:`transport_plan` for these costs.
    The mass of a position is its inner product with the mean of the other map, 0 if negative, as a
    share of its map's.

    Args:
        prediction: p ``(N, P, d)`` of one view, not normalised.
        target: t ``(N, P, d)`` of the other; a method stops its gradient.
        epsilon: ε > 0.
        iterations: >= 1.

    Returns:
        Scalar in [0, 2]. It is 0 if all positions of both maps are equal. Masses and plan have no
        gradient.

    Raises:
        ValueError: shapes that differ, or a value out of range.

    Source: Self-EMD (arXiv 2011.13677); masses and costs are DeepEMD's (arXiv 2003.06777).
    """
    if prediction.shape != target.shape or prediction.ndim != 3:
        raise ValueError(
            f"expected positions (N, P, d) twice, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}"
        )
    p, t = wide(prediction), wide(target)
    with torch.autocast(p.device.type, enabled=False):
        cost = 1 - _unit(p) @ _unit(t).mT
        rows, columns = (
            (one.detach() @ other.detach().mean(dim=1).unsqueeze(2)).squeeze(2)
            for one, other in ((p, t), (t, p))
        )
    plan = transport_plan(cost, rows, columns, epsilon, iterations)
    return (plan * cost).sum(dim=(1, 2)).mean()


def _position_cosines(one: Tensor, other: Tensor, positive: Tensor) -> Tensor:
    """Return ``(N, P, P)`` cosines of all positions, the shapes checked."""
    expected = (*one.shape[:2], other.shape[1]) if one.ndim == other.ndim == 3 else ()
    if one.shape != other.shape or positive.shape != expected or positive.dtype != torch.bool:
        raise ValueError(
            "expected positions (N, P, d) twice and a bool mask (N, P, P), got "
            f"{tuple(one.shape)}, {tuple(other.shape)} and {positive.dtype} "
            f"{tuple(positive.shape)}"
        )
    with torch.autocast(one.device.type, enabled=False):
        return _unit(one) @ _unit(other).mT


def _matched_loss(prediction: Tensor, target: Tensor, pairs: Tensor) -> Tensor:
    """Return -2 times the mean cosine of the pairs of an image, then the mean over images."""
    cosines = _position_cosines(prediction, target, pairs)
    chosen = pairs.to(cosines.dtype)
    return -2 * ((cosines * chosen).sum(dim=(1, 2)) / (chosen.sum(dim=(1, 2)) + 1e-6)).mean()


def _mean_of_rows(terms: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean over the chosen of ``(N, P)``, then over images; 0 for one without any."""
    total = (terms * chosen).sum(dim=1)
    return (total / chosen.sum(dim=1).clamp_min(1)).mean()


def _mean_of_counted(terms: Tensor, counted: Tensor | None, count: Tensor | None) -> Tensor:
    """Return the sum of ``(M,)`` terms that count, over ``count``; 0 if none does."""
    if counted is None:
        counted = torch.ones_like(terms, dtype=torch.bool)
    if count is None:
        count = counted.sum()
    total = terms.masked_fill(~counted, 0).sum()
    return total / torch.where(count > 0, count, torch.ones_like(count))


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(wide(rows), dim=-1)
