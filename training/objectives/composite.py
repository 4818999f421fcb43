"""An objective and the terms that are added to it, as one objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Hides, Objective, Setup, When

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class Term(NamedTuple):
    """What is added to an objective, and how much of it."""

    objective: Objective
    weight: float
    start: float  #: share of the run before it counts
    ramp: float  #: share of the run over which its weight grows to the whole
    slots: tuple[int, ...] | None = None  #: the text slots that it sees; None: all

    def weight_at(self, when: When) -> float:
        """Its weight in a step: 0 before `start`, then rising in a straight line over `ramp`."""
        begun = when.step - self.start * when.steps
        if begun < 0:
            return 0.0
        return self.weight * min(1.0, (begun + 1) / (self.ramp * when.steps)) if self.ramp else self.weight


class Composite(Objective):
    """Total = base + Σ weight · term.

    State and heads of each have its label and a dot before their names.  Temperature and bias begin where the base
    says, else the first term that says something.
    """

    def __init__(self, base: Objective, terms: Mapping[str, Term]) -> None:
        """terms: by label.

        Raises RecipeError for a label given twice, and for members that disagree on a teacher or on what is hidden.
        """
        super().__init__(NamedConfig(name=" + ".join([base.config.name, *terms])))
        self._members: dict[str, Objective] = {base.config.name: base}
        for label, term in terms.items():
            if label in self._members:
                raise RecipeError(
                    "loss.terms must not name the objective that they are added to",
                    value=label,
                    fix="give the term another label, and its name in `objective`",
                )
            self._members[label] = term.objective
        self._base, self._terms = base, dict(terms)
        self._slots = {label: term.slots for label, term in terms.items() if term.slots is not None}
        members = self._members.items()
        self.needs = tuple(dict.fromkeys(need for _, one in members for need in one.needs))
        self.teacher_tensors = tuple(dict.fromkeys(name for _, one in members for name in one.teacher_tensors))
        further = [one for _, one in members if {"image_views", "views", "negatives"} & set(one.needs)]
        self.teacher_further = any(one.teacher_further for one in further)
        self.columns = tuple(dict.fromkeys(column for _, one in members for column in one.columns))
        self.keeps = tuple(kept._replace(name=f"{label}.{kept.name}") for label, one in members for kept in one.keeps)
        self.undecayed = tuple(f"{label}.{name}" for label, one in members for name in one.undecayed)
        self.modes = tuple(mode for mode in base.modes if all(mode in one.modes for _, one in members))
        self.temperature_init = base.temperature_init
        self.mixes_rows = any(one.mixes_rows for _, one in members)
        decays = {one.teacher_decay for _, one in members if "teacher" in one.needs}
        if len(decays) > 1:
            raise RecipeError(
                "loss.objective and loss.terms must agree on the decay of the teacher that they share",
                value=", ".join(map(str, sorted(decays))),
                fix="set the same decay for each",
            )
        self._decay = decays.pop() if decays else super().teacher_decay
        self._hides = _agreed_hides([one.hides for _, one in members if "masked" in one.needs])

    @property
    def bias_init(self) -> float | None:
        """See `Objective`."""
        return next((one.bias_init for one in self._members.values() if one.bias_init is not None), None)

    @property
    def bias_given(self) -> float | None:
        """See `Objective`."""
        return next((one.bias_given for one in self._members.values() if one.bias_given is not None), None)

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self._decay

    @property
    def hides(self) -> Hides:
        """See `Objective`."""
        return self._hides

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        state: dict[str, Tensor] = {}
        for label, one in self._members.items():
            one.begin(self._setup_of(label, setup))
            state |= {f"{label}.{name}": value for name, value in one.state.items()}
        return state

    def heads(self, setup: Setup) -> nn.Module | None:
        """See `Objective`."""
        from training.objectives.composite_heads import Heads

        made = {label: one.heads(self._setup_of(label, setup)) for label, one in self._members.items()}
        found = {label: (head, self._tensors(label)) for label, head in made.items() if head is not None}
        return Heads(found, self._slots) if found else None

    def _setup_of(self, label: str, setup: Setup) -> Setup:
        return setup._replace(slots=len(self._slots[label])) if label in self._slots else setup

    def _tensors(self, label: str) -> tuple[str, ...]:
        """The tensors of `features.asked` that a member's needs name."""
        return self._members[label].tensors

    def _seen_by(self, label: str, features: Features) -> Features:
        """The features as a member alone would get them."""
        from training.model import Own

        begin = f"{label}."
        rows, shared = (
            {name.removeprefix(begin): value for name, value in part.items() if name.startswith(begin)}
            for part in features.own
        )
        teacher, frozen = (
            None if one is None else self._seen_by(label, one) for one in (features.teacher, features.frozen)
        )
        seen = features._replace(own=Own(rows, shared), teacher=teacher, frozen=frozen)
        return seen.with_slots(self._slots[label]) if label in self._slots else seen

    def _rows_of(self, label: str, rows: Rows) -> Rows:
        return rows.with_slots(self._slots[label]) if label in self._slots else rows

    def _ready(self, label: str) -> Objective:
        one, begin = self._members[label], f"{label}."
        one.when, one.form = self.when, self.form
        one.state = {name.removeprefix(begin): v for name, v in self.state.items() if name.startswith(begin)}
        return one

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput

        base, *others = self._weights()
        output = self._output(base, features, rows, exchange)
        total, parts, rates = output.total, dict(output.parts), dict(output.rates)
        for label in others:
            found = self._output(label, features, rows, exchange)
            total, parts[label] = total + found.total, found.total.detach()
            rates |= found.rates
        return LossOutput(total, parts, rates)

    def _weights(self) -> dict[str, float]:
        """By label, the base first: the weights of those that count in this step."""
        weights = {label: term.weight_at(self.when) for label, term in self._terms.items()}
        return {self._base.config.name: 1.0, **{label: weight for label, weight in weights.items() if weight}}

    def _output(self, label: str, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """Of one of them, with its weight in `total`."""
        found = self._ready(label)(self._seen_by(label, features), self._rows_of(label, rows), exchange)
        weight = self._weights()[label]
        return found if label == self._base.config.name else found._replace(total=weight * found.total)

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """See `Objective`."""
        for label in self._members:
            one = self._ready(label)
            one.after_step(self._seen_by(label, features), self._rows_of(label, rows), exchange)
            self.state |= {f"{label}.{name}": value for name, value in one.state.items()}


def _agreed_hides(asked: Sequence[Hides]) -> Hides:
    """What is hidden for all of them, in one pass.  Raises RecipeError where they ask for different things."""
    images = {(one.image, one.patches) for one in asked if one.image is not None}
    texts = {one.text for one in asked if one.text is not None}
    for found in (images, texts):
        if len(found) > 1:
            raise RecipeError(
                "loss.objective and loss.terms must agree on what is hidden from the model, which is encoded once",
                value=" and ".join(sorted(map(str, found))),
                fix="set the same keys image_share, text_share and patches for each",
            )
    image, patches = images.pop() if images else (None, Hides().patches)
    return Hides(image, texts.pop() if texts else None, patches)
