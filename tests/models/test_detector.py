from unittest.mock import patch

import pytest
import torch

from haustra.models.backbone import count_parameters, images_to_input
from haustra.models.detector import (
    BackboneKind,
    DenseOutput,
    LevelSelector,
    ModelKind,
    build_model,
    config_from_json,
    default_config,
)
from haustra.models.losses import (
    LossWeights,
    assign_targets,
    detection_loss,
    loss_from_targets,
    paired_giou,
)

KINDS: tuple[ModelKind, ...] = ("tiny", "big")
BACKBONES: tuple[BackboneKind, ...] = ("plain", "efficientnet-lite0")


def random_images(count: int, *, height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_sorted_slots_inside_the_image(kind: ModelKind) -> None:
    torch.manual_seed(0)
    model = build_model(default_config(kind, max_boxes=7)).eval()
    with torch.no_grad():
        output = model(images_to_input(random_images(3)))
    num_slots = 1 if kind == "tiny" else 7
    assert output.logits.shape == (3, num_slots)
    assert output.boxes_xyxy.shape == (3, num_slots, 4)
    assert (output.logits.diff(dim=1) <= 0).all()
    assert ((output.boxes_xyxy >= 0) & (output.boxes_xyxy <= 1)).all()


def test_the_models_stay_within_their_size() -> None:
    assert count_parameters(build_model(default_config("tiny", max_boxes=16))) <= 700_000
    for backbone in BACKBONES:
        config = default_config("big", max_boxes=16, backbone=backbone)
        assert count_parameters(build_model(config)) <= 5_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_depends_on_the_pixels_alone_and_on_all_images_apart(kind: ModelKind) -> None:
    torch.manual_seed(0)
    model = build_model(default_config(kind, max_boxes=4)).eval()
    images = random_images(4)
    with torch.no_grad():
        together = model(images_to_input(images)).boxes_xyxy
        alone = torch.cat([model(images_to_input(image[None])).boxes_xyxy for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_survives_json(kind: ModelKind) -> None:
    config = default_config(kind, max_boxes=5)
    assert config_from_json(config.to_json()) == config


def test_input_is_the_image_in_0_to_1() -> None:
    images = random_images(1)
    converted = images_to_input(images)
    assert converted.shape == (1, 3, 64, 96)
    torch.testing.assert_close(converted[0, :, 5, 9] * 255, images[0, 5, 9].float())


def test_giou_of_hand_computed_pairs() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 1.0, 2.0]])
    torch.testing.assert_close(paired_giou(a, b), torch.tensor([1.0, -1 / 3, 0.5]))


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_boxes_still_teach_and_give_finite_losses(kind: ModelKind) -> None:
    torch.manual_seed(0)
    model = build_model(default_config(kind, max_boxes=4))
    terms = detection_loss(
        model.dense(images_to_input(random_images(2))),
        boxes_xyxy=torch.zeros(2, 4, 4),
        mask=torch.zeros(2, 4, dtype=torch.bool),
        weights=LossWeights(),
    )
    assert torch.isfinite(terms["loss"])
    for head in ("dense", "selected"):
        assert float(terms[f"{head}_l1"]) == float(terms[f"{head}_iou"]) == 0
        assert float(terms[f"{head}_objectness"]) > 0


def test_masked_boxes_do_not_change_the_loss() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4)).eval()
    output = model.dense(images_to_input(random_images(2)))
    boxes = torch.zeros(2, 4, 4)
    boxes[:, 0] = torch.tensor([0.1, 0.2, 0.6, 0.7])
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 0] = True
    clean = detection_loss(output, boxes_xyxy=boxes, mask=mask, weights=LossWeights())
    boxes[:, 1:] = 0.5
    boxes[:, 1:, 2:] = 0.9
    dirty = detection_loss(output, boxes_xyxy=boxes, mask=mask, weights=LossWeights())
    assert float(clean["loss"].detach()) == float(dirty["loss"].detach())


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_static_shapes_is_the_same_loss(kind: ModelKind) -> None:
    torch.manual_seed(0)
    model = build_model(default_config(kind, max_boxes=3))
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 0.9, 0.8], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    gradients, losses = [], []
    for every_cell in (False, True):
        output = model.eval().dense(images_to_input(random_images(2)))
        targets = assign_targets(output, boxes_xyxy=boxes.expand(2, -1, -1), mask=mask)
        assert targets.selected.positive.sum() == 2
        terms = loss_from_targets(output, targets, weights=LossWeights(), every_cell=every_cell)
        losses.append(torch.stack(list(terms.values())))
        model.zero_grad()
        losses[-1].sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(
            torch.cat(
                [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
            )
        )
    torch.testing.assert_close(losses[0], losses[1])
    assert (losses[0] > 0).all()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_iou_term_can_be_left_out() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("tiny", max_boxes=1))
    boxes, mask = torch.tensor([[[0.1, 0.2, 0.6, 0.7]]]), torch.ones(1, 1, dtype=torch.bool)
    output = model.dense(images_to_input(random_images(1)))
    terms = detection_loss(output, boxes_xyxy=boxes, mask=mask, weights=LossWeights(iou=0))
    assert float(terms["dense_iou"]) == float(terms["selected_iou"]) == 0
    assert float(terms["dense_l1"]) > 0


