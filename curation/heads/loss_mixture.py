"""How likely a pair is noise, by its contrastive loss: NEVLP (Tao et al. 2024, arXiv 2409.09582), after NLIP.

    loss_i = 1/2 ( -log softmax_j(x_i . y_j / t)[i]  -  log softmax_j(y_i . x_j / t)[i] )
    noise_i = p(component of the higher mean | loss_i)       of two Gaussians fitted to all losses

There it is the loss of the model in training, after an epoch of warm-up, and j are the pairs of a batch.  Here the
model is one that is there, and j are the same pairs for every i, drawn from the run: so a pair's loss does not depend
on the rows that happen to be near it.  A pair is no negative of itself or of a copy of it.

Shapes: N pairs, R reference pairs, D dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from curation.duplicates.exact_products import by_value, exact, exact_pairs
from curation.embedding.vectors import vectors_of
from curation.heads.fitted_tensors import FittedHead, load_tensors
from curation.heads.learnt_filter import FEWEST, Pairs
from pairmill.errors import InputError
from pairmill.registry import NamedConfig

Doubles = npt.NDArray[np.float64]

#: The temperature at which CLIP and open_clip end.
TEMPERATURE = 0.01

#: Least variance of a component, in nats squared, as scikit-learn adds to every one; rounds, and the gain of the mean
#: log-likelihood below which they end.
_LEAST_VARIANCE, _ROUNDS, _GAIN = 1e-6, 2000, 1e-12

_BLOCK = 2048


class LossMixtureConfig(NamedConfig):
    """Which losses."""

    embedding: str = Field(description="name in the section `embed`")
    weights: Path = Field(description="file of `pairmill fit-noise --score nevlp`, fitted to that embedding")


class Mixture(NamedTuple):
    """Two Gaussians, that of the lower mean first: share, mean and variance, [2] each."""

    share: Doubles
    mean: Doubles
    variance: Doubles

    def high(self, values: Doubles) -> Doubles:
        """The posterior of the component of the higher mean."""
        densities = _log_densities(values, self)
        return 1 / (1 + np.exp(np.clip(densities[:, 0] - densities[:, 1], -700, 700)))


class NoiseByLoss(FittedHead):
    """The probability that a pair is noise, by its contrastive loss (NEVLP), of a file of `pairmill fit-noise`.

    Columns: NAME, the probability; NAME_loss, the loss in nats.
    """

    Config = LossMixtureConfig
    columns = pa.schema([("noise", pa.float32()), ("loss", pa.float32())])

    @classmethod
    def reads(cls, config: LossMixtureConfig) -> tuple[str, ...]:
        """The vectors of captions."""
        return (f"text_embedding_{config.embedding}",)

    def __init__(self, config: LossMixtureConfig) -> None:
        of_pairs: dict[str, tuple[int | str, ...]] = {"images": ("pairs", "D"), "texts": ("pairs", "D")}
        shapes = of_pairs | {"mixture": (3, 2), "temperature": (1,)}
        found = load_tensors(config.weights, "nevlp", shapes).arrays
        self._embedding = config.embedding
        self._against = Pairs(found["images"].astype(np.float16), found["texts"].astype(np.float16), [])
        self.size = self._against.images.shape[1]
        self._mixture = Mixture(*found["mixture"].astype(np.float64))
        self._temperature = float(found["temperature"][0])

    def __call__(self, images: pa.Array | pa.ChunkedArray, **more: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Columns `noise` and `loss`; null without the vector of the picture or of the caption."""
        pairs, mask = both_vectors(images, more[f"text_embedding_{self._embedding}"])
        values = np.zeros((2, len(mask)))
        if mask.any():
            values[1, mask] = losses(pairs, self._against, self._temperature)
            values[0, mask] = self._mixture.high(values[1, mask])
        columns = [pa.array(one.astype(np.float32), pa.float32(), mask=~mask) for one in values]
        return pa.table(columns, schema=self.columns)


