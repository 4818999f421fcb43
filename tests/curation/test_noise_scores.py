"""Noise scores against their equations, written once more in plain float64 loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.embedding.vectors import vector_column
from curation.heads.concept_prototypes import CleanByPrototype, ConceptPrototypesConfig, corrected, fit_prototypes
from curation.heads.fitted_tensors import save_tensors
from curation.heads.learnt_filter import Pairs
from curation.heads.loss_mixture import LossMixtureConfig, NoiseByLoss, fit_losses, fit_mixture, losses
from curation.heads.visual_graph import adjacency, neighbours, smoothed
from pairmill.errors import InputError, RecipeError

D = 12


def unit(rng: np.random.Generator, rows: int) -> Any:
    vectors = rng.standard_normal((rows, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def noisy(rows: int, share: float, seed: int = 0) -> tuple[Pairs, Any]:
    """Pairs of eight things whose captions follow their pictures, but for a share of them; and which those are."""
    rng = np.random.default_rng(seed)
    things = rng.standard_normal((8, D))
    images = things[rng.integers(8, size=rows)] + 0.4 * rng.standard_normal((rows, D))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    swapped = rng.random(rows) < share
    texts = images + 0.05 * rng.standard_normal((rows, D))
    texts[swapped] = texts[rng.permutation(rows)[: swapped.sum()]]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    names = [f"{at:032x}" for at in range(rows)]
    return Pairs(images.astype(np.float16), texts.astype(np.float16), names), swapped


def naive_loss(at: int, pairs: Pairs, against: Pairs, temperature: float) -> float:
    """Of one pair among the others, copies of itself left out."""
    x, y = pairs.images[at].astype(np.float64), pairs.texts[at].astype(np.float64)
    own = math.exp((x @ y - x @ y) / temperature)
    sums = [own, own]
    for u, v in zip(against.images.astype(np.float64), against.texts.astype(np.float64), strict=True):
        if (u == x).all() and (v == y).all():
            continue
        sums[0] += math.exp((x @ v - x @ y) / temperature)
        sums[1] += math.exp((y @ u - x @ y) / temperature)
    return (math.log(sums[0]) + math.log(sums[1])) / 2


def test_the_loss_is_that_of_the_equation_and_a_pair_is_no_negative_of_itself() -> None:
    pairs, _ = noisy(60, 0.3)
    against = Pairs(pairs.images[:20], pairs.texts[:20], [])
    found = losses(pairs, against, 0.07)
    assert found == pytest.approx([naive_loss(at, pairs, against, 0.07) for at in range(60)], abs=1e-9)


def naive_mixture(values: list[float], rounds: int) -> tuple[list[float], list[float], list[float]]:
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    mean = [sum(part) / len(part) for part in (ordered[:half], ordered[half:])]
    middle = sum(ordered) / len(ordered)
    variance = [sum((v - middle) ** 2 for v in ordered) / len(ordered)] * 2
    share = [0.5, 0.5]
    for _ in range(rounds):
        size, total, square = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        members = []
        for v in ordered:
            p = [
                share[c] / math.sqrt(2 * math.pi * variance[c]) * math.exp(-((v - mean[c]) ** 2) / 2 / variance[c])
                for c in (0, 1)
            ]
            members.append([one / sum(p) for one in p])
        for c in (0, 1):
            size[c] = sum(m[c] for m in members)
            total[c] = sum(m[c] * v for m, v in zip(members, ordered, strict=True)) / size[c]
            square[c] = sum(m[c] * (v - total[c]) ** 2 for m, v in zip(members, ordered, strict=True)) / size[c]
        share, mean, variance = [one / len(ordered) for one in size], total, square
    return share, mean, variance


def test_the_mixture_is_that_of_expectation_and_maximisation() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(1, 0.3, 300), rng.normal(4, 0.8, 120)])
    found = fit_mixture(rng.permutation(values))
    share, mean, variance = naive_mixture(values.tolist(), 200)
    assert found.share == pytest.approx(share, abs=1e-5)
    assert found.mean == pytest.approx(mean, abs=1e-5)
    assert found.variance == pytest.approx(variance, abs=1e-5)
    for value in (0.5, 2.0, 2.5, 5.0):
        p = [
            s / math.sqrt(v) * math.exp(-((value - m) ** 2) / 2 / v)
            for s, m, v in zip(share, mean, variance, strict=True)
        ]
        assert found.high(np.array([value]))[0] == pytest.approx(p[1] / sum(p), abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 50), min_size=2, max_size=60))
def test_any_losses_have_probabilities(values: list[float]) -> None:
    found = fit_mixture(np.array(values))
    likely = found.high(np.array(values))
    assert np.isfinite(likely).all() and (likely >= 0).all() and (likely <= 1).all()
    assert found.mean[0] <= found.mean[1] and found.share.sum() == pytest.approx(1)


def nevlp(tmp_path: Path, pairs: Pairs, **keys: Any) -> NoiseByLoss:
    fitted = fit_losses(pairs, **keys)
    save_tensors(tmp_path / "nevlp.safetensors", "nevlp", fitted, fitted.pop("about"))
    return NoiseByLoss.load(LossMixtureConfig(name="nevlp", embedding="x", weights=tmp_path / "nevlp.safetensors"))


def scored(head: Any, pairs: Pairs) -> pa.Table:
    there = np.ones(len(pairs.images), np.bool_)
    return head(vector_column(pairs.images, there), text_embedding_x=vector_column(pairs.texts, there))


def test_pairs_whose_captions_were_swapped_are_noise(tmp_path: Path) -> None:
    pairs, swapped = noisy(3000, 0.3)
    head = nevlp(tmp_path, pairs, references=200, temperature=0.05)
    made = scored(head, pairs)
    against = Pairs(pairs.images[:200], pairs.texts[:200], [])
    expected = [naive_loss(at, pairs, against, 0.05) for at in range(0, 3000, 100)]
    assert made["loss"].to_numpy()[::100] == pytest.approx(expected, rel=1e-6)
    noise = made["noise"].to_numpy()
    assert noise[swapped].mean() > 0.6 > 0.2 > noise[~swapped].mean()


def test_a_row_scores_the_same_among_any_others_and_null_without_a_vector(tmp_path: Path) -> None:
    pairs, _ = noisy(400, 0.3)
    clean = fit_prototypes(pairs, concepts=8)
    save_tensors(tmp_path / "capro.safetensors", "capro", clean, clean.pop("about"))
    config = ConceptPrototypesConfig(name="capro", embedding="x", weights=tmp_path / "capro.safetensors")
    for head in (nevlp(tmp_path, pairs), CleanByPrototype.load(config)):
        whole = scored(head, pairs)
        for size in (1, 7, 50, 399):
            some = [
                scored(head, Pairs(pairs.images[at : at + size], pairs.texts[at : at + size], []))
                for at in range(0, 400, size)
            ]
            assert pa.concat_tables(some).combine_chunks().equals(whole.combine_chunks())
        half = np.arange(400) % 2 == 0
        images = vector_column(pairs.images[half], half)
        made = head(images, text_embedding_x=vector_column(pairs.texts, np.ones(400, np.bool_)))
        assert made.filter(pa.array(half)).equals(whole.filter(pa.array(half)))
        assert all(column.null_count == 200 for column in made.filter(pa.array(~half)).columns)
        nothing = head(vector_column(pairs.images[:0], ~half[:3] & False), text_embedding_x=pa.nulls(3, images.type))
        assert nothing.schema == whole.schema and nothing.column(0).null_count == 3


# CAPro


def naive_adjacency(images: Any, k: int) -> Any:
    x = images.astype(np.float64)
    n = len(x)
    near = []
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: (-(x[i] @ x[j]), j))
        near.append(set(others[:k]))
    mutual = [{j for j in near[i] if i in near[j]} | {i} for i in range(n)]
    v = np.zeros((n, n))
    for i in range(n):
        for j in mutual[i]:
            v[i, j] = math.exp(-(1 - x[i] @ x[j])) if i != j else 1.0
    a = np.zeros((n, n))
    for i in range(n):
        for j in mutual[i]:
            a[i, j] = np.minimum(v[i], v[j]).sum() / np.maximum(v[i], v[j]).sum()
    return a


@pytest.mark.parametrize("k", [1, 3, 5, 100])
def test_the_graph_is_that_of_the_equation(k: int) -> None:
    images = unit(np.random.default_rng(k), 40)
    images[7] = images[3]  # a copy
    expected = naive_adjacency(images, k)
    assert adjacency(images, k).toarray() == pytest.approx(expected, abs=1e-12)
    texts = unit(np.random.default_rng(9), 40).astype(np.float64)
    d = np.diag(1 / np.sqrt(expected.sum(1)))
    s = d @ expected @ d @ texts
    found = smoothed(images, texts.astype(np.float16), k)
    assert found == pytest.approx(s / np.linalg.norm(s, axis=1, keepdims=True), abs=1e-9)


def test_of_equally_near_pictures_the_first_are_neighbours() -> None:
    images = np.repeat(unit(np.random.default_rng(0), 2), [5, 2], axis=0)
    assert neighbours(images, 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1], [0, 6], [0, 5]]


def test_prototypes_and_probabilities_are_those_of_the_equations(tmp_path: Path) -> None:
    pairs, swapped = noisy(600, 0.2, seed=4)
    fitted = fit_prototypes(pairs, concepts=8, neighbours=4, top=10)
    about = fitted.pop("about")
    save_tensors(tmp_path / "capro.safetensors", "capro", fitted, about)
    config = ConceptPrototypesConfig(name="capro", embedding="x", weights=tmp_path / "capro.safetensors")
    made = scored(CleanByPrototype.load(config), pairs).to_pylist()
    t = fitted["textual"].astype(np.float64)
    x, y = pairs.images.astype(np.float64), pairs.texts.astype(np.float64)
    concept = [max(range(len(t)), key=lambda c, i=i: (y[i] @ t[c], -c)) for i in range(600)]
    a = naive_adjacency(pairs.images, 4)
    d = np.diag(1 / np.sqrt(a.sum(1)))
    s = d @ a @ d @ y
    s /= np.linalg.norm(s, axis=1, keepdims=True)
    z = []
    for c in range(len(t)):
        best = sorted((i for i in range(600) if concept[i] == c), key=lambda i, c=c: -(s[i] @ t[c]))[:10]
        mean = x[best].sum(0)
        z.append((mean / np.linalg.norm(mean)).astype(np.float16).astype(np.float64))
    assert len(z) == about["concepts"] == 8
    for i, row in enumerate(made):
        raised = [math.exp(x[i] @ one / 0.1) for one in z]
        likely = [one / sum(raised) for one in raised]
        assert row["concept"] == concept[i]
        assert row["clean"] == pytest.approx(likely[concept[i]], rel=1e-5)
        own = concept[i] if likely[concept[i]] >= 1 / 8 else None
        assert row["label"] == (likely.index(max(likely)) if max(likely) >= 0.6 else own)
    clean = np.array([row["clean"] for row in made])
    assert clean[~swapped].mean() > 2 * clean[swapped].mean()


def test_labels_are_kept_corrected_or_taken_away() -> None:
    likely = np.array([[0.7, 0.2, 0.1], [0.34, 0.33, 0.33], [0.45, 0.45, 0.1], [0.45, 0.3, 0.25]])
    assert corrected(likely, np.array([2, 0, 1, 2], np.int32), 0.6).tolist() == [0, 0, 1, -1]


# Files


def test_files_of_other_heads_and_of_none_are_refused(tmp_path: Path) -> None:
    pairs, _ = noisy(100, 0.2)
    nevlp(tmp_path, pairs)
    other = ConceptPrototypesConfig(name="capro", embedding="x", weights=tmp_path / "nevlp.safetensors")
    with pytest.raises(RecipeError, match="of the head 'nevlp'"):
        CleanByPrototype.load(other)
    config = LossMixtureConfig(name="nevlp", embedding="x", weights=tmp_path / "nevlp.safetensors")
    columns = {"image_embedding_x": pa.list_(pa.float16(), D + 1)}
    with pytest.raises(RecipeError, match=f"gives {D + 1}"):
        NoiseByLoss.probe(config, columns)
    NoiseByLoss.probe(config, {"image_embedding_x": pa.list_(pa.float16(), D)})
    (tmp_path / "words.safetensors").write_bytes(b"no tensors")
    for file in ("words.safetensors", "missing.safetensors"):
        with pytest.raises(RecipeError, match="fit-noise"):
            NoiseByLoss.load(config.model_copy(update={"weights": tmp_path / file}))
    fitted = fit_losses(pairs)
    fitted.pop("about")
    for change in ({"images": fitted["images"][:3]}, {"mixture": np.full((3, 2), np.nan)}, {"temperature": np.ones(2)}):
        save_tensors(tmp_path / "wrong.safetensors", "nevlp", fitted | change, {})
        with pytest.raises(RecipeError, match=r"images|texts|mixture|temperature"):
            NoiseByLoss.load(config.model_copy(update={"weights": tmp_path / "wrong.safetensors"}))


def test_too_few_pairs_are_refused() -> None:
    pairs, _ = noisy(49, 0.2)
    for fit in (fit_losses, fit_prototypes):
        with pytest.raises(InputError, match="50 embedded pairs"):
            fit(pairs)
