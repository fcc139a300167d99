"""Judges: their mathematics, intervals that stay honest, and one clear line for what they cannot judge."""

import math

import numpy as np
import pytest
import torch

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.errors import InputError
from foveate.evaluate.iou import Overlap, confusion, lost_overlap, mean_iou
from foveate.evaluate.judges import JUDGES, Classes, Embedding, Masks, make_judge, nearest, shown, sound
from foveate.evaluate.masks import VOID
from foveate.evaluate.metrics import mean_share, unseen_share, wilson
from foveate.facts import OUTPUTS


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


GIVEN = {"classes": normal(30, 5), "embedding": normal(30, 8), "masks": normal(30, 3, 6, 4)}
LABELS = {
    "classes": np.arange(30) % 5,
    "embedding": np.arange(30) % 4,
    "masks": np.random.default_rng(1).integers(0, 3, (30, 6, 4)).astype(np.uint8),
}


# Laws of every kind.


def test_every_kind_of_output_has_a_judge_of_that_name():
    assert sorted(JUDGES) == sorted(OUTPUTS) and all(JUDGES[kind].kind == kind for kind in JUDGES)
    with pytest.raises(InputError, match="unknown kind of output 'boxes'; known: classes, embedding, masks"):
        make_judge("boxes", GIVEN["classes"])


@pytest.mark.parametrize("kind", OUTPUTS)
def test_what_did_not_move_is_not_judged_to_have(kind):
    given, labels = GIVEN[kind], LABELS[kind]
    judge = make_judge(kind, given, labels)
    q = judge.quality(given.copy())
    assert (judge.distance(given) == 0).all() and (judge.changed(given) == 0).all()
    assert q.agreement.value == 100 and q.agreement.high == 100 and q.distance.value == 0 and q.drop.value == 0
    # No photograph changed, of thirty: Wilson's interval says how many others may.
    assert q.agreement.low == pytest.approx(100 * wilson(30, 30)[0]) and q.agreement.low < 90
    assert q.drop.low < -5 and q.drop.high > 5
    assert q.cost.name == "drop" and q.score.n == q.drop.n == q.agreement.n == q.distance.n == 30
    assert make_judge(kind, given).quality(given).cost.high == pytest.approx(100 - q.agreement.low)
    assert sound(given, given) == 300


@pytest.mark.parametrize("kind", OUTPUTS)
def test_more_noise_is_judged_worse_and_every_figure_lies_in_its_interval(kind):
    given, labels = GIVEN[kind], LABELS[kind]
    judge = make_judge(kind, given, labels, seed=3)
    little, much = (judge.quality(given + s * normal(*given.shape, seed=9)) for s in (0.1, 2.0))
    assert 0 < little.distance.value < much.distance.value and little.agreement.value > much.agreement.value
    for found in (little, much):
        for r in found.results():
            assert r.low is None or r.low <= r.value <= r.high, r
    again = make_judge(kind, given, labels, seed=3).quality(given + 0.1 * normal(*given.shape, seed=9))
    assert again == little


