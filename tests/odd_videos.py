"""Videos made by ffmpeg: containers, codecs, frame rates, counts that lie, cuts, joins, damage.

Each frame carries its number in twelve blocks along its top edge.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, BAND = 160, 120, 24
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-threads", "1", "-g", "24")
H264_B = (*H264, "-bf", "3")
VP8 = ("-c:v", "libvpx", "-cpu-used", "8")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
H265 = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=1:bframes=3")
MPEG2 = ("-c:v", "mpeg2video", "-bf", "2")
MJPEG = ("-c:v", "mjpeg")
STILL = ("-vf", "loop=loop=60:size=1,trim=end_frame=60")
BLACK = ("-vf", "drawbox=color=black:t=fill", "-bufsize", "1M")
VARIABLE = ("-vf", "setpts='if(lt(N,30),N/30,1+(N-30)/5)/TB'", "-fps_mode", "vfr")
"""30 frames at 30 Hz, then 30 at 5 Hz."""


def numbered(number: int) -> NDArray[np.uint8]:
    """Return a picture that carries a number."""
    rows, columns = np.indices((HEIGHT, WIDTH))
    image = np.repeat(((rows + columns) * 2 + number * 3)[..., None] % 200, 3, axis=2)
    image[:BAND] = 0
    for bit in range(12):
        if number >> bit & 1:
            image[:BAND, bit * 13 : (bit + 1) * 13] = 255
    return image.astype(np.uint8)


def number_in(image_rgb: NDArray[np.uint8]) -> int:
    """Return the number that a picture carries."""
    return sum(int(image_rgb[6:18, 13 * b + 3 : 13 * b + 10].mean() > 128) << b for b in range(12))


def encode(path: Path, *options: str, frames: int = 60, rate: str = "30", sound: str = "") -> bytes:
    """Write numbered frames with ffmpeg and return the file's bytes."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate]
    with_sound = ["-f", "lavfi", "-i", f"sine=d={sound}", "-map", "0", "-map", "1", "-c:a", "aac"]
    command = ["ffmpeg", "-v", "error", "-y", *raw, "-i", "-", *(with_sound if sound else [])]
    pixels = b"".join(numbered(number).tobytes() for number in range(frames))
    subprocess.run([*command, *options, str(path)], input=pixels, check=True)
    return path.read_bytes()


def decode_with_ffmpeg(path: Path) -> tuple[list[int], list[float | None]]:
    """Return the numbers that ffmpeg's frames carry and their times from the first one."""
    raw = subprocess.run(
        [
            "ffmpeg",
            "-v",
            "quiet",
            "-i",
            str(path),
            "-map",
            "0:v:0",
            "-fps_mode",
            "passthrough",
            "-s",
            f"{WIDTH}x{HEIGHT}",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ],
        capture_output=True,
        check=False,
    ).stdout
    images = np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    shown = subprocess.run(
        [
            "ffprobe",
            "-v",
            "quiet",
            "-select_streams",
            "v:0",
            "-of",
            "json",
            "-show_entries",
            "frame=best_effort_timestamp_time",
            str(path),
        ],
        capture_output=True,
        check=False,
    ).stdout
    stamps = [f.get("best_effort_timestamp_time") for f in json.loads(shown).get("frames", [])]
    times = [None if s is None else float(s) - float(stamps[0]) for s in stamps]
    return [number_in(image) for image in images], times


def made(
    *options: str, rate: str = "30", frames: int = 60, sound: str = ""
) -> Callable[[Path], object]:
    return lambda path: encode(path, *options, rate=rate, frames=frames, sound=sound)


def joined(*options: str, parts: int = 2, shift_s: int = 0) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        data = encode(path, *options)
        if shift_s:
            data += encode(path, *options, "-output_ts_offset", str(shift_s))
        path.write_bytes(data * (1 if shift_s else parts))

    return make


def cut(*options: str, share: float = 0.6) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        data = encode(path, *options)
        path.write_bytes(data[: int(len(data) * share)])

    return make


def damaged(*options: str, at: float, size: float, noise: bool = True) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        data = bytearray(encode(path, *options))
        first, last = int(len(data) * at), int(len(data) * (at + size))
        filler = np.random.default_rng(0).bytes(last - first) if noise else bytes(last - first)
        data[first:last] = filler
        path.write_bytes(data)

    return make


def trimmed(path: Path) -> None:
    """Write an MP4 whose edit list hides its first frames."""
    whole = path.with_name("whole.mp4")
    encode(whole, *H264_B)
    command = ["ffmpeg", "-v", "error", "-y", "-ss", "0.9", "-i", str(whole), "-c", "copy"]
    subprocess.run([*command, str(path)], check=True)
    whole.unlink()


