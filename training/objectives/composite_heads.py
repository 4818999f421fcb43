"""The heads of an objective and of its terms, as one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from training.model import SLOT_TENSORS, Own


class Heads(nn.Module):
    """The heads of each by its label; what they make has the label and a dot before its name."""

    def __init__(
        self, heads: Mapping[str, tuple[nn.Module, tuple[str, ...]]], slots: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """heads: by label, a module and the tensors that it asks for.  slots: by label, those it sees; else all."""
        super().__init__()
        self._slots = {label: list(which) for label, which in (slots or {}).items()}
        self._asked = {label: names for label, (_, names) in heads.items()}
        for label, (head, _) in heads.items():
            self.add_module(label, head)

    def forward(self, image_BD: Tensor, text_BKD: Tensor, asked: Mapping[str, Tensor] | None = None) -> Own:
        """What all of them make."""
        rows: dict[str, Tensor] = {}
        shared: dict[str, Tensor] = {}
        for label, names in self._asked.items():
            which = self._slots.get(label, slice(None))
            # A teacher may have been given less than the model.
            tensors = {name: asked[name] for name in names if name in asked} if asked is not None else {}
            tensors = {name: v[:, which] if name in SLOT_TENSORS else v for name, v in tensors.items()}
            given = [tensors] if names and asked is not None else []
            made: Own = self.get_submodule(label)(image_BD, text_BKD[:, which], *given)
            rows |= {f"{label}.{name}": value for name, value in made.rows.items()}
            shared |= {f"{label}.{name}": value for name, value in made.shared.items()}
        return Own(rows, shared)