@pytest.mark.parametrize("kind", OUTPUTS)
def test_photographs_are_judged_alone_as_among_others(kind):
    given, at = GIVEN[kind], np.array([7, 2, 29])
    judge, answer = make_judge(kind, given, LABELS[kind]), given + 0.5 * normal(*given.shape, seed=4)
    np.testing.assert_allclose(judge.distance(answer[at], at), judge.distance(answer)[at], rtol=1e-6)
    everybody = np.arange(30)
    for ask in (judge.changed, judge.right):
        np.testing.assert_allclose(ask(answer[at], at), ask(answer, everybody)[at])
    assert make_judge(kind, given).right(answer) is None and make_judge(kind, given).quality(answer).score is None


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda x: np.where(x == x.flat[0], np.nan, x), "NaN or infinite for 1 of 30"),
        (lambda x: x[..., None], "outputs of shape .*; allowed: "),
        (lambda x: x[:0], "zero"),
    ],
)
def test_outputs_that_are_none_are_refused_in_a_line(kind, fault, message):
    given = GIVEN[kind]
    for ask in (lambda: make_judge(kind, fault(given)), lambda: make_judge(kind, given).quality(fault(given))):
        with pytest.raises(InputError, match=message if "zero" not in message else "zero|against") as e:
            ask()
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="against"):
        make_judge(kind, given).distance(given, np.arange(3))


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("classes", np.full(30, 5), "label 5 or 5; allowed: 0 to 4"),
        ("classes", np.zeros(29, int), "29 labels for 30 outputs"),
        ("embedding", np.zeros((30, 2), int), r"labels of shape \(30, 2\) for 30 embeddings"),
        ("masks", np.zeros((30, 4, 6), np.uint8), r"true masks of shape \(30, 4, 6\)"),
        ("masks", np.full((30, 6, 4), 3, np.uint8), "true masks hold the class 3; allowed: 0 to 2, void: 255"),
        ("masks", np.full((30, 6, 4), VOID, np.uint8), "void .255. throughout"),
    ],
)
def test_labels_that_do_not_fit_are_refused_in_a_line(kind, labels, message):
    with pytest.raises(InputError, match=message) as e:
        make_judge(kind, GIVEN[kind], labels)
    assert "\n" not in str(e.value)


# Classes.


def test_permuted_classes_are_judged_alike():
    given, answer, order = GIVEN["classes"], GIVEN["classes"] + normal(30, 5, seed=2), np.array([3, 1, 4, 0, 2])
    a = Classes(given, LABELS["classes"]).quality(answer)
    b = Classes(given[:, order], np.argsort(order)[LABELS["classes"]]).quality(answer[:, order])
    assert [r.value for r in a.results()] == pytest.approx([r.value for r in b.results()])


def test_one_logit_is_the_logits_nought_and_itself():
    z, moved, labels = normal(40, 1), normal(40, 1) + normal(40, 1, seed=5), np.arange(40) % 2
    two = lambda x: np.concatenate([0 * x, x], 1)
    a, b = Classes(z, labels), Classes(two(z), labels)
    assert a.quality(moved) == b.quality(two(moved))
    for one, other in ((a.distance, b.distance), (a.changed, b.changed), (a.right, b.right)):
        np.testing.assert_array_equal(one(moved), other(two(moved)))
    p, q = (1 / (1 + np.exp(-x[:, 0].astype(float))) for x in (z, moved))
    binary = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(a.distance(moved), binary, atol=1e-12)
    np.testing.assert_array_equal(a.changed(moved), (z > 0)[:, 0] != (moved > 0)[:, 0])
    with pytest.raises(InputError, match="label 2 or 0; allowed: 0 to 1"):
        Classes(z, np.arange(40) % 3)


# Embeddings.


def test_a_rotation_moves_every_vector_and_no_neighbour():
    given = GIVEN["embedding"]
    judge, turned = Embedding(given, LABELS["embedding"]), given @ rotation(8)
    q = judge.quality(turned)
    assert q.agreement.value == 100 and q.drop.value == 0 and q.distance.value > 0.1
    assert q.distance.name == "cosine_distance"
    others = {r.name: r for r in q.others}
    cosines = (given * turned).sum(1) / np.linalg.norm(given, axis=1) / np.linalg.norm(turned, axis=1)
    assert others["worst_cosine"].value == pytest.approx(cosines.min(), abs=1e-6)
    assert others["cosine"].value == pytest.approx(cosines.mean(), abs=1e-6)
    assert others["cosine"].low < others["cosine"].value < others["cosine"].high
    # Beside the given model's vectors, which a search has, it does move.
    assert judge.changed(turned, np.arange(30)).mean() > 0.2 and judge.changed(turned).max() == 0


