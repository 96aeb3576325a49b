"""Runs a model on a batch of stored images, for evaluation and inference.

It computes in float32, so that validation in training, `haustra eval` and `haustra infer` agree.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from haustra.core.detections import PredictSlots, Slots
from haustra.models.backbone import images_to_input
from haustra.models.detector import SlotDetector

Precision = Literal["float32", "bfloat16"]


def resolve_cpu_precision() -> Precision:
    """Return bfloat16 if the CPU has instructions for it.

    Otherwise bfloat16 is emulated, and slower than float32.
    """
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if has_bfloat16 else "float32"


def predict_slots(model: SlotDetector) -> PredictSlots:
    """Return the model as a function from images to slots, on the device of its weights."""
    model.eval()
    device = next(model.parameters()).device

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> Slots:
        # By default cuDNN rounds float32 to 10 bits of mantissa.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            output = model(images_to_input(torch.from_numpy(images).to(device)))
        boxes: NDArray[np.float32] = output.boxes_xyxy.cpu().numpy()
        scores: NDArray[np.float32] = output.logits.sigmoid().cpu().numpy()
        return boxes, scores

    return predict
