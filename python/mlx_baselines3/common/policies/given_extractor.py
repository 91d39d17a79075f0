"""Base class of actors that get their features extractor from the enclosing policy."""

from typing import Any, TypeVar

from gymnasium import spaces

from mlx_baselines3.common.policies.base import BasePolicy
from mlx_baselines3.common.torch_layers import BaseFeaturesExtractor

__all__ = ["GivenExtractorPolicy"]

SelfGivenExtractorPolicy = TypeVar("SelfGivenExtractorPolicy", bound="GivenExtractorPolicy")


class GivenExtractorPolicy(BasePolicy):
    """
    A network that can be saved separately. The file contains the extractor's class and arguments instead of
    the extractor. The creator of the extractor sets ``features_extractor_kwargs``.

    :param observation_space: space of one observation
    :param action_space: space of one action
    :param features_extractor: module that turns observations into features
    :param features_dim: number of features
    :param kwargs: as in :class:`BasePolicy`
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        **kwargs: Any,
    ):
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class=type(features_extractor),
            features_extractor=features_extractor,
            **kwargs,
        )
        self.features_dim = features_dim

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "features_dim": self.features_dim,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
        }

    @classmethod
    def _from_constructor_parameters(
        cls: type[SelfGivenExtractorPolicy], parameters: dict[str, Any]
    ) -> SelfGivenExtractorPolicy:
        kwargs = parameters.pop("features_extractor_kwargs")
        extractor = parameters.pop("features_extractor_class")(parameters["observation_space"], **kwargs)
        network = cls(**parameters, features_extractor=extractor)
        network.features_extractor_kwargs = kwargs
        return network
