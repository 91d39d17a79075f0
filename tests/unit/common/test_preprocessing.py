import mlx.core as mx
import numpy as np
import pytest
from gymnasium import spaces

from mlx_baselines3.common.preprocessing import (
    check_for_nested_spaces,
    get_action_dim,
    get_flattened_obs_dim,
    get_obs_shape,
    is_image_space,
    is_image_space_channels_first,
    maybe_transpose,
    preprocess_obs,
)

HWC = spaces.Box(0, 255, shape=(8, 6, 3), dtype=np.uint8)
CHW = spaces.Box(0, 255, shape=(3, 8, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    ("space", "shape", "features"),
    [
        (spaces.Discrete(3), (1,), 3),
        (spaces.MultiDiscrete([3, 2]), (2,), 5),
        (spaces.MultiBinary(3), (3,), 3),
        (spaces.MultiBinary([3, 2]), (3, 2), 6),
        (spaces.Box(-2, 2, shape=(3, 2)), (3, 2), 6),
    ],
)
def test_shapes_and_sizes(space, shape, features):
    assert get_obs_shape(space) == shape
    assert get_flattened_obs_dim(space) == features


def test_shape_of_dicts_and_unknown_spaces():
    space = spaces.Dict({"a": spaces.Discrete(3), "b": HWC})
    assert get_obs_shape(space) == {"a": (1,), "b": (8, 6, 3)}
    with pytest.raises(NotImplementedError, match="Tuple"):
        get_obs_shape(spaces.Tuple((HWC,)))


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Box(-1, 1, shape=(3, 2)), 6),
        (spaces.Discrete(5), 1),
        (spaces.MultiDiscrete([4, 4, 4]), 3),
        (spaces.MultiBinary(7), 7),
    ],
)
def test_action_dim(space, size):
    assert get_action_dim(space) == size


def test_action_dim_refusals():
    with pytest.raises(AssertionError, match="flatten"):
        get_action_dim(spaces.MultiBinary([2, 3]))
    with pytest.raises(NotImplementedError, match="Tuple"):
        get_action_dim(spaces.Tuple((HWC,)))


@pytest.mark.parametrize(
    ("space", "obs", "expected"),
    [
        (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (spaces.Discrete(2, start=5), [6], [[0, 1]]),
        (spaces.MultiDiscrete([3, 2]), [[2, 0], [0, 1]], [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]),
        (spaces.MultiBinary(3), [[1, 0, 1]], [[1, 0, 1]]),
        (spaces.MultiBinary([2, 2]), [[[1, 0], [1, 1]]], [[[1, 0], [1, 1]]]),
    ],
)
def test_integers_become_codes(space, obs, expected):
    for dtype in (mx.int32, mx.int64):
        result = preprocess_obs(mx.array(obs, dtype=dtype), space)
        assert result.dtype == mx.float32
        assert result.tolist() == expected


def test_images_are_scaled_and_boxes_are_not():
    image = mx.full((1, 8, 6, 3), 51, dtype=mx.uint8)
    assert np.allclose(np.array(preprocess_obs(image, HWC)), 0.2)
    assert np.array(preprocess_obs(image, HWC, normalize_images=False)).max() == 51
    box = preprocess_obs(mx.array([[1.5, 0.25]]), spaces.Box(-2, 2, shape=(2,)))
    assert box.tolist() == [[1.5, 0.25]]


def test_dicts_are_preprocessed_by_key_and_left_alone():
    space = spaces.Dict({"n": spaces.Discrete(2), "image": HWC})
    obs = {"n": mx.array([1]), "image": mx.full((1, 8, 6, 3), 255, dtype=mx.uint8)}
    result = preprocess_obs(obs, space)
    assert result["n"].tolist() == [[0, 1]]
    assert np.array(result["image"]).min() == 1.0
    assert obs["n"].tolist() == [1]
    with pytest.raises(AssertionError, match="dict"):
        preprocess_obs(mx.array([1]), space)


def test_preprocess_refusals():
    with pytest.raises(AssertionError, match=r"mx\.array"):
        preprocess_obs(np.zeros((1, 2)), spaces.Box(-2, 2, shape=(2,)))
    with pytest.raises(NotImplementedError, match="Tuple"):
        preprocess_obs(mx.array([1]), spaces.Tuple((HWC,)))


def test_image_spaces():
    assert is_image_space(HWC)
    assert is_image_space(HWC, check_channels=True)
    assert not is_image_space(spaces.Box(0, 255, shape=(8, 6, 5), dtype=np.uint8), check_channels=True)
    assert not is_image_space(spaces.Box(0, 254, shape=(8, 6, 3), dtype=np.uint8))
    floats = spaces.Box(0, 1, shape=(8, 6, 3), dtype=np.float32)
    assert not is_image_space(floats)
    assert is_image_space(floats, normalized_image=True)
    assert not is_image_space(spaces.Box(0, 255, shape=(8, 6), dtype=np.uint8))
    assert not is_image_space(spaces.Discrete(3))


def test_channel_order():
    assert is_image_space_channels_first(CHW)
    assert not is_image_space_channels_first(HWC)
    with pytest.warns(UserWarning, match="second dimension"):
        assert not is_image_space_channels_first(spaces.Box(0, 255, shape=(8, 2, 6), dtype=np.uint8))


def test_maybe_transpose():
    image = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    moved = maybe_transpose(image, CHW)
    assert moved.shape == (3, 8, 6)
    assert moved[1, 4, 5] == image[4, 5, 1]
    assert maybe_transpose(image[None], CHW)[0, 1, 4, 5] == image[4, 5, 1]
    assert maybe_transpose(moved, CHW) is moved
    assert maybe_transpose(image, HWC) is image
    odd = np.zeros((5, 5, 3), dtype=np.uint8)
    assert maybe_transpose(odd, CHW) is odd
    assert maybe_transpose(np.zeros(4), spaces.Box(-1, 1, shape=(4,))).shape == (4,)


def test_nested_spaces_are_refused():
    flat = spaces.Dict({"a": spaces.Discrete(2)})
    check_for_nested_spaces(flat)
    check_for_nested_spaces(spaces.Discrete(2))
    for nested in (spaces.Dict({"outer": flat}), spaces.Tuple((flat,))):
        with pytest.raises(NotImplementedError, match="Nested"):
            check_for_nested_spaces(nested)