def test_lengths_do_not_matter_and_zero_is_no_direction():
    given = GIVEN["embedding"]
    judge = Embedding(given)
    assert judge.distance(given * np.linspace(0.1, 9, 30)[:, None]).max() < 1e-12
    nothing = given.copy()
    nothing[3] = 0
    assert judge.distance(nothing)[3] == pytest.approx(0.5)
    assert Embedding(nothing).distance(nothing)[3] == 0


def test_orthogonal_noise_is_its_angle():
    given = np.zeros((20, 40), np.float32)
    given[:, :20] = normal(20, 20)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    noise = np.zeros_like(given)
    noise[np.arange(20), 20 + np.arange(20)] = 1  # to every vector another direction
    found = Embedding(given).distance(unit + 0.5 * noise)
    np.testing.assert_allclose(found, 1 - 1 / math.sqrt(1 + 0.25), rtol=1e-5)


def test_nearest_is_by_cosine_with_ties_by_index():
    gallery = np.array([[2.0, 0], [0, 1], [9, 0], [1, 1], [-1, 0]])
    index, cosine = nearest(np.array([[1.0, 0]]), gallery, 3)
    assert index.tolist() == [[0, 2, 3]] and cosine[0] == pytest.approx([1, 1, math.sqrt(0.5)])
    index, _ = nearest(gallery, gallery, 9, itself=np.arange(5))
    assert index.shape == (5, 4) and all(i not in row for i, row in enumerate(index))
    many = normal(1100, 6)  # more than are compared at once
    cosines = many @ many.T / np.linalg.norm(many, axis=1)[:, None] / np.linalg.norm(many, axis=1)
    np.fill_diagonal(cosines, -2)
    index, _ = nearest(many, many, 1, itself=np.arange(1100))
    np.testing.assert_allclose(cosines[np.arange(1100), index[:, 0]], cosines.max(1), atol=1e-5)
    with pytest.raises(InputError, match="2 channels against a gallery of 6"):
        nearest(gallery, many, 1)


def test_neighbours_of_two_planted_clusters_tell_them_apart():
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    centres = np.array([[5.0, 0, 0], [0, 5.0, 0]])
    given = centres[labels] + rng.normal(size=(40, 3))
    judge = Embedding(given, labels * 7)  # the names of labels mean nothing
    assert (judge.right(given) == 1).all()
    q = judge.quality(rng.normal(size=(40, 3)))  # another model, which sees nothing
    assert q.score.name == "knn" and 20 < q.score.value < 80 and q.drop.value == pytest.approx(100 - q.score.value)
    alone = labels.copy()
    alone[0] = 2  # the only one of its kind: none of its neighbours can say so
    assert Embedding(given, alone).right(given)[0] == 0


def test_votes_that_tie_go_to_the_more_alike_and_then_to_the_smaller():
    angles = np.radians([0, 10, 20, 30, 40])
    given = np.stack([np.cos(angles), np.sin(angles)], 1)
    # Of the first, all four others vote: two a label. The label of 10 and 20 degrees is nearer than that of 30 and 40.
    assert Embedding(given, np.array([1, 1, 1, 0, 0])).right(given)[0] == 1
    assert Embedding(given, np.array([0, 1, 1, 0, 0])).right(given)[0] == 0
    same = np.ones((3, 2))
    assert Embedding(same, np.array([0, 0, 1])).right(same).tolist() == [1, 1, 0]  # exact ties


def test_a_photograph_alone_has_no_neighbours_to_lose():
    q = Embedding(normal(1, 4), np.zeros(1, int)).quality(normal(1, 4, seed=1))
    assert q.agreement.value == 100 and q.agreement.low < 50 and q.score.value == 0


# Masks.


def masks_of(classes, count=2):
    """Logits whose largest are these classes."""
    return (np.eye(count, dtype=np.float32)[np.asarray(classes)] * 9).transpose(0, 3, 1, 2)


