"""Each head, with each switch and dropout, equals the reference in float64."""

import itertools
from typing import Any

import pytest
import reference
import torch
from reference import drop_known_masks, every_third_dropped, keep
from torch import Tensor, nn

from trainable.config.recipe import resolve
from trainable.config.sections import Model
from trainable.config.tasks import PAPER_TASKS, Kind, Task
from trainable.model.heads import HeadOutput, Heads, SharedFCN, build_head, pair_features

HIDDEN, FCN, BATCH, P = 7, 6, 4, 0.3
CLASSES, MAX_SCORE = 3, 2.0

TASKS: dict[str, Task] = {
    "classes": PAPER_TASKS["sentiment"].model_copy(update={"num_classes": CLASSES}),
    "paraphrase": PAPER_TASKS["paraphrase"],
    "similarity": PAPER_TASKS["similarity"].model_copy(update={"max_score": MAX_SCORE}),
    "nli": PAPER_TASKS["nli"],
}
FILES: dict[Any, str] = {"train": "train.csv", "dev": "dev.csv"}
SWITCHES = list(itertools.product([False, True], repeat=3))


def _model(shared: bool, nonlinear: bool, structure: bool, p: float = P) -> Model:
    return Model(
        shared_fcn=shared,
        nonlinear_heads=nonlinear,
        paraphrase_structure=structure,
        fcn_size=FCN,
        head_dropout=p,
    )


def _output_and_reference(
    task: Task, model: Model, num_sides: int, is_training: bool
) -> tuple[HeadOutput, Tensor, list[Tensor]]:
    """The head's output for random sentences, and the reference's outputs and z."""
    torch.manual_seed(0)
    head = build_head(task, HIDDEN, model).double().train(is_training)
    shared = SharedFCN(HIDDEN, model).double().train(is_training) if model.shared_fcn else None
    e = tuple(torch.randn(BATCH, HIDDEN, dtype=torch.float64) for _ in range(num_sides))
    found = head(e, tuple(shared(side) if shared is not None else None for side in e))
    drop = every_third_dropped(P) if is_training else keep
    weights = dict(head.state_dict())
    s: list[Tensor | None] = [None] * num_sides
    if shared is not None:
        s = [reference.shared(dict(shared.state_dict()), side, drop) for side in e]
    if task.kind is Kind.CLASSIFICATION:
        both = [
            reference.classes(weights, *side, nonlinear=model.nonlinear_heads, drop=drop)
            for side in zip(e, s, strict=True)
        ]
        return found, both[0][0], [z for _, z in both]
    if task.kind is Kind.PARAPHRASE and model.paraphrase_structure:
        return found, *reference.structured_logit(weights, e, s, drop=drop)
    if task.kind is Kind.PARAPHRASE:
        return found, *reference.siamese_logit(weights, e, s, drop=drop)
    return found, *reference.similarity_score(weights, e, s, task.max_score, drop=drop)


