"""The objectives `local_global` and `masked_prediction`: a student that sees less predicts its own average."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pairmill.registry import NamedConfig
from training.objectives.declaration import Hides, Kept, Objective, Setup
from training.objectives.head_names import perceptron_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows


class LocalGlobalConfig(NamedConfig):
    """Its teacher, the head, and how sharp each softmax is."""

    decay: float = Field(
        0.999, gt=0, lt=1, description="share of the teacher that a step leaves as it was (0.999: SigLIP 2)"
    )
    temperature: float = Field(0.1, gt=0, description="of the student's softmax (0.1: DINO)")
    teacher_temperature: float = Field(0.04, gt=0, description="of the teacher's softmax (0.04: DINO)")
    centre: float = Field(
        0.9, ge=0, le=1, description="share of the centre that a step leaves as it was (0.9: DINO); 1: no centring"
    )
    hidden: int = Field(2048, ge=1, description="width of the head's two hidden layers (2048: DINO)")
    width: int = Field(256, ge=1, description="width of the projections (256: DINO)")
    prototypes: int = Field(65536, ge=2, description="C, what the softmax is over (65536: DINO)")


class MaskedPredictionConfig(LocalGlobalConfig):
    """As of `local_global`, and what is hidden."""

    image_share: float = Field(
        0.5, gt=0, lt=1, description="share of an image's patches that are hidden (0.5: SigLIP 2)"
    )
    patches: Literal["random", "like_text", "unlike_text"] = Field(
        "random", description="which patches are hidden: any, or those most or least like the row's first text"
    )


class _Prediction(Objective):
    """What both share: the head, the centre, and the loss of what is predicted."""

    Config = LocalGlobalConfig
    config: LocalGlobalConfig
    keeps = (Kept("centre", "replicated", "mean logits of the teacher over the latest batches, [C]"),)
    parameters = (*perceptron_names(("head",), 3), "prototypes")
    undecayed = ("prototypes",)
    #: What the head projects, of the student and of the teacher.
    names: ClassVar[tuple[str, str]]

    @property
    def teacher_decay(self) -> float:
        """See `Objective`."""
        return self.config.decay

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        import torch

        return {"centre": torch.zeros(self.config.prototypes, device=setup.device)}

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.self_distillation import PrototypeHead

        hidden = self.config.hidden
        widths = (self._width(setup), hidden, hidden, self.config.width)
        return PrototypeHead(widths, self.config.prototypes, self.names)

    def _width(self, setup: Setup) -> int:
        return setup.width

    @abstractmethod
    def taught(self, features: Features, rows: Rows) -> tuple[Tensor, Tensor]:
        """What the teacher projected [B, …, E], and what of it counts [B, …]."""

    def predicted(self, student: Tensor, taught: Tensor, features: Features) -> Tensor:
        """Losses [N, V] of the student's [N, V, E] with the teacher's [N, E]."""
        from training.losses.self_distillation import prediction_losses

        teacher = self.teacher_of(features)
        return prediction_losses(
            student,
            taught,
            (features.own.shared["prototypes"], teacher.own.shared["prototypes"]),
            self.state["centre"],
            (self.config.temperature, self.config.teacher_temperature),
            self.setup.tile[0] * self.setup.tile[1],
        )

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """Move the centre towards what the teacher made of this step's rows."""
        from training.losses.present import zeroed
        from training.losses.self_distillation import moved_centre

        taught, counted = self.taught(features, rows)
        total = exchange.total(zeroed(taught, counted).flatten(0, -2).double().sum(0))
        count = exchange.total(counted.sum())
        if count > 0:
            prototypes = self.teacher_of(features).own.shared["prototypes"]
            self.state["centre"] = moved_centre(self.state["centre"], total / count, prototypes, self.config.centre)


