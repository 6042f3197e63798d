"""Classify what a camera sees, print a line whenever the best label changes, and at the end the frames per second.

The next frame is read and prepared while the model runs.

python camera.py BUNDLE                     a USB camera, through OpenCV: pip install opencv-python-headless
python camera.py BUNDLE --camera door.mp4   a recording, through OpenCV
python camera.py BUNDLE --picamera          a Raspberry Pi's camera: sudo apt install python3-picamera2

picamera2 needs an environment that sees the system's packages, and on Debian 12 a numpy older than 2.
"""

import argparse
import sys
import time
from collections.abc import Generator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.errors import EdgekitError


def opencv_frames(source: str) -> Generator[NDArray[np.uint8], None, None]:
    """Yield RGB frames [H,W,3] of a camera, by its number, or of a video file."""
    import cv2

    camera = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not camera.isOpened():
            sys.exit(
                f"'{source}' is no camera or video. List the cameras with `v4l2-ctl --list-devices`; use --camera."
            )
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not one that waited for the frame before it
        while True:
            read, frame = camera.read()
            if not read:
                return
            yield frame[:, :, ::-1]  # OpenCV gives blue, green, red
    finally:
        camera.release()


def picamera_frames() -> Generator[NDArray[np.uint8], None, None]:
    """Yield RGB frames [H,W,3] of a Raspberry Pi's camera."""
    from picamera2 import Picamera2

    if not Picamera2.global_camera_info():
        sys.exit("This Raspberry Pi has no camera. Check its cable, and that `rpicam-hello --list-cameras` lists it.")
    with Picamera2() as camera:
        # picamera2 names formats in the reverse order of the bytes: BGR888 gives red, green, blue.
        camera.configure(camera.create_preview_configuration({"format": "BGR888", "size": (640, 480)}))
        camera.start()
        while True:
            yield camera.capture_array()


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify what a camera sees.")
    parser.add_argument("bundle", help="folder of a bundle, or the link that `edgekit push` switches")
    parser.add_argument("--camera", default="0", help="number of a camera, or a video file (default: 0)")
    parser.add_argument("--picamera", action="store_true", help="use a Raspberry Pi's camera module")
    options = parser.parse_args()
    last, count, start = None, 0, 0.0
    frames = picamera_frames() if options.picamera else opencv_frames(options.camera)
    with (
        edgekit.follow(options.bundle) as classifier,
        closing(frames),
        closing(classifier.classify_each(frames, top=1, threshold=0)) as answers,
    ):
        try:
            for [(label, score)] in answers:
                start = start or time.monotonic()
                count += 1
                if label != last:
                    print(f"{label} {score:.0%}", flush=True)
                    last = label
        finally:
            if count > 1:
                print(f"{(count - 1) / (time.monotonic() - start):.1f} frames per second", file=sys.stderr)
    if not count or options.camera.isdecimal():
        sys.exit(f"The camera gave no more frames after {count}. Check its cable, then start again.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed. The first lines of this file say how to install it.")
    except EdgekitError as error:
        sys.exit(str(error))
