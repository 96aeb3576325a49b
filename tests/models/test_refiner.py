from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from haustra.models.backbone import images_to_input
from haustra.models.checkpoint import (
    FORMAT,
    CheckpointHeader,
    header_to_json,
    read_checkpoint,
)
from haustra.models.detector import NUM_LOOKS, ModelKind, SlotDetector, build_model, default_config
from haustra.models.loss_settings import LookSettings, LossSettings, MatchingSettings
from haustra.models.losses import DetectionLoss, Looks, jittered_boxes
from haustra.models.matching import pairwise_iou
from haustra.models.refiner import GRID, MARGIN, Refiner, sample_grids
from haustra.models.tensor_file import write_tensor_file

LOSS = DetectionLoss(matching=MatchingSettings(), settings=LossSettings(), iou_weight=3.6)
SETTINGS = LookSettings()


def bilinear(features: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Sample with PyTorch's `grid_sample`; zeros beyond the image."""
    steps = ((torch.arange(GRID) + 0.5) / GRID - 0.5) * MARGIN
    low, high = boxes_xyxy[..., None, :2], boxes_xyxy[..., None, 2:]
    lines = (low + high) / 2 + (high - low) * steps[:, None]  # [B,R,G,2]
    x, y = lines[..., None, :, 0], lines[..., :, None, 1]
    grid = torch.stack([x + 0 * y, y + 0 * x], dim=-1) * 2 - 1  # [B,R,G,G,2]
    sampled = functional.grid_sample(features, grid.flatten(1, 3)[:, None], align_corners=False)
    return sampled[:, :, 0].transpose(1, 2).reshape(*grid.shape[:4], -1)


def test_a_small_box_is_sampled_bilinearly() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 16, 24)
    # Lines at most one cell apart; the last box lies partly beyond the image.
    boxes = torch.tensor([[[0.2, 0.3, 0.4, 0.6], [0.51, 0.4, 0.6, 0.62], [-0.1, 0.8, 0.1, 1.1]]])
    boxes = boxes.expand(2, -1, -1)
    torch.testing.assert_close(
        sample_grids(features, boxes), bilinear(features, boxes), atol=1e-5, rtol=0
    )


