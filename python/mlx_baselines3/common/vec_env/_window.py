"""A window for rendered frames: pygame's, which is part of the extra, else OpenCV's."""

import importlib
import os
import sys
from typing import Any

import numpy as np

__all__ = ["show_image"]

_TITLE = "vecenv"
_WAY_OUT = (
    "`render('rgb_array')` returns the frames as arrays, VecVideoRecorder writes them to a file, and "
    "`xvfb-run python ...` runs a program with a virtual display."
)

# The surface of pygame's only window, if this module has opened it.
_surface: Any = None


def show_image(image: np.ndarray) -> None:
    """
    Show an image in the window shared by all images.

    :param image: RGB image ``(H, W, 3)``, uint8
    :raises RuntimeError: there is no display
    :raises ImportError: neither pygame nor an OpenCV with windows is installed
    """
    on_linux = sys.platform.startswith("linux")
    if on_linux and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    ):
        # SDL would draw to an invisible surface, and OpenCV would abort the process.
        raise RuntimeError(_no_display("neither DISPLAY nor WAYLAND_DISPLAY is set"))
    pygame, cv2 = _imported("pygame"), None
    if pygame is None or _is_taken(pygame):
        cv2 = _imported("cv2")
        if cv2 is not None and not _has_windows(cv2):
            cv2 = None
    if cv2 is not None:
        cv2.imshow(_TITLE, np.ascontiguousarray(image[:, :, ::-1]))
        cv2.waitKey(1)
    elif pygame is not None:
        _show_in_pygame(pygame, image)
    else:
        raise ImportError(
            "A window for `rgb_array` frames needs pygame, or an OpenCV with windows (opencv-python-headless "
            "has none). Install it with `pip install pygame`, or create the environments with "
            "render_mode='human'."
        )


def _no_display(reason: str) -> str:
    return f"render('human') opens a window, but there is no display here ({reason}). {_WAY_OUT}"


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _is_taken(pygame: Any) -> bool:
    """Whether an environment with render_mode='human' has opened pygame's only window."""
    current = pygame.display.get_surface() if pygame.display.get_init() else None
    return current is not None and current is not _surface


def _has_windows(cv2: Any) -> bool:
    # The headless build has the function too, and fails when it is called.
    lines = [
        line.split(":") for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")
    ]
    return any(len(parts) == 2 and parts[1].strip() not in ("", "NONE") for parts in lines)


def _show_in_pygame(pygame: Any, image: np.ndarray) -> None:
    global _surface
    size = (image.shape[1], image.shape[0])
    # A closing environment closes pygame's window.
    current = pygame.display.get_surface() if pygame.display.get_init() else None
    if current is None or current.get_size() != size:
        try:
            pygame.display.init()
            _surface = current = pygame.display.set_mode(size)
        except pygame.error as error:
            raise RuntimeError(_no_display(str(error))) from error
        if pygame.display.get_driver() == "offscreen" and not os.environ.get("SDL_VIDEODRIVER"):
            pygame.display.quit()
            raise RuntimeError(_no_display("none could be opened"))
        pygame.display.set_caption(_TITLE)
    frame = np.ascontiguousarray(image, np.uint8)
    current.blit(pygame.image.frombuffer(frame.tobytes(), size, "RGB"), (0, 0))
    pygame.display.flip()
    # Keeps the window responsive; the events stay in the queue for other readers.
    pygame.event.pump()