class LocalGlobal(_Prediction):
    """What a small part of an image shows predicts what a slow average of the model makes of the whole image.

        p_i = softmax((C̄ h̄(x̄_i) - c) / τ_t),   q_iv = softmax(C h(x̃_iv) / τ)
        L   = -mean_i mean_v Σ_j p_ij log q_ivj
        c  ← m c + (1 - m) mean_i C̄ h̄(x̄_i)

    x̃: `image_views`, the local crops; x̄: the teacher's embedding of the image as it is trained on anyway, the global
    view; h: the head, whose output has norm 1; C: prototypes of norm 1; bars: the teacher's own head and prototypes;
    c: the centre, without which all images would fall on one prototype.  The teacher gets no gradient.

    A term, added to `siglip` with weight 1 for the last fifth of the run (`start: 0.8`); SigLIP 2 weighs it and
    `masked_prediction` together by 0.25, 0.5, 1 and 0.5 for its sizes B, L, So400m and g.  It has eight local crops:
    `data.views: {number: 8, scale: [0.05, 0.4]}` (SILC, Naeem et al. 2023).  Here they are as large as the image, where
    SILC's are smaller, so each takes as long as another image.  The image itself should show most of the picture
    (`data.augment.scale`).  No code was released: temperatures, centre and head are DINO's (Caron et al. 2021), without
    its warm-up, and with layer norm and ReLU in the head's hidden layers.  The same in every mode.  Logits exist one
    tile at a time.
    """

    paper = "SigLIP 2, Tschannen et al. 2025"
    needs = ("teacher", "image_views")
    teacher_further = False
    optional_tensors = ("teacher_text",)
    names = ("image_views", "image")

    def taught(self, features: Features, rows: Rows) -> tuple[Tensor, Tensor]:
        """See `_Prediction`."""
        return self.teacher_of(features).own.rows["image"], rows.text_mask_BK.any(1)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean, zeroed

        taught_BE, there = self.taught(features, rows)
        student_BVE = zeroed(features.own.rows["image_views"], there)
        losses_B = self.predicted(student_BVE, zeroed(taught_BE, there), features).mean(1)
        total = batch_mean(losses_B, there, exchange)
        return LossOutput(total, {self.config.name: total.detach()})


class MaskedPrediction(_Prediction):
    """At a patch that is hidden from it, the model predicts what a slow average of it makes of the patch it sees.

        L = -mean over hidden patches of Σ_j p_j log q_j

    p: softmax of the teacher's patch over prototypes, of the whole input; q: of the student's, of the masked input; as
    in `local_global`, where the centre is here the mean over all patches.  A term of weight 0.25 beside `local_global`.
    SigLIP 2 hides half of the patches, as TIPS does (Maninis et al. 2024).  Head and prototypes are its own.  Beside
    `denoise` or `masked_image`, which share the pass, all must hide the same.  The same in every mode.  Logits exist
    one tile at a time.
    """

    Config = MaskedPredictionConfig
    config: MaskedPredictionConfig
    paper = "SigLIP 2, Tschannen et al. 2025"
    needs = ("teacher", "tokens", "masked")
    teacher_tensors = ("image_tokens",)
    optional_tensors = (
        *("image_tokens", "text_tokens", "masked_text_tokens", "text_token_hidden"),
        *("teacher_image", "teacher_text"),
    )
    names = ("masked_image_tokens", "image_tokens")

    @property
    def hides(self) -> Hides:
        """See `Objective`."""
        return Hides(self.config.image_share, None, self.config.patches)

    def _width(self, setup: Setup) -> int:
        return setup.token_width or setup.width

    def taught(self, features: Features, rows: Rows) -> tuple[Tensor, Tensor]:
        """See `_Prediction`."""
        taught_BPE = self.teacher_of(features).own.rows["image_tokens"]
        return taught_BPE, rows.text_mask_BK.any(1)[:, None].expand(taught_BPE.shape[:2])

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        import torch

        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean

        taught_BPE, there_BP = self.taught(features, rows)
        hidden_BP = features.asked["image_token_hidden"] & there_BP
        student_TE = features.own.rows["masked_image_tokens"][hidden_BP]
        losses_T = self.predicted(student_TE[:, None], taught_BPE[hidden_BP], features)[:, 0]
        total = batch_mean(losses_T, torch.ones_like(losses_T, dtype=torch.bool), exchange)
        return LossOutput(total, {self.config.name: total.detach()})
