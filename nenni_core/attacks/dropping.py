"""Searches that compute only the images which still stand: fooled ones leave the batch at once.

For an attack that is content with any misclassified point of the ball this changes nothing but the time:
what has been found for an image stays found, and the other images are searched as before.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from nenni_core.attacks.margin import margin_of
from nenni_core.attacks.setting import BALL_TOLERANCE, Perturb


class _AllFooled(Exception):
    """Nothing is left to search."""


class DroppingSearch(nn.Module):
    """The model as a library's search sees it: it keeps all rows, of which fooled ones cost nothing.

    The libraries know no way to shrink their batch, so that they are shown constant logits for the rows that
    are done. Their gradient is zero.
    """

    def __init__(self, model: nn.Module, eps: float) -> None:
        super().__init__()
        self.model = model
        self.eps = eps
        self._start: Tensor | None = None

    def fool(self, search: Callable[[Tensor, Tensor], object], x: Tensor, y: Tensor) -> Tensor:
        """For each image a misclassified one of the ball that `search` asked the model about, or `x` itself.

        `search` gets the images that are classified correctly, and their labels.
        """
        with torch.no_grad():
            standing = (self.model(x).argmax(dim=1) == y).nonzero().flatten()
        found = x.clone()
        if len(standing) == 0:
            return found
        self._start, self._labels = x[standing], y[standing]
        self._images = self._start.clone()
        self._logits: Tensor | None = None
        self._rows = torch.arange(len(standing), device=x.device)
        try:
            search(self._start.clone(), self._labels.clone())
        except _AllFooled:
            pass
        finally:
            self._start = None
        found[standing] = self._images
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`; of rows that have been fooled those that they were fooled with."""
        if self._start is None or x.shape != self._start.shape:
            return self.model(x)
        rows = self._rows
        if self._logits is None:
            logits = self.model(x)
            self._logits = logits.detach().clone()
        else:
            live = self.model(x[rows])
            logits = self._logits.index_copy(0, rows, live)
        with torch.no_grad():
            wrong = logits[rows].argmax(dim=1) != self._labels[rows]
            moved = (x[rows] - self._start[rows]).abs().flatten(1).amax(dim=1)
            caught = wrong & (moved <= self.eps + BALL_TOLERANCE)  # NaN is not inside
            self._images[rows[caught]] = x.detach()[rows[caught]]
            self._logits[rows[caught]] = logits.detach()[rows[caught]]
            self._rows = rows[~caught]
        if len(self._rows) == 0:
            raise _AllFooled
        return logits


def in_turn(model: nn.Module, attacks: Iterable[Perturb], *, random: bool) -> Perturb:
    """One attack after the other, each on the images that those before have left standing.

    Of an image that none has fooled, what has come nearest to it: for a `random` model, of which an attack
    sees one draw, that may fool the next one. Such a model's images are all attacked, also those that the one
    draw gets wrong without it.
    """

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        found = x.clone()
        with torch.no_grad():
            lowest = margin_of(model(x), y)
        if random:
            lowest = torch.full_like(lowest, torch.inf)
        for attack in attacks:
            standing = (lowest > 0).nonzero().flatten()
            if len(standing) == 0:
                break
            tried = attack(x[standing], y[standing])
            with torch.no_grad():
                margin = margin_of(model(tried), y[standing])
            nearer = margin < lowest[standing]
            found[standing[nearer]] = tried[nearer]
            lowest[standing[nearer]] = margin[nearer]
        return found

    return perturb