def fit_losses(sample: Pairs, *, references: int = 1024, temperature: float = TEMPERATURE) -> dict[str, Any]:
    """What `NoiseByLoss` loads, by name, and its figures under `about`.

    sample: in an order of chance.  references: so many of its first pairs are the others of every softmax.
    Raises InputError for fewer than `FEWEST` pairs.
    """
    check_enough(sample)
    against = Pairs(sample.images[:references], sample.texts[:references], [])
    found = losses(sample, against, temperature)
    mixture = fit_mixture(found)
    about = {
        "pairs": len(found),
        "references": len(against.images),
        "temperature": temperature,
        "share": mixture.share.tolist(),
        "mean_loss": mixture.mean.tolist(),
        "variance": mixture.variance.tolist(),
        "noise_above_half": float((mixture.high(found) > 0.5).mean()),
    }
    arrays = {
        "images": against.images,
        "texts": against.texts,
        "mixture": np.stack(mixture),
        "temperature": np.array([temperature]),
    }
    return {**arrays, "about": about}


def losses(pairs: Pairs, against: Pairs, temperature: float) -> Doubles:
    """The loss of each pair among the references, [N], in nats.  Sums of products are exact, in any order."""
    found = np.zeros(len(pairs.images))
    known = by_value(against.images), by_value(against.texts)
    for begin in range(0, len(found), _BLOCK):
        x, y = pairs.images[begin : begin + _BLOCK], pairs.texts[begin : begin + _BLOCK]
        own = exact_pairs(x, y)[:, None]
        itself = (by_value(x)[:, None] == known[0]) & (by_value(y)[:, None] == known[1])
        for one, others in ((x, against.texts), (y, against.images)):
            above = (exact(one, others) - own) / temperature
            above[itself] = -np.inf
            most = np.maximum(above.max(1, initial=0.0), 0.0)
            found[begin : begin + _BLOCK] += (most + np.log(np.exp(-most) + np.exp(above - most[:, None]).sum(1))) / 2
    return found


def fit_mixture(values: Doubles) -> Mixture:
    """Two Gaussians by expectation and maximisation, from the halves below and above the median."""
    ordered = np.sort(values)
    halves = np.array_split(ordered, 2)
    mixture = Mixture(
        np.array([0.5, 0.5]),
        np.array([half.mean() for half in halves]),
        np.full(2, max(float(values.var()), _LEAST_VARIANCE)),
    )
    before = -np.inf
    for _ in range(_ROUNDS):
        densities = _log_densities(ordered, mixture)
        likelihoods = np.logaddexp(densities[:, 0], densities[:, 1])
        likely = float(likelihoods.mean())
        if likely - before < _GAIN:
            break
        before = likely
        members = np.exp(densities - likelihoods[:, None])
        size = np.maximum(members.sum(0), 1e-300)
        mean = (members * ordered[:, None]).sum(0) / size
        variance = (members * np.square(ordered[:, None] - mean)).sum(0) / size
        mixture = Mixture(size / len(ordered), mean, np.maximum(variance, _LEAST_VARIANCE))
    order = np.argsort(mixture.mean, kind="stable")
    return Mixture(*(one[order] for one in mixture))


def _log_densities(values: Doubles, mixture: Mixture) -> Doubles:
    """The logarithm of each component's share times its density, [N, 2]."""
    from_mean = np.square(values[:, None] - mixture.mean) / mixture.variance
    found: Doubles = np.log(mixture.share) - (np.log(2 * np.pi * mixture.variance) + from_mean) / 2
    return found


def both_vectors(images: Any, texts: Any) -> tuple[Pairs, npt.NDArray[np.bool_]]:
    """The vectors of the rows that have both, and the mask of those rows."""
    image, has_image = vectors_of(images)
    text, has_text = vectors_of(texts)
    both = has_image & has_text
    return Pairs(image[both[has_image]], text[both[has_text]], []), both


def check_enough(sample: Pairs) -> None:
    """Raise InputError for fewer pairs than say anything."""
    if len(sample.images) < FEWEST:
        raise InputError(
            f"there must be {FEWEST} embedded pairs or more to fit a noise score to",
            value=f"{len(sample.images)}",
            fix="curate more rows, or name another embedding or selection",
        )