@pytest.mark.parametrize("is_training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("name", TASKS)
def test_outputs_and_task_embeddings_equal_the_references(
    name: str, switches: tuple[bool, bool, bool], is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an additional side, the second view of SimCSE."""
    monkeypatch.setattr("torch.nn.functional.dropout", drop_known_masks)
    task = TASKS[name]
    num_sides = 2 + task.kind.is_pair
    found, outputs, z = _output_and_reference(task, _model(*switches), num_sides, is_training)
    torch.testing.assert_close(found.outputs, outputs, rtol=1e-12, atol=1e-12)
    assert len(found.embeddings) == num_sides
    for ours, theirs in zip(found.embeddings, z, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (found.distilled, found.rng_state) == (None, None)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_logits_of_paraphrases_have_both_signs(switches: tuple[bool, bool, bool]) -> None:
    """The dot product of rectified projections, for example, is never negative."""
    torch.manual_seed(0)
    model = _model(*switches)
    head, shared = build_head(TASKS["paraphrase"], HIDDEN, model), SharedFCN(HIDDEN, model)
    e = tuple(torch.randn(2, 200, HIDDEN).unbind())
    s = tuple(shared(side) if model.shared_fcn else None for side in e)
    logits = head.eval()(e, s).outputs
    assert bool((logits > 0).any())
    assert bool((logits < 0).any())


def _widths(module: nn.Module) -> dict[str, tuple[int, int]]:
    layers = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


@pytest.mark.parametrize(
    ("name", "switches", "expected"),
    [
        ("classes", (False, False, False), {"out": (HIDDEN, CLASSES)}),
        ("classes", (False, True, False), {"branch.fcn": (HIDDEN, FCN), "out": (FCN, CLASSES)}),
        ("classes", (True, True, True), {"branch.fcn": (HIDDEN, FCN), "out": (2 * FCN, CLASSES)}),
        ("paraphrase", (False, False, False), {"branch.fcn": (HIDDEN, 32)}),
        ("paraphrase", (True, False, False), {"branch.fcn": (HIDDEN, FCN)}),
        (
            "paraphrase",
            (False, False, True),
            {"fcn1": (HIDDEN, FCN), "fcn2": (2 * HIDDEN + FCN, FCN), "out": (FCN, 1)},
        ),
        (
            "paraphrase",
            (True, True, True),
            {"fcn1": (HIDDEN, FCN), "fcn2": (2 * HIDDEN + FCN, FCN), "out": (2 * FCN, 1)},
        ),
        ("similarity", (False, False, False), {"branch.fcn": (HIDDEN, 32)}),
        ("similarity", (True, True, True), {"branch.fcn": (HIDDEN, FCN)}),
    ],
)
def test_layers_have_the_widths_of_the_paper(
    name: str, switches: tuple[bool, bool, bool], expected: dict[str, tuple[int, int]]
) -> None:
    assert _widths(build_head(TASKS[name], HIDDEN, _model(*switches))) == expected
    shared = {"layer1": (HIDDEN, FCN), "layer2": (FCN, FCN)}
    assert _widths(SharedFCN(HIDDEN, _model(*switches))) == shared


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("name", TASKS)
def test_dropout_is_active_in_training_only(name: str, p: float) -> None:
    model, task = _model(True, True, True, p), TASKS[name]
    head, shared = build_head(task, HIDDEN, model), SharedFCN(HIDDEN, model)
    e = tuple(torch.randn(BATCH, HIDDEN) for _ in range(1 + task.kind.is_pair))

    def outputs() -> Any:
        return head(e, tuple(shared(side) for side in e)).outputs

    assert torch.equal(outputs(), outputs()) is (p == 0)
    head.eval(), shared.eval()
    assert torch.equal(outputs(), outputs())
    dropped = shared.train().dropout(torch.ones(100, 100))
    assert abs(float((dropped == 0).double().mean()) - p) < 0.05


@pytest.mark.parametrize("is_training", [False, True], ids=["eval", "train"])
def test_linear_pair_heads_use_product_difference_and_cosine(
    is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.functional.dropout", drop_known_masks)
    model = Model(heads="linear", head_dropout=P)
    head = build_head(TASKS["paraphrase"], HIDDEN, model).double().train(is_training)
    u, v, view = (torch.randn(BATCH, HIDDEN, dtype=torch.float64) for _ in range(3))
    cosines = torch.stack([reference.cosine(x, y) for x, y in zip(u, v, strict=True)])
    features = torch.cat([u * v, torch.maximum(u - v, v - u), cosines[:, None]], dim=1)
    torch.testing.assert_close(pair_features(u, v), features, rtol=1e-12, atol=1e-12)
    assert pair_features(u.bfloat16(), v.bfloat16()).dtype is torch.float32
    found = head((u, v, view), (None,) * 3)
    dropped = every_third_dropped(P)(features) if is_training else features
    expected = reference.linear(dict(head.state_dict()), "out", dropped)[:, 0]
    torch.testing.assert_close(found.outputs, expected, rtol=1e-12, atol=1e-12)
    assert all(one is other for one, other in zip(found.embeddings, (u, v, view), strict=True))
    assert _widths(head) == {"out": (2 * HIDDEN + 1, 1)}


def test_linear_class_heads_use_the_embedding() -> None:
    head = build_head(TASKS["classes"], HIDDEN, Model(heads="linear"))
    assert _widths(head) == {"out": (HIDDEN, CLASSES)}
    first, view = torch.randn(2, BATCH, HIDDEN).unbind()
    assert head.features((first, view)) is first  # type: ignore[operator]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_pair_classification_uses_both_sides_their_difference_and_product(
    switches: tuple[bool, bool, bool],
) -> None:
    model = _model(*switches)
    task = Task(kind=Kind.PAIR_CLASSIFICATION, files=FILES, num_classes=CLASSES)
    head, u, v, s = _in_evaluation(task, model)
    weights = dict(head.state_dict())
    width = weights["out.weight"].shape[1] // 4
    one_side = {**weights, "out.weight": torch.zeros(1, width).double(), "out.bias": torch.zeros(1)}
    nonlinear = model.nonlinear_heads
    z = [
        reference.classes(one_side, *side, nonlinear=nonlinear)[1]
        for side in zip((u, v), s, strict=True)
    ]
    x, y = (side * (side > 0) if nonlinear else side for side in z)
    features = torch.cat([x, y, torch.maximum(x - y, y - x), x * y], dim=1)
    found = head((u, v), s)
    expected = reference.linear(weights, "out", features)
    torch.testing.assert_close(found.outputs, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(found.embeddings, z, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert _widths(head)["out"] == (4 * width, CLASSES)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_regression_outputs_are_relative_to_the_middle_of_the_range(
    switches: tuple[bool, bool, bool],
) -> None:
    model = _model(*switches)
    task = Task(kind=Kind.REGRESSION, files=FILES, min_score=-1.0, max_score=7.0)
    head, u, _, s = _in_evaluation(task, model)
    weights = dict(head.state_dict())
    raw, _ = reference.classes(weights, u, s[0], nonlinear=model.nonlinear_heads)
    found = head((u,), s[:1])
    torch.testing.assert_close(found.outputs, 3.0 + 8.0 * raw[:, 0], rtol=1e-6, atol=1e-5)


def _in_evaluation(
    task: Task, model: Model
) -> tuple[nn.Module, Tensor, Tensor, tuple[Tensor | None, ...]]:
    """A head in evaluation mode, and e and s of two sides, in float64."""
    torch.manual_seed(0)
    head = build_head(task, HIDDEN, model).double().eval()
    u, v = torch.randn(2, BATCH, HIDDEN, dtype=torch.float64).unbind()
    shared = SharedFCN(HIDDEN, model).double().eval() if model.shared_fcn else None
    return head, u, v, tuple(shared(side) if shared is not None else None for side in (u, v))


@pytest.mark.parametrize("name", ["classes", "paraphrase", "similarity"])
def test_constant_heads_return_their_bias(name: str) -> None:
    task = TASKS[name]
    head = build_head(task, HIDDEN, Model(heads="constant"))
    assert head.bias.tolist() == [0.0] * task.num_outputs
    head.bias.data = torch.arange(1.0, 1.0 + task.num_outputs)
    e = (torch.randn(BATCH, HIDDEN),) * 2
    found = head(e, (None, None))
    expected = [[1.0, 2.0, 3.0]] * BATCH if name == "classes" else [1.0] * BATCH
    assert found.outputs.tolist() == expected
    assert found.embeddings == e


@pytest.mark.parametrize("shared", [False, True])
def test_the_paraphrase_difference_is_a_further_feature(shared: bool) -> None:
    model = _model(shared, True, True).model_copy(update={"paraphrase_difference": True})
    head = build_head(TASKS["paraphrase"], HIDDEN, model).double().eval()
    assert _widths(head)["fcn2"] == (3 * HIDDEN + FCN, FCN)
    e = tuple(torch.randn(BATCH, HIDDEN, dtype=torch.float64) for _ in range(3))
    s = tuple(torch.randn(BATCH, FCN, dtype=torch.float64) if shared else None for _ in e)
    weights = dict(head.state_dict())
    p = [reference.linear(weights, "fcn1", side) for side in e]
    features = torch.cat([e[0], e[1], torch.maximum(e[0] - e[1], e[1] - e[0]), p[0] * p[1]], dim=1)
    q = reference.linear(weights, "fcn2", features)
    q = torch.cat([s[0] * s[1], q], dim=1) if shared else q
    expected = reference.linear(weights, "out", reference.rectified(q))[:, 0]
    torch.testing.assert_close(head(e, s).outputs, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_cosine_of_half_precision_embeddings_is_computed_in_float32(dtype: torch.dtype) -> None:
    head = build_head(TASKS["similarity"], HIDDEN, _model(False, False, False)).to(dtype)
    e = (torch.randn(BATCH, HIDDEN).to(dtype),) * 2
    found = head.eval()(e, (None, None))
    assert {found.outputs.dtype, *(z.dtype for z in found.embeddings)} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "width", "own"),
    [
        ({"shared_fcn": True, "fcn_size": 8}, 16, 8),
        ({"shared_fcn": True, "fcn_size": 8, "similarity_size": 20}, 20, 12),
        ({"shared_fcn": False, "fcn_size": 8}, 32, 32),
        ({"shared_fcn": False, "fcn_size": 8, "similarity_size": 16}, 16, 16),
    ],
)
def test_the_width_of_the_similarity_embedding_includes_the_shared_layers(
    settings: dict[str, Any], width: int, own: int
) -> None:
    """So `b3-no-shared-fcn` can have the same width, and thus the same scale of SimCSE, as `b3`."""
    model = Model(**settings)
    head = build_head(PAPER_TASKS["similarity"], 12, model)
    e = torch.randn(4, 12)
    s = torch.randn(4, 8) if model.shared_fcn else None
    output = head((e, e), (s, s))
    assert output.embeddings[0].shape == (4, width)
    assert head.branch.fcn.out_features == own


def test_b3_has_equally_wide_embeddings_without_shared_layers() -> None:
    for name in ("b3", "b3-no-shared-fcn"):
        model = resolve(name, (), {}).config.model
        assert build_head(PAPER_TASKS["similarity"], 12, model).branch.width == 512


def test_tasks_may_have_the_names_of_module_attributes() -> None:
    names = ("type", "values", "train", "mood")
    heads = Heads({name: nn.Linear(2, 1) for name in names})
    assert tuple(heads) == names
    assert heads["type"] is not heads["mood"]
    again = Heads({name: nn.Linear(2, 1) for name in names})
    again.load_state_dict(heads.state_dict())
    assert torch.equal(again["values"].weight, heads["values"].weight)
    assert sum(weight.numel() for weight in heads.parameters()) == 12
