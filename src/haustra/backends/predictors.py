"""From a model to a function that predicts slots, on any backend of PyTorch."""

from haustra.backends.choose import Backend
from haustra.core.detections import PredictSlots
from haustra.models.detector import SlotDetector
from haustra.models.predict import predict_slots


def build_predictor(model: SlotDetector, *, backend: Backend) -> PredictSlots:
    """Return a function from images uint8 [B,H,W,3] to boxes [B,S,4] in 0..1 and scores [B,S].

    The model moves to the backend's device; in a training on WebGPU that is the CPU.
    """
    return predict_slots(model.to(backend.device))
