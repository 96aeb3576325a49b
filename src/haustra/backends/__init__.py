"""The backends: the hardware and the library that compute."""