def test_inference_normalises_each_level_as_training_did() -> None:
    # A head that is shared by levels has running statistics that fit none of them.
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4))
    spreads = ((1.0, 0.0), (5.0, 3.0), (0.2, -2.0))
    neck = model.config.neck
    maps = [
        torch.randn(16, neck, side, side) * spread + middle
        for side, (spread, middle) in zip((16, 8, 4), spreads, strict=True)
    ]
    with torch.no_grad():
        for head, features in zip(model.heads, maps, strict=True):
            for _ in range(100):
                _, in_training = head.train()(features)
            _, at_inference = head.eval()(features)
            torch.testing.assert_close(at_inference, in_training, atol=0.002, rtol=0)


def test_a_selector_sees_the_best_objectness_of_every_level() -> None:
    torch.manual_seed(0)
    selector = LevelSelector(8, num_levels=3).eval()
    seen: list[torch.Tensor] = []
    selector.compare.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    objectness = [torch.full((1, 1, side, side), -9.0) for side in (8, 4, 2)]
    objectness[0][0, 0, 5, 2] = 3.0  # of the fine level: in row 2, column 1 of the middle one
    objectness[2][0, 0, 1, 0] = 7.0  # of the coarse level: the lower left quarter
    selector(torch.zeros(1, 8, 4, 4), objectness)
    fine, middle, coarse = seen[0][0, 8:]
    assert fine[2, 1] == 3.0
    assert int((fine > -9).sum()) == 1
    assert (middle == -9).all()
    assert (coarse[2:, :2] == 7).all()
    assert int((coarse > -9).sum()) == 4


def test_the_selectors_gradient_reaches_the_features_as_far_as_it_is_let() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4))
    images = images_to_input(random_images(2))
    sizes = []
    for share in (0.0, 0.5, 1.0):
        model.zero_grad()
        model.dense(images, selector_share=share).selection_logits.sum().backward()  # type: ignore[no-untyped-call]
        gradient = model.backbone.get_parameter("stem.0.weight").grad
        sizes.append(0.0 if gradient is None else float(gradient.norm()))
    assert sizes[0] == 0
    assert sizes[1] == pytest.approx(sizes[2] / 2, rel=1e-3)


def test_the_cells_around_the_chosen_one_vote_on_its_box() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("tiny", max_boxes=1)).eval()
    near, far = [0.2, 0.2, 0.6, 0.6], [0.7, 0.7, 0.9, 0.9]
    shifted = [0.22, 0.2, 0.62, 0.6]
    proposals = DenseOutput(
        objectness_logits=torch.tensor([[0.0, 0.0, 9.0]]),
        selection_logits=torch.tensor([[3.0, -3.0, -3.0]]),
        boxes_xyxy=torch.tensor([[near, shifted, far]]),
        cells_xy=torch.zeros(3, 2),
        cell_sizes=torch.ones(3, 2),
    )
    with patch.object(model, "dense", lambda images: proposals):
        output = model(torch.zeros(1, 3, 32, 32))
    share = (0.38 / 0.42) ** 8 / (1 + (0.38 / 0.42) ** 8)
    expected = torch.tensor(near) + share * (torch.tensor(shifted) - torch.tensor(near))
    torch.testing.assert_close(output.boxes_xyxy[0, 0], expected)
    assert float(output.logits[0, 0]) == pytest.approx(2.85)  # 19 of 20 parts say 3, one 0
