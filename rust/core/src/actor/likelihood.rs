//! The log-likelihoods of actions that were taken.

use super::observed::seen;
use super::{Actor, ActorError, Head};
use crate::nn::ObservationColumn;
use crate::threads;
use crate::update::{Distribution, UpdateError, forbid, measure_states, variances_of};

/// What a likelihood takes for each output of the network, in nanoseconds: two functions of `std`.
const OUTPUT_NS: usize = 30;

impl Head {
    /// The distribution and its parameters, if the likelihoods of its actions are known here.
    fn distribution(&self, outputs: usize) -> Option<(Distribution, Vec<f32>)> {
        Some(match self {
            Self::Categorical => (Distribution::Categorical(vec![outputs]), Vec::new()),
            Self::MultiCategorical(options) => {
                (Distribution::Categorical(options.clone()), Vec::new())
            }
            Self::Bernoulli => (Distribution::Bernoulli(outputs), Vec::new()),
            Self::Gaussian(std) => {
                let (size, log_std) = (std.len(), 0);
                let log_stds = std.iter().map(|std| std.ln()).collect();
                (Distribution::Gaussian { size, log_std }, log_stds)
            }
            _ => return None,
        })
    }
}

impl Actor {
    /// Writes the log-likelihood of an action for each of some observations; discrete and binary
    /// actions are whole numbers. `masks` are as for [`Actor::act_on`]. Gives whether the head has one that is
    /// known here: nothing is
    /// written if not.
    ///
    /// # Errors
    /// [`ActorError::Network`], [`ActorError::Out`], or [`ActorError::Action`]: what was written is of
    /// no use then.
    pub fn log_probs(
        &mut self,
        columns: &[ObservationColumn<'_>],
        masks: Option<&[f32]>,
        actions: &[f32],
        out: &mut [f32],
    ) -> Result<bool, ActorError> {
        if let Head::StateDependent { .. } = self.head {
            self.state_log_probs(columns, actions, out)?;
            return Ok(true);
        }
        let Some((distribution, parameters)) = self.head.distribution(self.net.outputs()) else {
            return Ok(false);
        };
        let (rows, dim) = (self.rows(columns)?, distribution.action_dim());
        check(rows, dim, actions, out)?;
        self.check_masks(masks, rows)?;
        let mut outputs = vec![0.0; rows * distribution.outputs()];
        self.outputs(columns, &mut outputs)?;
        if let Some(masks) = masks {
            forbid(&mut outputs, masks);
        }
        for action in actions.chunks_exact(dim) {
            distribution.check(action)?;
        }
        let width = distribution.outputs();
        let size = rows
            .div_ceil(threads::parts(rows, width * OUTPUT_NS))
            .max(1);
        let parts = outputs
            .chunks_mut(size * width)
            .zip(actions.chunks(size * dim))
            .zip(out.chunks_mut(size));
        threads::for_each(parts, |((outputs, actions), out)| {
            let lines = outputs
                .chunks_exact_mut(width)
                .zip(actions.chunks_exact(dim));
            for ((row, action), out) in lines.zip(out) {
                (*out, _) = distribution.measure(&parameters, row, action);
            }
        });
        Ok(true)
    }

    /// The same for actions whose noise depends on the state.
    fn state_log_probs(
        &mut self,
        columns: &[ObservationColumn<'_>],
        actions: &[f32],
        out: &mut [f32],
    ) -> Result<(), ActorError> {
        let (rows, dim) = (self.rows(columns)?, self.action_dim());
        check(rows, dim, actions, out)?;
        let Head::StateDependent { std, squash } = &self.head else {
            return Ok(());
        };
        let input = seen(&mut self.extracted, columns)?;
        let (features, outputs) = self.net.forward_from_features(input, &mut self.work)?;
        let mut variances = vec![0.0; dim];
        let rows = features.rows().zip(outputs.rows());
        for (((features, means), action), out) in rows.zip(actions.chunks_exact(dim)).zip(out) {
            variances_of(features, std, &mut variances);
            (*out, _) = measure_states(means, &variances, action, *squash);
        }
        Ok(())
    }
}

/// That there is an action and a place for each row.
fn check(rows: usize, dim: usize, actions: &[f32], out: &[f32]) -> Result<(), ActorError> {
    if actions.len() == rows * dim && out.len() == rows {
        return Ok(());
    }
    Err(ActorError::Out {
        got: out.len(),
        kind: "float",
        expected: format!("{rows} log-likelihoods of {} numbers", actions.len()),
    })
}

impl From<UpdateError> for ActorError {
    fn from(error: UpdateError) -> Self {
        Self::Action(error.to_string())
    }
}
