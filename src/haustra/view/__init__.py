"""The live view: sources of frames, the feed that runs detectors on them, and the page."""
