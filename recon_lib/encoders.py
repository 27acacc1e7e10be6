"""From a brain vector to an embedding: one subject, or several with different voxels."""

import torch
import torch.nn.functional as F
from torch import nn

from recon_lib.errors import DataError


def normalised(vector):
    """A vector (b, size) at length √size, followed by the logarithm of its size: (b, size + 1).

    So betas in any unit are welcome, and a weak response stays a weak response.
    """
    vector = vector.float()
    power = vector.square().mean(1, keepdim=True)
    unit = vector / (power + 1e-6).sqrt()
    return torch.cat([unit, 0.5 * (power + 1e-6).log()], dim=1)


class VectorEncoder(nn.Module):
    """A small MLP from a brain vector of any width to an embedding.

    The vector is layer-normalised and its overall size is handed over separately.

    Parameters
    ----------
    size : int
        Width of the vector.
    width : int
        Width of the embedding.
    dropout : float
        Share of vector entries and hidden units dropped in training.
    """

    def __init__(self, size, width, dropout=0.0):
        super().__init__()
        self.size = size
        self.enter = nn.Linear(size + 1, width)
        self.hidden = nn.Linear(width, width)
        self.leave = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def first(self, vector, enter):
        """The layer that depends on the number of voxels."""
        x = normalised(vector)
        return enter(torch.cat([self.dropout(x[:, :-1]), x[:, -1:]], dim=1))

    def forward(self, vector):  # (b, size) -> (b, width)
        return self.rest(self.first(vector, self.enter))

    def rest(self, h):
        """All later layers: (b, width) -> (b, width)."""
        h = F.silu(h)
        h = h + F.silu(self.hidden(self.dropout(h)))
        return self.leave(h)


class JoinedEncoder(VectorEncoder):
    """A first layer for each subject, then layers that all subjects share.

    Two brains have different voxels, in number and in place, so their betas can share nothing
    before a first linear map. A vector is the subject's index, then its betas, then zeros up to
    the widest subject; see `joined_vectors`.

    Parameters
    ----------
    sizes : sequence of int
        Voxels of each subject.
    width, dropout
        As for `VectorEncoder`.
    """

    def __init__(self, sizes, width, dropout=0.0):
        super().__init__(0, width, dropout)
        self.sizes, self.size = list(sizes), 1 + max(sizes)
        self.enter = nn.ModuleList(nn.Linear(size + 1, width) for size in sizes)

    def forward(self, vector):  # (b, 1 + widest) -> (b, width)
        subject = vector[:, 0].long()
        rows = [(subject == i).nonzero()[:, 0] for i in range(len(self.sizes))]
        if sum(map(len, rows)) < len(vector):
            raise DataError(f"subjects {subject.min()} to {subject.max()} in the vectors; expected "
                            f"0 to {len(self.sizes) - 1}: train the network for all of them")
        # A subject without rows still takes part, so that all processes of a distributed
        # training find the same gradients.
        parts = [self.first(vector[mine, 1 : size + 1], enter)
                 for mine, size, enter in zip(rows, self.sizes, self.enter, strict=True)]
        return self.rest(torch.cat(parts)[torch.cat(rows).argsort()])


def joined_vectors(betas):
    """The vectors that `JoinedEncoder` takes: all trials of all subjects, one below the other.

    Parameters
    ----------
    betas : sequence of (trials, voxels) arrays
        One for each subject; trials and voxels may differ.

    Returns
    -------
    (all trials, 1 + most voxels) float32 tensor
        Index of the subject, its betas, zeros.
    """
    betas = [torch.as_tensor(one, dtype=torch.float32) for one in betas]
    if not betas or any(one.ndim != 2 for one in betas):
        raise DataError(
            f"betas of shapes {[tuple(one.shape) for one in betas]}; expected (trials, voxels) "
            "for one subject or more"
        )
    widest = max(one.shape[1] for one in betas)
    return torch.cat([
        F.pad(F.pad(one, (1, 0), value=float(i)), (0, widest - one.shape[1]))
        for i, one in enumerate(betas)
    ])
