from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from haustra.models.backbone import count_parameters, images_to_input
from haustra.models.detector import (
    BackboneKind,
    Candidates,
    DenseOutput,
    Exclusion,
    ModelKind,
    SlotDetector,
    build_model,
    default_config,
)
from haustra.models.loss_settings import LossSettings, MatchingSettings
from haustra.models.losses import DetectionLoss, paired_giou

LOSS = DetectionLoss(matching=MatchingSettings(), settings=LossSettings(), iou_weight=3.6)
KINDS: tuple[ModelKind, ...] = ("tiny", "big")
BACKBONES: tuple[BackboneKind, ...] = ("plain", "efficientnet-lite0")


def random_images(count: int, *, height: int = 64, width: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def loss_terms(
    model: SlotDetector,
    images: torch.Tensor,
    *,
    boxes_xyxy: torch.Tensor,
    mask: torch.Tensor,
    loss: DetectionLoss = LOSS,
) -> dict[str, torch.Tensor]:
    output = model.dense(images_to_input(images))
    return loss.terms(
        output,
        None if model.exclusion is None else model.candidates(output),
        boxes_xyxy=boxes_xyxy,
        mask=mask,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_is_sorted_slots_inside_the_image(kind: ModelKind) -> None:
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
def test_the_output_depends_on_the_pixels_of_its_own_image_alone(kind: ModelKind) -> None:
    torch.manual_seed(0)
    model = build_model(default_config(kind, max_boxes=4)).eval()
    images = random_images(4)
    with torch.no_grad():
        together = model(images_to_input(images)).boxes_xyxy
        alone = torch.cat([model(images_to_input(image[None])).boxes_xyxy for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


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
    terms = loss_terms(
        model,
        random_images(2),
        boxes_xyxy=torch.zeros(2, 4, 4),
        mask=torch.zeros(2, 4, dtype=torch.bool),
    )
    assert torch.isfinite(terms["loss"])
    assert float(terms["l1"]) == float(terms["iou"]) == 0
    assert float(terms["objectness"]) > 0
    assert ("slots" in terms) == (kind == "big")


def test_masked_boxes_do_not_change_the_loss() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4)).eval()
    boxes = torch.zeros(2, 4, 4)
    boxes[:, 0] = torch.tensor([0.1, 0.2, 0.6, 0.7])
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 0] = True
    clean = loss_terms(model, random_images(2), boxes_xyxy=boxes, mask=mask)
    boxes[:, 1:] = 0.5
    boxes[:, 1:, 2:] = 0.9
    dirty = loss_terms(model, random_images(2), boxes_xyxy=boxes, mask=mask)
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
        targets = LOSS.assign_targets(output, boxes_xyxy=boxes.expand(2, -1, -1), mask=mask)
        assert targets.positive.sum() >= 2
        terms = LOSS.dense_terms(output, targets, every_cell=every_cell)
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
    terms = loss_terms(
        model, random_images(1), boxes_xyxy=boxes, mask=mask, loss=replace(LOSS, iou_weight=0.0)
    )
    assert float(terms["iou"]) == 0
    assert float(terms["l1"]) > 0


def test_inference_normalizes_each_level_as_training_did() -> None:
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
                in_training = head.train()(features)
            at_inference = head.eval()(features)
            torch.testing.assert_close(at_inference, in_training, atol=0.002, rtol=0)


def boxes_in_a_row(*left: float) -> torch.Tensor:
    """Boxes of one size, [1,K,4]; two that are `d` apart have the IoU (0.4 - d) / (0.4 + d)."""
    return torch.tensor([[[x, 0.1, x + 0.4, 0.5] for x in left]])


def test_a_better_candidate_on_the_same_place_and_no_other_lowers_a_score() -> None:
    exclusion = Exclusion()
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    with torch.no_grad():
        alone = exclusion(logits[:, :1], boxes_in_a_row(0.0))
        first, second, apart = exclusion(logits, boxes_in_a_row(0.0, 0.01, 0.5))[0]
        lone = exclusion(logits[:, 2:], boxes_in_a_row(0.5))
    assert float(first) == float(alone)
    assert float(second) < 2.0 - 5  # nearly the same box
    assert float(apart) == pytest.approx(float(lone), abs=0.01)


def test_an_excluded_candidate_excludes_no_other() -> None:
    # The second is hidden by the first; the third overlaps the second only.
    exclusion = Exclusion()
    with torch.no_grad():
        exclusion.iou_middle.fill_(0.5)
        logits = exclusion(torch.tensor([[3.0, 2.0, 1.0]]), boxes_in_a_row(0.0, 0.07, 0.14))[0]
        without = exclusion(torch.tensor([[3.0, 1.0]]), boxes_in_a_row(0.0, 0.14))[0]
    assert float(logits[1]) < -3
    assert float(logits[2]) == pytest.approx(float(without[1]), abs=0.2)


def test_of_equal_candidates_one_is_left() -> None:
    with torch.no_grad():
        logits = Exclusion()(torch.zeros(1, 4), boxes_in_a_row(0.1, 0.1, 0.1, 0.1))[0]
    assert int((logits > -1).sum()) == 1


def test_exclusive_matching_teaches_the_exclusion_alone() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4))
    output = model.dense(images_to_input(random_images(2)))
    candidates = model.candidates(output)
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 0.9, 0.8]]]).expand(2, -1, -1)
    mask = torch.tensor([[True, True], [True, False]])
    wanted = LOSS.assign_slots(candidates, output, boxes_xyxy=boxes, mask=mask)
    assert (wanted > 0).sum(dim=1).tolist() == [2, 1]
    assert (wanted <= 1).all()
    LOSS.slot_term(candidates, wanted).backward()  # type: ignore[no-untyped-call]
    taught = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert model.exclusion is not None
    assert taught == {f"exclusion.{name}" for name, _ in model.exclusion.named_parameters()}


