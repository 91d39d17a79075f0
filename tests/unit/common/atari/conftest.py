"""The real Atari games are tried where they are installed: pip install 'mlx-baselines3[atari]'."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("ale_py") and find_spec("cv2") else ["test_ale.py"]
