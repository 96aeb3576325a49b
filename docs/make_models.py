"""Makes the drawings and the table of sizes in docs/models.md from the models themselves.

    python docs/make_models.py

Shapes, parameters and multiply-adds are measured on the modules as they run, at 256x256.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from haustra.models.backbone import count_parameters
from haustra.models.detector import (
    NUM_CANDIDATES,
    NUM_LOOKS,
    BackboneKind,
    ModelKind,
    SlotDetector,
    build_model,
)
from haustra.models.detector import default_config as shape_of
from make_training import replace_part

mpl.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parent
SIDE, MAX_BOXES = 256, 16
COLORS = {
    "image": "#e8e8e8",
    "backbone": "#c6dbef",
    "pyramid": "#c7e9c0",
    "head": "#fdd0a2",
    "slots": "#fdae6b",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One of the models that haustra ships."""

    title: str
    kind: ModelKind
    backbone: BackboneKind
    picture: str


VARIANTS = (
    Variant(title="TinyDet", kind="tiny", backbone="plain", picture="model_tiny.png"),
    Variant(title="BigDet", kind="big", backbone="plain", picture="model_big.png"),
    Variant(
        title="BigDet --pretrained",
        kind="big",
        backbone="efficientnet-lite0",
        picture="model_big_pretrained.png",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One box of the drawing."""

    text: str
    color: str
    num_parameters: int
    shape: tuple[int, ...]


def multiply_adds(model: nn.Module, *, side: int) -> int:
    """Return the number of multiply-adds for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops()) // 2


def run_parts(model: SlotDetector) -> dict[nn.Module, tuple[int, ...]]:
    """Return the output shape of each module whose output is one tensor."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            shapes[module] = tuple(output.shape[1:])

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    with torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return shapes


def columns_of(model: SlotDetector) -> list[list[Part | None]]:
    """Return the drawing's columns: backbone, pyramid, heads, fine levels first."""
    shapes = run_parts(model)
    num_levels = model.config.num_levels
    trunk: list[Part | None] = [
        Part(
            text=text,
            color="backbone",
            num_parameters=sum(count_parameters(module) for module in modules),
            shape=shapes[modules[-1]],
        )
        for text, modules in backbone_stages(model)
    ]
    pyramid: list[Part | None] = [None] * (len(trunk) - num_levels)
    heads = pyramid.copy()
    for level, lateral in enumerate(model.pyramid.lateral):
        is_read = level < model.num_read_levels
        parts = [lateral, model.pyramid.smooth[level]] if is_read else [lateral]
        pyramid.append(
            Part(
                text=f"P{SIDE // shapes[lateral][-1]}",
                color="pyramid",
                num_parameters=sum(count_parameters(part) for part in parts),
                shape=shapes[parts[-1]],
            )
        )
        if not is_read:
            heads.append(None)
            continue
        head = model.heads[level]
        predict = head.get_submodule("predict")
        heads.append(
            Part(
                text="boxes, objectness",
                color="head",
                num_parameters=count_parameters(head),
                shape=shapes[predict],
            )
        )
    return [trunk, pyramid, heads]


def backbone_stages(model: SlotDetector) -> list[tuple[str, list[nn.Module]]]:
    """Return the parts of the backbone, in their order, as a text and its modules."""
    stem = model.backbone.get_submodule("stem")
    if model.config.backbone == "plain":
        stages = model.backbone.get_submodule("stages").children()
        return [("stem 7x7, stride 4", [stem])] + [
            (f"3x3 stage, {depth} residual", [stage])
            for depth, stage in zip(model.config.depths, stages, strict=True)
            if list(stage.children())
        ]
    blocks = list(model.backbone.get_submodule("blocks").children())
    return [
        ("stem 3x3 (frozen)", [stem]),
        ("blocks 1 to 3 (frozen)", blocks[:3]),
        ("blocks 4, 5 (frozen)", blocks[3:5]),
        ("blocks 6 to 11 (6 to 8 frozen)", blocks[5:11]),
        ("blocks 12 to 14", blocks[11:]),
    ]


def draw(variant: Variant, model: SlotDetector) -> None:
    """Draw the model: image, backbone, pyramid, heads and slots, with the shapes between them."""
    columns = columns_of(model)
    rows = max(len(column) for column in columns)
    figure, axes = plt.subplots(figsize=(12.0, 1.0 * rows + 1.6))
    width, height, step = 2.5, 0.66, 3.1

    def box(x: float, y: float, text: str, color: str) -> None:
        axes.add_patch(
            mpl.patches.FancyBboxPatch(
                (x, y - height / 2),
                width,
                height,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                facecolor=color,
                edgecolor="#444444",
            )
        )
        axes.text(x + width / 2, y, text, ha="center", va="center", fontsize=8)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", "color": "#444444"})

    box(0, 1, f"image 3x{SIDE}x{SIDE}\nuint8 / 255", COLORS["image"])
    for x_index, column in enumerate(columns):
        x = x_index * step
        for row, part in enumerate(column):
            if part is None:
                continue
            y = float(-row)
            size = "x".join(str(value) for value in part.shape)
            box(x, y, f"{part.text}\n{size}, {part.num_parameters:,}", COLORS[part.color])
            if x_index == 0:
                arrow((width / 2, y + 1 - height / 2), (width / 2, y + height / 2))
            else:
                arrow((x - step + width, y), (x, y))
            below = column[row + 1] if row + 1 < len(column) else None
            if x_index == 1 and below is not None:
                arrow((x + width / 2, y - 1 + height / 2), (x + width / 2, y - height / 2))
    rows_of_heads = [row for row, part in enumerate(columns[2]) if part is not None]
    slots, exclusion = model.config.num_slots, model.exclusion
    if exclusion is None:
        chain = [("the best cell", "image"), ("all cells vote on its box\n1 box, 1 logit", "image")]
    else:
        learned = count_parameters(exclusion)
        chain = [
            (f"the {NUM_CANDIDATES} best cells", "image"),
            (f"exclusion by a better one\n{learned} parameters", "slots"),
            (f"the {slots} best of them;\nall cells vote on the boxes", "image"),
        ]
    if model.refiner is not None:
        learned = count_parameters(model.refiner)
        chain.append((f"a second look at {NUM_LOOKS}, new rank\n{learned:,} parameters", "slots"))
    x, first = 3 * step, rows_of_heads[0]
    for index, (text, color) in enumerate(chain):
        y = float(-first - index)
        box(x, y, text, COLORS[color])
        if index:
            arrow((x + width / 2, y + 1 - height / 2), (x + width / 2, y + height / 2))
    for row in rows_of_heads:
        arrow((x - step + width, float(-row)), (x, float(-first)))
    bottom = -max(rows - 1, first + len(chain) - 1)
    axes.set_xlim(-0.2, 3 * step + width + 0.2)
    axes.set_ylim(bottom - 0.6, 1.6)
    axes.axis("off")
    axes.set_title(f"{variant.title}: output shape and parameters of each part")
    figure.savefig(DOCS / "images" / variant.picture, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    """Draw each model and write the table of sizes."""
    lines = [f"{'':<20} {'parameters':>11} {'GMAC at 256':>12} {'at 384':>7}"]
    for variant in VARIANTS:
        torch.manual_seed(0)
        config = shape_of(variant.kind, max_boxes=MAX_BOXES, backbone=variant.backbone)
        model = build_model(config).eval()
        draw(variant, model)
        small, large = (multiply_adds(model, side=side) / 1e9 for side in (256, 384))
        lines.append(
            f"{variant.title:<20} {count_parameters(model):>11,} {small:>12.3f} {large:>7.3f}"
        )
    replace_part(DOCS / "models.md", name="sizes", text="\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