def test_a_large_box_is_averaged_and_keeps_a_smooth_map() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    smooth = torch.stack([x + 2 * y, 3 - y / 2])[None]
    boxes = torch.tensor([[[0.3, 0.25, 0.7, 0.75], [0.25, 0.3, 0.75, 0.6]]])
    torch.testing.assert_close(
        sample_grids(smooth, boxes), bilinear(smooth, boxes), atol=0, rtol=0.05
    )
    noise = torch.randn(1, 1, 32, 40, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([[[0.1, 0.1, 0.9, 0.9]]])
    assert sample_grids(noise, whole).std() < 0.6 * bilinear(noise, whole).std()


def drawn_boxes(count: int) -> tuple[Tensor, Tensor]:
    """Return maps [B,2,32,32] with a filled box each, and the boxes [B,1,4]."""
    generator = torch.Generator().manual_seed(1)
    low = 0.1 + 0.3 * torch.rand(count, 1, 2, generator=generator)
    boxes = torch.cat([low, low + 0.25 + 0.3 * torch.rand(count, 1, 2, generator=generator)], 2)
    cells = (torch.arange(32) + 0.5) / 32
    inside = [
        (cells > boxes[..., axis]) & (cells < boxes[..., axis + 2])  # [B,32]
        for axis in (0, 1)
    ]
    drawn = (inside[1][:, :, None] & inside[0][:, None]).float()
    return torch.stack([drawn, 1 - drawn], dim=1), boxes


def test_it_learns_where_the_sides_are_and_how_well_a_box_fits() -> None:
    torch.manual_seed(0)
    features, true = drawn_boxes(32)
    refiner = Refiner(2)
    optimizer = torch.optim.Adam(refiner.parameters(), lr=5e-3)
    mask = torch.ones(32, 1, dtype=torch.bool)
    settings = replace(SETTINGS, num_jittered=12)
    for step in range(100):
        # Other boxes in each step, since the moves depend on the box.
        boxes = true + 1e-4 * step
        rows = jittered_boxes(boxes, mask, settings=settings)
        ious = pairwise_iou(rows, true)[..., 0]
        ones = torch.ones_like(ious)
        looks = Looks(rows, true.expand_as(rows), ious=ious, used=ones, learns=ones)
        terms = LOSS.look_terms(refiner(features, rows), looks)
        optimizer.zero_grad()
        (terms["sides"] + terms["look"]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    rows = jittered_boxes(true + 0.5e-4, mask, settings=settings)
    before = pairwise_iou(rows, true)[..., 0]
    with torch.no_grad():
        look = refiner(features, rows)
    after = pairwise_iou(look.boxes_xyxy, true)[..., 0]
    assert after.mean() > before.mean() + 0.1
    guess = torch.stack([look.iou_logits.sigmoid().flatten(), before.flatten()])
    assert torch.corrcoef(guess)[0, 1] > 0.8


def test_moved_boxes_are_of_every_quality_and_of_labeled_boxes_alone() -> None:
    boxes = torch.rand(50, 3, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    boxes = torch.cat([boxes, boxes + 0.3], dim=2)
    mask = torch.tensor([[True, False, True]]).expand(50, -1).clone()
    mask[0] = False
    moved = jittered_boxes(boxes, mask, settings=SETTINGS)
    assert moved.shape == (50, SETTINGS.num_jittered, 4)
    iou = pairwise_iou(moved, boxes).gather(
        2, (torch.arange(SETTINGS.num_jittered) % 2 * 2).expand(50, -1)[..., None]
    )[1:, :, 0]
    assert iou.min() > 0.25
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        assert ((iou > low) & (iou < high)).float().mean() > 0.1
    # The same boxes are moved the same way, wherever they are in a batch and whatever came before.
    again = jittered_boxes(boxes.flip(0), mask.flip(0), settings=SETTINGS).flip(0)
    assert torch.equal(moved, again)


def trained_terms(model: SlotDetector, images: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
    output = model.dense(images)
    refiner = model.refiner
    assert refiner is not None
    terms = LOSS.terms(
        output,
        model.candidates(output),
        boxes_xyxy=boxes,
        mask=mask,
        look=lambda rows: refiner(output.features, rows),
    )
    assert {"sides", "look"} <= terms.keys()
    return terms["loss"]


def example_images() -> Tensor:
    shape = (2, 64, 96, 3)
    generator = torch.Generator().manual_seed(0)
    return images_to_input(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))


def test_images_without_polyps_teach_that_their_candidates_fit_nothing() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4))
    output = model.dense(example_images())
    nothing = torch.zeros(2, 3, 4)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    looks = LOSS.assign_looks(model.candidates(output), output, boxes_xyxy=nothing, mask=mask)
    assert (looks.ious == 0).all()
    assert looks.used.sum(dim=1).tolist() == [SETTINGS.num_own] * 2
    assert looks.learns.sum() == 0
    loss = trained_terms(model, example_images(), nothing, mask)
    assert torch.isfinite(loss)


def test_its_terms_teach_the_features_too() -> None:
    torch.manual_seed(0)
    model = build_model(default_config("big", max_boxes=4))
    boxes, mask = torch.tensor([[[0.2, 0.2, 0.7, 0.8]]] * 2), torch.ones(2, 1, dtype=torch.bool)
    output = model.dense(example_images())
    looks = LOSS.assign_looks(model.candidates(output), output, boxes_xyxy=boxes, mask=mask)
    assert model.refiner is not None
    terms = LOSS.look_terms(model.refiner(output.features, looks.boxes_xyxy), looks)
    (terms["sides"] + terms["look"]).backward()  # type: ignore[no-untyped-call]
    taught = {
        name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None
    }
    assert taught == {"refiner", "pyramid", "backbone"}


def test_it_changes_the_rank_of_the_first_slots_and_no_box() -> None:
    torch.manual_seed(0)
    config = default_config("big", max_boxes=NUM_LOOKS + 4)
    model = build_model(config).eval()
    plain = build_model(replace(config, refines=False)).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert model.refiner is not None
    with torch.no_grad():
        model.refiner.predict.weight.normal_()
        seen, unseen = model(example_images()), plain(example_images())
    assert (seen.logits.diff(dim=1) <= 0).all()
    assert not torch.allclose(seen.logits, unseen.logits)
    for ours, theirs in zip(seen.boxes_xyxy, unseen.boxes_xyxy, strict=True):
        assert sorted(ours.tolist()) == sorted(theirs.tolist())


@pytest.mark.parametrize("kind", ["tiny", "big"])
def test_older_checkpoints_have_none(tmp_path: Path, kind: ModelKind) -> None:
    torch.manual_seed(0)
    config = replace(default_config(kind, max_boxes=3), refines=False)
    model = build_model(config).eval()
    path = tmp_path / "old.bin"
    header = CheckpointHeader(
        model=config,
        input_size_wh=(96, 64),
        resize_mode="letterbox",
        max_boxes=3,
        class_names=("polyp",),
        warehouse_version="v0",
        training={},
    )
    value = header_to_json(header)
    del value["model"]["refines"]
    write_tensor_file(path, kind=FORMAT, header=value, tensors=model.state_dict())
    _, read = read_checkpoint(path)
    with torch.no_grad():
        assert torch.equal(read(example_images()).boxes_xyxy, model(example_images()).boxes_xyxy)