def test_a_few_steps_teach_the_exclusion_which_boxes_belong_to_one_polyp() -> None:
    # Two polyps that overlap by an IoU of 0.6, and a duplicate of each at 0.9: only training can
    # separate them.
    exclusion = Exclusion()
    optimizer = torch.optim.Adam(exclusion.parameters(), lr=0.05)
    logits = torch.tensor([[2.0, 1.9, 1.8, 1.7]])
    boxes = boxes_in_a_row(0.0, 0.1, 0.02, 0.12)
    wanted = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    cells = torch.arange(4)[None]
    for _ in range(200):
        loss = LOSS.slot_term(Candidates(cells, exclusion(logits, boxes)), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    scores = exclusion(logits, boxes)[0].sigmoid()
    assert (scores[:2] > 0.6).all()
    assert (scores[2:] < 0.4).all()


def test_the_cells_around_the_chosen_one_vote_on_its_box() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("tiny", max_boxes=1)).eval()
    near, far = [0.2, 0.2, 0.6, 0.6], [0.7, 0.7, 0.9, 0.9]
    shifted = [0.22, 0.2, 0.62, 0.6]
    proposals = DenseOutput(
        objectness_logits=torch.tensor([[3.0, 2.0, 1.0]]),
        boxes_xyxy=torch.tensor([[near, shifted, far]]),
        features=torch.empty(0),
        cells_xy=torch.zeros(3, 2),
        cell_sizes=torch.ones(3, 2),
    )
    with patch.object(model, "dense", lambda images: proposals):
        output = model(torch.zeros(1, 3, 32, 32))
    weight = (0.38 / 0.42) ** 8 * (torch.tensor(2.0).sigmoid() / torch.tensor(3.0).sigmoid()) ** 2
    share = weight / (1 + weight)
    expected = torch.tensor(near) + share * (torch.tensor(shifted) - torch.tensor(near))
    torch.testing.assert_close(output.boxes_xyxy[0, 0], expected)
    assert float(output.logits[0, 0]) == 3.0
