"""render("human") of environments that make arrays: a window, or one sentence."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest

from mlx_baselines3.common.vec_env import _window

pygame = pytest.importorskip("pygame")

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.fixture
def window(monkeypatch):
    """A window that SDL keeps to itself."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(_window, "_surface", None)
    yield
    pygame.display.quit()


def shown():
    return pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)


def test_the_window_shows_the_image(window):
    _window.show_image(IMAGE)
    np.testing.assert_array_equal(shown(), IMAGE)
    # Not contiguous, and of another size.
    _window.show_image(IMAGE[:2, ::-1])
    np.testing.assert_array_equal(shown(), IMAGE[:2, ::-1])
    assert pygame.display.get_caption()[0] == "vecenv"


def test_a_window_that_an_environment_has_closed_is_opened_again(window):
    _window.show_image(IMAGE)
    pygame.quit()
    _window.show_image(IMAGE)
    np.testing.assert_array_equal(shown(), IMAGE)


def opencv(gui, calls):
    cv2 = types.ModuleType("cv2")
    cv2.getBuildInformation = lambda: f"  Media I/O:\n\n  GUI:                           {gui}\n"
    cv2.imshow = lambda title, image: calls.append((title, image))
    cv2.waitKey = lambda milliseconds: calls.append(milliseconds)
    return cv2


def test_an_environments_own_window_is_left_alone(window, monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "cv2", opencv("QT5", calls))
    pygame.display.set_mode((20, 20))
    _window.show_image(IMAGE)
    assert pygame.display.get_surface().get_size() == (20, 20)
    assert calls[0][0] == "vecenv"
    np.testing.assert_array_equal(calls[0][1], IMAGE[:, :, ::-1])
    assert calls[1] == 1


def test_without_pygame_opencv_shows_it_if_it_has_windows(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "pygame", None)
    calls = []
    monkeypatch.setitem(sys.modules, "cv2", opencv("QT5", calls))
    _window.show_image(IMAGE)
    assert len(calls) == 2
    for cv2 in (opencv("NONE", calls), opencv("", calls), None):
        monkeypatch.setitem(sys.modules, "cv2", cv2)
        with pytest.raises(ImportError, match=r"opencv-python-headless has none.*`pip install pygame`"):
            _window.show_image(IMAGE)
    assert len(calls) == 2


QUICKSTART = """
import numpy as np
from mlx_baselines3 import A2C
model = A2C("MlpPolicy", "CartPole-v1", verbose=0, seed=0)
vec_env = model.get_env()
obs = vec_env.reset()
for i in range(3):
    action, _state = model.predict(obs, deterministic=True)
    obs, reward, done, info = vec_env.step(action)
    vec_env.render("human")
import pygame
surface = pygame.display.get_surface()
pixels = pygame.surfarray.array3d(surface).swapaxes(0, 1)
assert np.array_equal(pixels, vec_env.render("rgb_array")), "another picture"
# White ground, a black cart and its pole.
assert (pixels == 255).all(2).mean() > 0.9 and (pixels == 0).all(2).sum() > 1000
print(surface.get_size())
"""


def python(code, **environment):
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_sb3s_quickstart_shows_the_environment():
    done = python(QUICKSTART, SDL_VIDEODRIVER="dummy")
    assert done.stdout.splitlines()[-1:] == ["(600, 400)"], done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a display")
@pytest.mark.parametrize("display", [{}, {"DISPLAY": ":987"}])
def test_without_a_display_one_sentence_says_so(display):
    """SDL would draw where nobody looks."""
    done = python(QUICKSTART, **display)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: render('human') opens a window, but there is no display here (")
    assert "VecVideoRecorder" in last
