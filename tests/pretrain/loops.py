"""Numbers for tests that write equations as loops."""

import math

import torch


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other))


def softmax(values: list[float]) -> list[float]:
    most = max(values)
    powers = [math.exp(value - most) for value in values]
    return [power / sum(powers) for power in powers]


def positions(image_map: torch.Tensor) -> list[list[float]]:
    """Return the vectors of a map ``(d, S, S)``, row by row."""
    return image_map.flatten(1).T.tolist()


def info_nce(query: list[float], key: list[float], others: list[list[float]], tau: float) -> float:
    """Return -log of the key's share among itself and the others."""
    own = math.exp(cosine(query, key) / tau)
    return -math.log(own / (own + sum(math.exp(cosine(query, row) / tau) for row in others)))
