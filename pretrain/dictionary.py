"""The FIFO dictionary of MoCo, with any number of tables kept in the same order."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dictionary(nn.Module):
    """First-in-first-out tables of L2-normalised rows that share one write position.

    Row i of every table comes from the same image, which MLS needs: labels found in one table are
    the labels of the other's rows. All of it is buffers, so checkpoints hold it.

    Args:
        size: rows D of every table.
        channels: table name → channels d.
    """

    position: Tensor

    def __init__(self, size: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a dictionary needs at least one row, got size {size}")
        self.size = size
        self.names = tuple(channels)
        for name, width in channels.items():
            # On the unit sphere, as in MoCo.
            self.register_buffer(name, F.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def __getitem__(self, name: str) -> Tensor:
        """Return the table ``name``, ``(D, d)``: the live buffer, which enqueue overwrites."""
        return getattr(self, name)

    @torch.no_grad()
    def enqueue(self, rows: Mapping[str, Tensor]) -> None:
        """Overwrite the oldest rows of every table.

        Args:
            rows: one ``(N, d)`` tensor per table, in the same image order; normalised here.
                N <= D.

        Raises:
            ValueError: a table is missing or unknown, the counts differ, or N is 0 or above D.
        """
        counts = {name: len(value) for name, value in rows.items()}
        if set(counts) != set(self.names) or len(set(counts.values())) != 1:
            raise ValueError(f"expected equally many rows for each of {self.names}, got {counts}")
        count = next(iter(counts.values()))
        if not 0 < count <= self.size:
            raise ValueError(f"{count} rows do not fit into the dictionary of {self.size}")
        # Index arithmetic on the device: reading the position back would make the host wait.
        index = (self.position + torch.arange(count, device=self.position.device)) % self.size
        for name in self.names:
            table = self[name]
            table.index_copy_(0, index, F.normalize(rows[name].to(table.dtype), dim=1))
        self.position.add_(count).remainder_(self.size)


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    """Return exp(entropy) of the normalised eigenvalues of ``rowsᵀ rows``: 1 … d, a soft rank.

    1 means that all rows are parallel (collapse), d that they fill the space evenly.

    Args:
        rows: ``(D, d)``, not centred.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, on squared singular values.
    """
    values = torch.linalg.eigvalsh((rows.T @ rows).double()).clamp_min(0)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.exp(torch.special.entr(shares).sum())