def test_miou_by_hand():
    truth = np.array([[[0, 0], [1, 1]], [[0, VOID], [1, 1]]], np.uint8)
    given, answer = masks_of([[[0, 0], [1, 1]], [[0, 0], [1, 1]]]), masks_of([[[0, 1], [1, 1]], [[0, 1], [1, 0]]])
    judge = Masks(given, truth)
    q = judge.quality(answer)
    # class 0: hits 2, union 3 + 1 more found; class 1: hits 3, union 4 + 1 more found; the void pixel is not judged
    assert q.score.name == "mIoU" and q.score.value == pytest.approx(100 * (2 / 4 + 3 / 5) / 2)
    assert q.drop.value == pytest.approx(100 - q.score.value) and q.drop.low <= q.drop.value <= q.drop.high
    assert judge.right(answer).tolist() == pytest.approx([3 / 4, 2 / 3]) and judge.right(given).tolist() == [1, 1]
    assert judge.changed(answer).tolist() == [1 / 4, 2 / 4]  # void or not, it changed
    assert q.agreement.value == pytest.approx(100 * 5 / 8)


def test_masks_are_classes_pixel_by_pixel(monkeypatch):
    from foveate.evaluate.judges import masks as module

    given, answer = GIVEN["masks"], GIVEN["masks"] + normal(30, 3, 6, 4, seed=2)
    flat = lambda x: x.transpose(0, 2, 3, 1).reshape(-1, 3)
    pixels, judge = Classes(flat(given), LABELS["masks"].ravel()), Masks(given, LABELS["masks"])
    mean = lambda x: x.reshape(30, -1).mean(1)
    np.testing.assert_allclose(judge.distance(answer), mean(pixels.distance(flat(answer))), rtol=1e-4)
    np.testing.assert_allclose(judge.changed(answer), mean(pixels.changed(flat(answer))))
    np.testing.assert_allclose(judge.right(answer), mean(pixels.right(flat(answer))))
    whole = judge.distance(answer)
    monkeypatch.setattr(module, "_AT_ONCE", 13)  # a row at a time
    np.testing.assert_allclose(judge.distance(answer), whole, rtol=1e-6)


def test_one_logit_a_pixel_is_two_classes():
    z, moved, truth = normal(9, 1, 4, 4), normal(9, 1, 4, 4, seed=1), (normal(9, 4, 4, seed=2) > 0).astype(np.uint8)
    two = lambda x: np.concatenate([0 * x, x], 1)
    assert Masks(z, truth).quality(moved) == Masks(two(z), truth).quality(two(moved))


def test_a_photograph_void_throughout_is_nobodys_mistake():
    truth = LABELS["masks"].copy()
    truth[4] = VOID
    judge = Masks(GIVEN["masks"], truth)
    assert judge.right(-GIVEN["masks"])[4] == 1 and math.isfinite(judge.quality(-GIVEN["masks"]).drop.high)


def test_a_paired_interval_is_narrower_than_two_apart():
    rng, given, other = np.random.default_rng(0), Overlap(2), Overlap(2)
    for _ in range(60):  # photographs of very different difficulty, on which both err nearly alike
        truth = rng.integers(0, 2, (20, 20))
        wrong = rng.random((20, 20)) < rng.uniform(0, 0.45)
        more = wrong ^ (rng.random((20, 20)) < 0.02)
        given.add(truth ^ wrong, truth)
        other.add(truth ^ more, truth)
    lost, a, b = lost_overlap(given, other), given.result(), other.result()
    assert lost.value == pytest.approx(a.value - b.value) and lost.low < lost.value < lost.high
    assert lost.high - lost.low < 0.3 * math.hypot(a.high - a.low, b.high - b.low)
    turned = lost_overlap(other, given)
    assert (turned.low, turned.high) == pytest.approx((-lost.high, -lost.low))
    assert lost_overlap(given, other, least=5.0).high == pytest.approx(lost.value + 5)


