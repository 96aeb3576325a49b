"""From a model to a function that predicts slots, on any backend."""

from haustra.backends.choose import Backend
from haustra.core.detections import PredictSlots
from haustra.core.errors import HaustraError
from haustra.models.detector import SlotDetector
from haustra.models.predict import predict_slots
from haustra.models.version_1 import SlotDetectorOfVersion1


def build_predictor(model: SlotDetector, *, backend: Backend) -> PredictSlots:
    """Return a function from images uint8 [B,H,W,3] to boxes [B,S,4] in 0..1 and scores [B,S].

    The model moves to the backend's device.

    Raises:
        HaustraError: the device does not open, or the backend has not what the model needs.
    """
    if backend.name == "wgpu":
        if isinstance(model, SlotDetectorOfVersion1):
            raise HaustraError(
                "--backend wgpu runs no detector of checkpoint format version 1; "
                "pass --backend ndarray, or train it anew"
            )
        from haustra.backends.wgpu_detector import WgpuPredictor

        return WgpuPredictor(model)
    return predict_slots(model.to(backend.device))