VIDEOS: dict[str, Callable[[Path], object]] = {
    "b_frames.mp4": made(*H264_B, rate="25"),
    "ntsc.mp4": made(*H264, "-bf", "0", rate="30000/1001"),
    "phone.mov": made("-c:v", "mpeg4", rate="120000/1001"),
    "fast.mkv": made("-c:v", "ffv1", rate="1000"),
    "slow.mp4": made(*H264, rate="1/2", frames=5),
    "b_frames.mkv": made(*H264_B),
    "vp8.webm": made(*VP8, "-auto-alt-ref", "1", "-lag-in-frames", "20", frames=150),
    "vp9.webm": made("-c:v", "libvpx-vp9", "-auto-alt-ref", "1", "-cpu-used", "8"),
    "live.webm": made(*VP8, "-live", "1"),
    "hevc.mp4": made(*H265),
    "hevc.mkv": made(*H265),
    "mjpeg.avi": made(*MJPEG),
    "b_frames.avi": made("-c:v", "mpeg4", "-bf", "2"),
    "h264.avi": made(*H264_B),
    "h264.ts": made(*H264_B),
    "mpeg2.ts": made(*MPEG2),
    "mpeg2.mpg": made(*MPEG2, rate="25"),
    "h264.flv": made(*H264_B),
    "flv1.flv": made("-c:v", "flv1"),
    "wmv2.wmv": made("-c:v", "wmv2"),
    "theora.ogv": made("-c:v", "libtheora", "-q:v", "8"),
    "prores.mov": made("-c:v", "prores"),
    "ten_bits.mp4": made("-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
    "raw.h264": made(*H264, "-bf", "0"),
    "raw.mjpeg": made(*MJPEG, "-f", "mjpeg"),
    "raw.avi": made("-c:v", "rawvideo", "-pix_fmt", "bgr24"),
    "fragments.mp4": made(*H264_B, "-movflags", "frag_keyframe+empty_moov"),
    "variable.mp4": made(*H264_B, *VARIABLE, "-video_track_timescale", "30000"),
    "variable.mkv": made(*H264_B, *VARIABLE),
    "variable.webm": made(*VP8, *VARIABLE),
    "trimmed.mp4": trimmed,
    "sound.mkv": made(*H264_B, sound="10"),
    "sound.mp4": made(*H264_B, sound="10"),
    "rare.mkv": made(*H264, rate="1/200", frames=4, sound="700"),
    "late.ts": made(*H264_B, "-output_ts_offset", "95442"),
    "av1.mp4": made("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", frames=5),
    "padded_black.ts": made(*MPEG2, *BLACK, "-b:v", "4M", "-minrate", "4M", "-maxrate", "4M"),
    "static.mkv": made(*H264, *STILL),
    "static.avi": made(*MJPEG, *STILL),
    "interlaced.ts": made(*H264, "-flags", "+ilme+ildct", "-x264opts", "interlaced=1"),
    "joined.ts": joined(*H264_B, parts=3),
    "joined.mkv": joined(*H264_B),
    "joined.avi": joined(*MJPEG),
    "jump.ts": joined(*H264_B, shift_s=20000),
    "overlap.ts": joined(*H264_B, shift_s=1),
    "cut.mkv": cut(*H264_B),
    "cut.mp4": cut(*H264_B, "-movflags", "faststart"),
    "cut.avi": cut(*MJPEG),
    "cut_b_frames.avi": cut(*H264_B),
    "cut.ts": cut(*H264_B),
    "cut.webm": cut(*VP9),
    "cut.flv": cut(*H264_B),
    "without_index.mp4": cut(*H264_B),
    "nothing.mp4": cut(*H264_B, share=0.0),
    "zeros.mp4": damaged(*H264_B, "-movflags", "faststart", at=0.6, size=0.4, noise=False),
    "noise.avi": damaged(*MJPEG, at=0.5, size=0.1),
    "noise.mkv": damaged(*H264_B, at=0.5, size=0.15),
    "noise.ts": damaged(*H264_B, at=0.4, size=0.05),
}
"""What makes each video."""
REFUSED = {
    "av1.mp4": "expected a video that OpenCV decodes (codec AV01)",
    "interlaced.ts": "cannot convert its frames, which are interlaced",
    "without_index.mp4": "expected a video that OpenCV decodes; it is cut short",
    "nothing.mp4": "expected a video that OpenCV decodes",
}
PROBLEMS = {
    "cut.mkv": "is cut short",
    "cut.mp4": "is cut short",
    "cut.avi": "is cut short",
    "cut_b_frames.avi": "is cut short",
    "cut.webm": "is cut short",
    "cut.flv": "of its frames did not decode",
    "noise.avi": "of its frames did not decode",
    "zeros.mp4": "of its frames did not decode",
}
NOTES = {
    "raw.h264": "no time stamps: 25 frames/s are assumed",
    "joined.ts": "its time stamps jump at frame 60, 120",
    "joined.mkv": "its time stamps jump at frame 60",
    "jump.ts": "its time stamps jump at frame 60",
    "overlap.ts": "its time stamps jump at frame 60",
    "sound.mkv": "its frames end at 2 s, but it states 10 s",
    "noise.mkv": "some may be missing",
    "noise.ts": "some may be missing",
}
"""What is said about each; nothing about any other."""
