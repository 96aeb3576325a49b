"""From a batch of stored images to slots: what evaluation and inference call.

Always in float32, so that a validation during training, `haustra eval` and `haustra infer` agree.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from haustra.models.backbone import images_to_input
from haustra.models.detector import SlotDetector

Precision = Literal["float32", "bfloat16"]


def resolve_cpu_precision() -> Precision:
    """Return bfloat16 where the CPU has instructions for it.

    Without them bfloat16 is emulated, slower than float32.
    """
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if has_bfloat16 else "float32"


def predict_slots(
    model: SlotDetector,
) -> Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return a function from images uint8 [B,H,W,3] to boxes [B,S,4] in 0..1 and scores [B,S].

    It computes where the model's weights are.
    """
    model.eval()
    device = next(model.parameters()).device

    def exact_convolutions() -> AbstractContextManager[None]:
        if device.type != "cuda":
            return nullcontext()
        # cuDNN would round float32 to 10 bits of mantissa.
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with exact_convolutions():
            output = model(images_to_input(torch.from_numpy(images).to(device)))
        boxes: NDArray[np.float32] = output.boxes_xyxy.cpu().numpy()
        scores: NDArray[np.float32] = output.logits.sigmoid().cpu().numpy()
        return boxes, scores

    return predict
