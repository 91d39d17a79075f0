//! Actions: what a space allows, and how a vector of them is read.

use super::EnvError;
use super::numerics::Scalar;

/// What an environment takes as an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionSpace {
    /// An integer in `0..n`, one per environment.
    Discrete(i64),
    /// This many finite floats per environment. Values out of the space's bounds are the
    /// environment's business: Gymnasium's clip them inside.
    Box(usize),
}

/// The actions of all environments of a vector, one row per environment.
#[derive(Debug, Clone, Copy)]
pub enum Actions<'a> {
    /// For [`ActionSpace::Discrete`].
    Discrete(&'a [i64]),
    /// For [`ActionSpace::Box`], in float32.
    Single(&'a [f32]),
    /// For [`ActionSpace::Box`], in float64. Gymnasium computes with the precision it is given.
    Double(&'a [f64]),
}

impl Actions<'_> {
    /// How many numbers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Discrete(a) => a.len(),
            Self::Single(a) => a.len(),
            Self::Double(a) => a.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether these are valid actions for `n_envs` environments.
    ///
    /// # Errors
    /// [`EnvError::ActionKind`], [`EnvError::ActionCount`], [`EnvError::ActionRange`] or
    /// [`EnvError::ActionNotFinite`], naming the first wrong value.
    pub fn check(&self, space: ActionSpace, n_envs: usize) -> Result<(), EnvError> {
        let (width, wrong_kind) = match (self, space) {
            (Self::Discrete(_), ActionSpace::Discrete(_)) => (1, None),
            (Self::Discrete(_), ActionSpace::Box(width)) => (width, Some(("integer", "floats"))),
            (_, ActionSpace::Discrete(_)) => (1, Some(("float", "integers"))),
            (_, ActionSpace::Box(width)) => (width, None),
        };
        if let Some((got, expected)) = wrong_kind {
            return Err(EnvError::ActionKind { got, expected });
        }
        let (got, expected) = (self.len(), n_envs * width);
        if got != expected {
            return Err(EnvError::ActionCount {
                got,
                n_envs,
                expected,
            });
        }
        self.check_values(space, width)
    }

    fn check_values(&self, space: ActionSpace, width: usize) -> Result<(), EnvError> {
        let not_finite = |i: usize, action: f64| EnvError::ActionNotFinite {
            env: i / width,
            action,
        };
        let bad = match (*self, space) {
            (Self::Discrete(a), ActionSpace::Discrete(n)) => {
                let env = a.iter().position(|action| !(0..n).contains(action));
                env.map(|env| EnvError::ActionRange {
                    env,
                    action: a[env],
                    max: n - 1,
                })
            }
            (Self::Discrete(_), ActionSpace::Box(_)) => None,
            (Self::Single(a), _) => {
                let i = a.iter().position(|action| !action.is_finite());
                i.map(|i| not_finite(i, f64::from(a[i])))
            }
            (Self::Double(a), _) => {
                let i = a.iter().position(|action| !action.is_finite());
                i.map(|i| not_finite(i, a[i]))
            }
        };
        bad.map_or(Ok(()), Err)
    }
}

/// The action of one environment, as its `step` wants it.
pub trait Action: Copy {
    /// Action `i`, or `None` if `actions` is of the other kind or too short.
    fn read(actions: &Actions<'_>, i: usize) -> Option<Self>;
}

impl Action for i64 {
    #[inline]
    fn read(actions: &Actions<'_>, i: usize) -> Option<Self> {
        match actions {
            Actions::Discrete(a) => a.get(i).copied(),
            _ => None,
        }
    }
}

impl Action for Scalar {
    #[inline]
    fn read(actions: &Actions<'_>, i: usize) -> Option<Self> {
        match actions {
            Actions::Discrete(_) => None,
            Actions::Single(a) => a.get(i).map(|&x| Self::Single(x)),
            Actions::Double(a) => a.get(i).map(|&x| Self::Double(x)),
        }
    }
}
