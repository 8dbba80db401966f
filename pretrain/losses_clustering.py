"""Losses of methods that assign views to prototypes, SwAV and DINO, and plans of transport.

Shape legend: N images of the batch, V views of each, the first T of which make targets; K
prototypes; P positions of a map.
"""

import torch
from torch import Tensor

from pretrain.numerics import check_temperature, wide


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assign samples to prototypes so that all prototypes get about the same share of them.

    ``Q = exp(scores / ε)``, then ``iterations`` times: every prototype's total over the samples
    becomes 1/K, every sample's total over the prototypes 1/N; the result is N · Q. It is computed
    with logarithms, so that no ε is too small.

    Args:
        scores: ``(N, K)``, similarities of samples and prototypes; N may be below K.
        epsilon: ε > 0; the smaller, the nearer to a hard assignment.
        iterations: >= 1.

    Returns:
        ``(N, K)`` codes without gradient, float32 at least; each row sums to 1. They are 1/K if all
        samples have the same scores.

    Raises:
        ValueError: scores of another shape, or a value out of range.

    Source: SwAV (arXiv 2006.09882), Eqs. 3 to 5 and Algorithm 1; Cuturi (arXiv 1306.0895).
    """
    if scores.ndim != 2:
        raise ValueError(f"expected scores (N, K), got {tuple(scores.shape)}")
    _check_sinkhorn(epsilon, iterations)
    # Constants such as 1/K cancel in the step that comes last.
    return _balanced(wide(scores) / epsilon, iterations).exp()


@torch.no_grad()
def transport_plan(
    cost: Tensor, rows: Tensor, columns: Tensor, epsilon: float = 0.05, iterations: int = 10
) -> Tensor:
    """Return plans Π that move masses at a low cost: ``Σ_ij Π_ij c_ij - ε · entropy`` is least.

    ``Π = exp(-c / ε)``, then ``iterations`` times: the columns' sums become b, the rows' sums a.

    Args:
        cost: c ``(N, P, P)``.
        rows: a ``(N, P)``, the masses to move, scaled to sum to 1; one below 0 counts as 0. An
            image without any mass has the same everywhere.
        columns: b ``(N, P)``, the masses to arrive at, likewise.
        epsilon: ε > 0; the smaller, the nearer to the earth mover's distance, and the more
            iterations are needed.
        iterations: >= 1.

    Returns:
        ``(N, P, P)`` without gradient, float32 at least; its rows sum to a exactly, its columns to
        b nearly. It is a bᵀ if all costs are equal.

    Raises:
        ValueError: shapes that do not fit, or a value out of range.

    Source: Cuturi (arXiv 1306.0895), Algorithm 1.
    """
    if cost.ndim != 3 or rows.shape != cost.shape[:2] or columns.shape != cost.shape[::2]:
        raise ValueError(
            f"expected costs (N, P, P) and masses (N, P) twice, got {tuple(cost.shape)}, "
            f"{tuple(rows.shape)} and {tuple(columns.shape)}"
        )
    _check_sinkhorn(epsilon, iterations)
    log_a, log_b = _log_shares(rows).unsqueeze(2), _log_shares(columns).unsqueeze(1)
    return _balanced(-wide(cost) / epsilon, iterations, log_a, log_b).exp()


def _balanced(
    log_q: Tensor,
    iterations: int,
    log_rows: Tensor | float = 0.0,
    log_columns: Tensor | float = 0.0,
) -> Tensor:
    """Scale columns, then rows, of ``(…, N, K)`` to sums given by their logarithms, repeatedly."""
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=-2, keepdim=True) + log_columns
        log_q = log_q - log_q.logsumexp(dim=-1, keepdim=True) + log_rows
    return log_q


def _log_shares(masses: Tensor) -> Tensor:
    """Return the logarithms of ``(N, P)`` masses scaled to sum to 1, finite also for 0."""
    return wide(masses).clamp_min(torch.finfo(wide(masses).dtype).tiny).log().log_softmax(dim=1)


def _check_sinkhorn(epsilon: float, iterations: int) -> None:
    if not epsilon > 0 or iterations < 1:
        raise ValueError(
            f"expected epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}"
        )


def swapped_prediction_loss(scores: Tensor, codes: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of every view's prediction with the codes of the other views.

    ``-(1/(T·(V-1))) Σ_{t≤T} Σ_{v≠t} Σ_k q_tk log softmax_k(scores_v / τ)``, mean over the batch.

    Args:
        scores: ``(N, V, K)`` cosines of embeddings and prototypes, V >= 2.
        codes: ``(N, T, K)`` of the first T <= V views, see :func:`sinkhorn`; each sums to 1.
        temperature: τ > 0.

    Returns:
        Scalar, float32 at least. It is log(K) if all scores are equal. No gradient reaches codes.

    Raises:
        ValueError: shapes that do not fit, or τ <= 0.

    Source: SwAV (arXiv 2006.09882), Eq. 2, and its section 3.2 for several views.
    """
    _check_shapes(scores, codes)
    check_temperature(temperature)
    return _cross_view_entropy((wide(scores) / temperature).log_softmax(dim=2), codes)


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of the student's views with the teacher's centred and sharpened other views.

    ``-(1/(T·(V-1))) Σ_{t≤T} Σ_{v≠t} Σ_k p_tk log softmax_k(student_v / τ_s)`` with ``p_t =
    softmax((teacher_t - c) / τ_t)``, mean over the batch.

    Args:
        student: ``(N, V, K)`` logits of all views, V >= 2.
        teacher: ``(N, T, K)`` logits of the first T <= V views.
        centre: c ``(K,)``.
        student_temperature: τ_s > 0.
        teacher_temperature: τ_t > 0.

    Returns:
        Scalar, float32 at least. It is log(K) if the student's logits are all equal. No gradient
        reaches teacher and centre.

    Raises:
        ValueError: shapes that do not fit, or a temperature <= 0.

    Source: DINO (arXiv 2104.14294), Eq. 3 and Algorithm 1.
    """
    _check_shapes(student, teacher)
    check_temperature(student_temperature, teacher_temperature)
    if centre.shape != teacher.shape[2:]:
        raise ValueError(f"expected a centre {tuple(teacher.shape[2:])}, got {tuple(centre.shape)}")
    targets = ((wide(teacher) - wide(centre)) / teacher_temperature).softmax(dim=2)
    return _cross_view_entropy((wide(student) / student_temperature).log_softmax(dim=2), targets)


def _cross_view_entropy(log_predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -Σ_k target_tk log p_vk over images and pairs of views with t ≠ v."""
    targets = targets.detach().to(log_predictions.dtype)
    with torch.autocast(targets.device.type, enabled=False):
        pairs = targets @ log_predictions.mT  # (N, T, V)
    same_view = pairs.diagonal(dim1=1, dim2=2)
    return (same_view.sum() - pairs.sum()) / (pairs.numel() - same_view.numel())


def _check_shapes(predictions: Tensor, targets: Tensor) -> None:
    shapes = tuple(predictions.shape), tuple(targets.shape)
    if not (
        predictions.ndim == targets.ndim == 3
        and shapes[0][::2] == shapes[1][::2]
        and 1 <= shapes[1][1] <= shapes[0][1]
        and shapes[0][1] >= 2
    ):
        raise ValueError(
            "expected predictions (N, V, K) with V >= 2 and targets (N, T, K) with 1 <= T <= V, "
            f"got {shapes[0]} and {shapes[1]}"
        )
