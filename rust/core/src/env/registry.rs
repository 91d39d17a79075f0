//! The only list of environment ids.

use super::numerics::Numerics;
use super::{
    Acrobot, CartPole, Env, EnvError, EnvSpec, InvalidAction, MountainCar, MountainCarContinuous,
    Pendulum,
};
use crate::memory::OutOfMemory;
use crate::vec_env::{EnvVec, VectorEnv};

type Make = fn(usize, Numerics) -> Result<Box<dyn VectorEnv>, OutOfMemory>;

/// One line per environment.
const REGISTRY: [(EnvSpec, Make); 6] = [
    entry::<CartPole>(),
    entry::<Pendulum>(),
    entry::<Acrobot>(),
    entry::<MountainCar>(),
    entry::<MountainCarContinuous>(),
    entry::<InvalidAction>(),
];

const fn entry<E: Env>() -> (EnvSpec, Make) {
    (E::SPEC, |n_envs, numerics| {
        Ok(Box::new(EnvVec::<E>::new(n_envs, numerics)?))
    })
}

/// The facts of every environment, in a fixed order.
pub fn specs() -> impl Iterator<Item = &'static EnvSpec> {
    REGISTRY.iter().map(|(spec, _)| spec)
}

/// `n_envs` environments of one id, not yet reset.
///
/// # Errors
/// [`EnvError::UnknownId`] for an id not listed here, [`EnvError::NoEnvs`] for zero environments,
/// [`EnvError::Memory`] for too many.
pub fn make(id: &str, n_envs: usize, numerics: Numerics) -> Result<Box<dyn VectorEnv>, EnvError> {
    let Some((_, make)) = REGISTRY.iter().find(|(spec, _)| spec.id == id) else {
        let known: Vec<_> = specs().map(|spec| spec.id).collect();
        return Err(EnvError::UnknownId {
            id: id.to_owned(),
            known: known.join(", "),
        });
    };
    if n_envs == 0 {
        return Err(EnvError::NoEnvs);
    }
    make(n_envs, numerics).map_err(|source| EnvError::Memory { n_envs, source })
}
