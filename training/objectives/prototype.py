"""The objective `prototype`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from training.objectives.declaration import Kept, Objective, Setup
from training.objectives.head_names import perceptron_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.gather import Exchange
    from training.losses.loss_inputs import LossOutput
    from training.model import Features, Rows

#: The tensors of the state that have a row for each cluster.
_CLUSTERS = ("image_centroids", "text_centroids", "image_of_text", "text_of_image")


class PrototypeConfig(NamedConfig):
    """Its episodes and clusters, and the widths of the projectors."""

    episode: int = Field(
        200_000,
        ge=2,
        description="rows after which clusters are found anew, in those rows (200,000: the paper); takes 8·width bytes "
        "each, in every checkpoint too",
    )
    clusters: int = Field(
        20_000, ge=2, description="prototypes of each modality (20,000: the paper, a tenth of the rows)"
    )
    iterations: int = Field(20, ge=1, description="of k-means (20: released)")
    restarts: int = Field(3, ge=1, description="of k-means from other rows, of which the best counts (3: the paper)")
    target_temperature: float = Field(
        0.01, gt=0, description="softness of the target over prototypes near to the own one (0.01: the paper)"
    )
    temperature: float = Field(
        0.07, gt=0, description="of the predictions, where it begins; it is learnt (0.07: released)"
    )
    hidden: int = Field(2048, ge=1, description="width of the projectors' hidden layer (2048: released)")
    width: int = Field(128, ge=1, description="width of the projections (128: the paper)")

    @model_validator(mode="after")
    def _some_in_each(self) -> PrototypeConfig:
        if self.clusters > self.episode:
            raise RecipeError(
                "loss.objective prototype: an episode must have a row for each cluster at least",
                value=f"clusters: {self.clusters}, episode: {self.episode}",
                fix="set clusters to a tenth of episode",
            )
        return self


class Prototype(Objective):
    """An image tells to which cluster of texts its text belongs, and a text to which cluster of images its image does.

        C^T, C^I    centroids of k-means on the texts, and on the images, of the last episode
        C^{I←T}_c   mean of the images whose texts were in cluster c (prototypical back translation); C^{T←I} alike
        L_I = CE(s h_i C^{I←T}ᵀ, softmax(C^T[y_ik] C^Tᵀ / τ_y)),   y_ik: the centroid of texts nearest to h_ik
        L   = ½ mean_i mean_k (L_I + L_T)

    h are projections of norm 1 of image and texts; s is a scale of its own, 100 at most; an empty C^{I←T}_c is zero.
    An episode is the latest rows that were trained on: the projections of images and first texts that the steps made,
    in the order of the rows' ids.  At its end all ranks together compute k-means of them.  Until the first episode is
    over the loss is 0: the paper's warm-up.  State is replicated, so it resumes bit for bit, and needs no job beside
    the run.

    The paper takes an episode's rows twice: first without learning, for the clusters, whose labels then hold for the
    whole episode.  That costs another forward pass; here the clusters are of the rows before, and a row's label is its
    nearest centroid.  A cluster without rows keeps its centroid, where faiss splits another one.  The norm in the
    projectors is layer norm, where the paper has batch norm.  Left out: the external teacher's clusters (L_E), and the
    last epoch with a locked image tower, which is `model.lock_image` in another run.

    A term, added to `clip` with weight 1.  k-means takes 4·iterations·restarts·episode·clusters·width products, about
    two seconds on a large GPU at the defaults, and hours on a CPU.  Logits and distances exist one tile at a time.  The
    same in every mode.
    """

    paper = "ProtoCLIP, Chen et al. 2022"
    Config = PrototypeConfig
    config: PrototypeConfig
    parameters = (*perceptron_names(("image", "text"), 2), "log_scale")
    keeps = (
        Kept("episode_image", "replicated", "projections of the images of this episode so far"),
        Kept("episode_text", "replicated", "those of their first texts"),
        Kept("filled", "replicated", "how many rows these hold"),
        Kept("image_centroids", "replicated", "C^I"),
        Kept("text_centroids", "replicated", "C^T"),
        Kept("image_of_text", "replicated", "C^{I←T}"),
        Kept("text_of_image", "replicated", "C^{T←I}"),
        Kept("rounds", "replicated", "how often clusters were found"),
    )

    def start(self, setup: Setup) -> Mapping[str, Tensor]:
        """See `Objective`."""
        import torch

        episode, clusters, width = self.config.episode, self.config.clusters, self.config.width
        rows = {"episode_image": episode, "episode_text": episode}
        rows |= dict.fromkeys(_CLUSTERS, clusters)
        return {
            **{name: torch.zeros(number, width, device=setup.device) for name, number in rows.items()},
            **{name: torch.zeros((), dtype=torch.int64, device=setup.device) for name in ("filled", "rounds")},
        }

    def heads(self, setup: Setup) -> nn.Module:
        """See `Objective`."""
        from training.losses.projectors import ScaledProjectors

        return ScaledProjectors((setup.width, self.config.hidden, self.config.width), self.config.temperature)

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        """See `Objective`."""
        from training.losses.loss_inputs import LossOutput
        from training.losses.present import batch_mean
        from training.losses.tiles import wide

        mask_BK = rows.text_mask_BK
        image_BE, text_BKE = _projected(features, rows)
        scale = wide(features.own.shared["scale"]).clamp(max=100.0)
        if int(self.state["rounds"]) == 0:
            total = 0.0 * (image_BE.sum() + text_BKE.sum() + scale)
            return LossOutput(total, {self.config.name: total.detach()})
        row_T, text_TE = mask_BK.nonzero()[:, 0], text_BKE[mask_BK]
        losses_T = self._losses(image_BE[row_T], text_TE, scale)
        each_BK = losses_T.new_zeros(mask_BK.shape).masked_scatter(mask_BK, losses_T)
        total = batch_mean(each_BK.sum(1) / mask_BK.sum(1).clamp(min=1), mask_BK.any(1), exchange)
        return LossOutput(total, {self.config.name: total.detach()})

    def take_state(self, given: Mapping[str, Tensor]) -> None:
        """See `Objective`; clusters, of any number, are given all four tensors at once and count as found."""
        missing = [name for name in _CLUSTERS if name not in given]
        if 0 < len(missing) < len(_CLUSTERS):
            raise RecipeError(
                f"loss.objective {self.config.name} must be given all tensors of its clusters: {', '.join(_CLUSTERS)}",
                value=f"without {', '.join(missing)}",
                fix="add what is missing",
            )
        clusters = next((len(given[name]) for name in _CLUSTERS if name in given), self.config.clusters)
        for name in _CLUSTERS:
            self.state[name] = self.state[name][:1].expand(clusters, -1)
        found = {} if missing else {"rounds": self.state["rounds"].new_ones(())}
        super().take_state({**found, **given})

    def _losses(self, image_TE: Tensor, text_TE: Tensor, scale: Tensor) -> Tensor:
        """½ (L_I + L_T) of pairs [T]."""
        from training.losses.kmeans import nearest
        from training.losses.self_distillation import prediction_losses
        from training.precision import full_precision

        losses, tile = scale.new_zeros(()), self.setup.tile
        ways = (
            (image_TE, text_TE, "text_centroids", "image_of_text"),
            (text_TE, image_TE, "image_centroids", "text_of_image"),
        )
        for student, other, centroids, translated in ways:
            its_CE, own_CE = (self.state[name].to(scale.dtype) for name in (centroids, translated))
            with full_precision(scale.device):
                label_T, _ = nearest(other.detach(), its_CE, tile)
            found = prediction_losses(
                (scale * student)[:, None],
                its_CE[label_T],
                (own_CE, its_CE),
                its_CE.new_zeros(len(its_CE)),
                (1.0, self.config.target_temperature),
                tile[0] * tile[1],
            )
            losses = losses + found[:, 0] / 2
        return losses

    def after_step(self, features: Features, rows: Rows, exchange: Exchange) -> None:
        """Take this step's rows into the episode; at its end, find clusters."""
        from training.losses.present import first_text

        image_BE, text_BKE = _projected(features, rows)
        there = exchange.everyone(rows.text_mask_BK.any(1))
        ids = exchange.everyone(rows.sample_id_B)[there]
        order = ids.argsort(stable=True)
        filled = int(self.state["filled"])
        for name, values in (("episode_image", image_BE), ("episode_text", first_text(text_BKE, rows.text_mask_BK))):
            kept = self.state[name].clone()
            coming = exchange.everyone(values)[there][order][: len(kept) - filled].to(kept.dtype)
            kept[filled : filled + len(coming)] = coming
            self.state[name] = kept
        filled = min(filled + len(ids), self.config.episode)
        if filled == self.config.episode:
            self._find(exchange)
            filled = 0
        self.state["filled"] = self.state["filled"].new_tensor(filled)

    def _find(self, exchange: Exchange) -> None:
        from training.losses.kmeans import clusters, means_by_label
        from training.precision import full_precision

        how, rounds = self.config, int(self.state["rounds"])
        with full_precision(self.setup.device):
            image, text = (
                clusters(
                    self.state[name],
                    how.clusters,
                    iterations=how.iterations,
                    restarts=how.restarts,
                    seed=self.setup.seed + rounds,
                    exchange=exchange,
                    tile=self.setup.tile,
                )
                for name in ("episode_image", "episode_text")
            )
        self.state |= {
            "image_centroids": image.centroid_CE,
            "text_centroids": text.centroid_CE,
            "image_of_text": means_by_label(self.state["episode_image"], text.label_N, how.clusters),
            "text_of_image": means_by_label(self.state["episode_text"], image.label_N, how.clusters),
            "rounds": self.state["rounds"] + 1,
        }


def _projected(features: Features, rows: Rows) -> tuple[Tensor, Tensor]:
    """Projections of images [B, E] and texts [B, K, E] of norm 1; zeros for what is missing."""
    import torch
    import torch.nn.functional as F  # noqa: N812  torch's own name for it

    from training.losses.present import zeroed
    from training.losses.tiles import wide

    mask_BK = rows.text_mask_BK
    found = []
    for name, there in (("image", mask_BK.any(1)), ("text", mask_BK)):
        # Not of zeros, where the direction has no gradient.
        values = torch.where(there[..., None], wide(features.own.rows[name]), 1.0)
        found.append(zeroed(F.normalize(values, dim=-1), there))
    return found[0], found[1]
