"""Matrices of sums whose parts share some coordinates and have others of their own: solved in a time that grows with
the number of parts, not with its cube."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Reduced(NamedTuple):
    """An arrow without its parts' own coordinates.

    half: (k, m, m), half half^T the inverse of each own block, over what that determines.
    coupling: (k, m, s), half^T times the block's border.
    shared: (s, s), the Schur complement, what is known of the shared coordinates whatever the others are.
    """

    half: Tensor
    coupling: Tensor
    shared: Tensor


@dataclass(frozen=True)
class Arrow:
    """A symmetric matrix (n, n), the sum of k parts, at least one.

    A vector (n,) has the s shared coordinates first, then each part's own, part after part.
    parts: (k, s + m, s + m), each in the coordinates it sees, the shared ones first; 0 in what is not there.
    there: (k, m), which own coordinates each part has: the first few.
    """

    parts: Tensor
    there: Tensor

    @classmethod
    def whole(cls, matrix: Tensor) -> "Arrow":
        """Any matrix (n, n), as the only part, all of it shared."""
        return cls(matrix[None], torch.ones(1, 0, dtype=torch.bool, device=matrix.device))

    @property
    def shared(self) -> int:
        """s"""
        return self.parts.shape[-1] - self.there.shape[-1]

    @property
    def size(self) -> int:
        """n"""
        return self.shared + int(self.there.sum())

    def seen(self, vector: Tensor, elsewhere: float = 0.0) -> Tensor:
        """What each part sees (k, s + m) of a vector (n,), and a number for what is not there."""
        own = vector.new_full(self.there.shape, elsewhere)
        own[self.there] = vector[self.shared :]
        return torch.cat([vector[: self.shared].expand(len(own), -1), own], 1)

    def summed(self, seen: Tensor) -> Tensor:
        """The sum (n,) of what the parts say (k, s + m) of what they see."""
        return torch.cat([seen[:, : self.shared].sum(0), seen[:, self.shared :][self.there]])

    def diagonal(self) -> Tensor:
        """(n,)"""
        return self.summed(torch.diagonal(self.parts, dim1=1, dim2=2))

    def roots(self) -> Tensor:
        """Roots (n,) of the diagonal, 1 where it is not positive."""
        diagonal = self.diagonal()
        return torch.sqrt(torch.where(diagonal > 0, diagonal, 1.0))

    def scaled(self, scale: Tensor) -> "Arrow":
        """Rows and columns divided by a scale (n,)."""
        seen = self.seen(scale, elsewhere=1.0)
        return replace(self, parts=self.parts / (seen[:, :, None] * seen[:, None]))

    def raised(self, damping: float) -> "Arrow":
        """With a number added to the diagonal."""
        once = torch.zeros_like(self.parts[..., 0])
        once[0, : self.shared] = 1.0
        once[:, self.shared :] = self.there.to(once)
        return replace(self, parts=self.parts + torch.diag_embed(damping * once))

    def __add__(self, other: "Arrow") -> "Arrow":
        return replace(self, parts=self.parts + other.parts)

    def form(self, vector: Tensor) -> Tensor:
        """v M v () of a vector v (n,)."""
        corner, border, blocks = self._pieces
        shared, own = vector[: self.shared], self.seen(vector)[:, self.shared :]
        return shared @ corner @ shared + (own * (2 * border @ shared + (blocks @ own[..., None])[..., 0])).sum()

    def dense(self) -> Tensor:
        """(n, n)"""
        places = self.seen(torch.arange(self.size, device=self.there.device), elsewhere=0)
        rows, columns = torch.broadcast_tensors(places[:, :, None], places[:, None])
        empty = self.parts.new_zeros(self.size, self.size)
        return empty.index_put((rows, columns), self.parts, accumulate=True)

    def positive_definite(self) -> bool:
        """Whether every form v M v of a v that is not 0 is positive."""
        return bool(self.own_positive_definite().all()) and bool(is_positive_definite(self._reduced.shared))

    def own_positive_definite(self) -> Tensor:
        """Whether the block (k,) of each part's own coordinates is so by itself."""
        return is_positive_definite(self._pieces[2] + torch.diag_embed((~self.there).to(self.parts)))

    def solved(self, right: Tensor) -> Tensor:
        """x (n,) of M x = right (n,), where M is positive semi-definite; 0 in what it does not determine."""
        shared = self._reduced.shared
        cut = self._nothing / max([1e-300, *torch.diagonal(shared).tolist()])
        return self._solved(
            right, lambda rest: torch.linalg.lstsq(shared, rest[:, None], rcond=cut, driver="gelsd").solution[:, 0]
        )

    def newton(self, right: Tensor) -> tuple[Tensor, Tensor]:
        """x (n,) of M x = right (n,) as before, and the diagonal (n,) of the inverse, over what M determines."""
        half, coupling, shared = self._reduced
        relative = len(shared) * torch.finfo(shared.dtype).eps
        inverse = torch.linalg.pinv(shared, atol=self._nothing, rtol=relative, hermitian=True)
        follows = half @ coupling
        own = (half**2).sum(2) + (follows @ inverse * follows).sum(2)
        return self._solved(right, lambda rest: inverse @ rest), torch.cat([inverse.diagonal(), own[self.there]])

    def _solved(self, right: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        """The shared coordinates by `solve` from what is left of them, (s,); the others follow."""
        half, coupling, _ = self._reduced
        known = (half.mT @ self.seen(right)[:, self.shared :, None])[..., 0]
        shared = solve(right[: self.shared] - torch.einsum("kms,km->s", coupling, known))
        own = (half @ (known - coupling @ shared)[..., None])[..., 0]
        return torch.cat([shared, own[self.there]])

    @cached_property
    def _pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is shared (s, s), each part's border (k, m, s) and its own block (k, m, m)."""
        s = self.shared
        return self.parts[:, :s, :s].sum(0), self.parts[:, s:, :s], self.parts[:, s:, s:]

    @cached_property
    def _reduced(self) -> Reduced:
        corner, border, blocks = self._pieces
        values, vectors = torch.linalg.eigh(blocks)
        known = values > self._nothing
        half = vectors * torch.where(known, torch.where(known, values, 1.0).rsqrt(), 0.0)[:, None]
        coupling = half.mT @ border
        return Reduced(half, coupling, corner - torch.einsum("kms,kmt->st", coupling, coupling))

    @cached_property
    def _nothing(self) -> float:
        """An eigenvalue that is 0 to rounding."""
        return self.parts.shape[-1] * torch.finfo(self.parts.dtype).eps * max([0.0, *self.diagonal().tolist()])


def is_positive_definite(matrix: Tensor) -> Tensor:
    """Whether matrices (..., n, n) are, by Cholesky's decomposition (...)."""
    return torch.linalg.cholesky_ex(matrix).info == 0