def test_confusion_is_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(0)
    found, truth = (rng.integers(0, 5, (9, 7)).astype(np.uint8) for _ in range(2))
    truth[0] = VOID
    a, b = (torch.from_numpy(x).long() for x in (found, truth))
    theirs = functional.multiclass_confusion_matrix(a, b, num_classes=5, ignore_index=VOID)
    np.testing.assert_array_equal(confusion(found, truth, 5), theirs.numpy())


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        ([[0, 3]], [[0, 1]], "found class 3; allowed: 0 to 2"),
        ([[0, 1]], [[0, -1]], "true class -1"),
        ([[0, 1]], [[0]], r"shape \(1, 2\) against \(1, 1\)"),
    ],
)
def test_confusion_refuses_what_is_no_class(found, truth, message):
    with pytest.raises(InputError, match=message):
        confusion(np.array(found), np.array(truth), 3)
    assert math.isnan(mean_iou(np.zeros((3, 3), int)))


# Intervals.


def test_an_interval_of_shares_is_honest_at_both_ends_and_a_bootstraps_between():
    whole = mean_share("agreement", np.ones(300))
    assert (whole.value, whole.high) == (100, 100) and whole.low == pytest.approx(100 - 100 * unseen_share(300))
    none = mean_share("agreement", np.zeros(300))
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(100 * unseen_share(300))
    rng = np.random.default_rng(0)
    some = mean_share("agreement", rng.beta(90, 10, 300))  # every photograph changed a little: nothing hides
    assert some.high - some.low < 1.0 and some.low < 90 < some.high
    one = np.ones(300)
    one[0] = 0.9  # one neighbour of three thousand: no better known than before
    assert mean_share("agreement", one).low < 98.8


def test_an_interval_of_shares_covers():
    """Most photographs keep everything and a few lose a lot: what a plain bootstrap covers worst."""
    rng, inside, plain = np.random.default_rng(0), 0, 0
    from foveate.evaluate.metrics import mean_interval

    for seed in range(80):
        shares = np.where(rng.random(100) < 0.02, 0.2, 1.0)
        found = mean_share("agreement", shares, seed=seed)
        inside += found.low <= 100 * (1 - 0.02 * 0.8) <= found.high
        low, high = mean_interval(shares, seed=seed)
        plain += low <= 1 - 0.02 * 0.8 <= high
    assert inside >= 0.93 * 80 > plain


# One photograph's answer, for people.


def test_what_is_shown_of_one_photograph():
    assert [n for n, _ in shown("classes", np.log([0.2, 0.5, 0.3]), ("a", "b", "c"), 2)] == ["b", "c"]
    assert (
        shown("classes", np.array([0.0])) == [("yes", 0.5)]
        and shown("classes", np.array([0.0]), ("cat",))[0][0] == "cat"
    )
    both = shown("classes", np.array([2.0]), ("no cat", "cat"))
    assert [n for n, _ in both] == ["cat", "no cat"] and sum(p for _, p in both) == pytest.approx(1)
    assert shown("embedding", normal(8)) == []
    mask = masks_of([[[0, 0], [0, 1]]], 3)[0]
    assert shown("masks", mask, ("sky", "road", "car")) == [("sky", 0.75), ("road", 0.25)]
    assert shown("masks", normal(1, 2, 2) ** 2 + 1) == [("class 1", 1.0)]
    for kind, row in (("classes", np.zeros(3)), ("masks", mask)):
        with pytest.raises(InputError, match="2 class names for"):
            shown(kind, row, ("a", "b"))


def test_sound_takes_any_shape():
    x = normal(4, 3, 5, 5)
    assert sound(x, x * 0.9) == pytest.approx(20, abs=1e-4) == sound(x.reshape(4, -1), 0.9 * x.reshape(4, -1))
    assert sound(x[0, 0, 0], 0.9 * x[0, 0, 0]) == pytest.approx(20, abs=1e-4)
    with pytest.raises(InputError, match="against"):
        sound(x, x[:, :2])
