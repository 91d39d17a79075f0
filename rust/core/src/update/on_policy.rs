//! The gradient steps of PPO and A2C.

use std::ops::Range;

use super::actor::rows_of;
use super::distribution::{differentiate_states, measure_states};
use super::features::{Trunk, vectors};
use super::pieces::{Pieces, WithGradient};
use super::state_noise::{Spread, StateRows};
use super::{Distribution, Trained, UpdateError, check, forbid, optimizer::clip};
use crate::interrupt::Watch;
use crate::nn::{Extractor, ObservationColumn, Rows, SUM_ROWS, Tape, TrainableMlp};

/// A rollout, row after row; the rows of one environment need not lie together.
#[derive(Debug, Clone, Copy)]
pub struct Rollout<'a> {
    /// Observations: one column of vectors, or those that the extractors take.
    pub observations: &'a [ObservationColumn<'a>],
    /// Actions; discrete and binary ones as whole numbers.
    pub actions: &'a [f32],
    /// Values at collection.
    pub values: &'a [f32],
    /// Log-likelihoods of the actions at collection.
    pub log_probs: &'a [f32],
    /// Advantages.
    pub advantages: &'a [f32],
    /// Returns.
    pub returns: &'a [f32],
    /// For each output of the policy network whether its choice was allowed, 0 where it was not; `None`:
    /// all were.
    pub masks: Option<&'a [f32]>,
}

impl Rollout<'_> {
    /// That there are as many numbers in each column as advantages ask for; observations aside.
    pub(super) fn check_columns(&self, distribution: &Distribution) -> Result<(), UpdateError> {
        let count = self.advantages.len();
        check(
            "actions",
            self.actions.len(),
            count * distribution.action_dim(),
        )?;
        check("values", self.values.len(), count)?;
        check("log-likelihoods", self.log_probs.len(), count)?;
        check("returns", self.returns.len(), count)?;
        if let Some(masks) = self.masks {
            let choices = match distribution {
                Distribution::Categorical(_) => distribution.outputs(),
                // Nothing that could be forbidden.
                _ => 0,
            };
            check("masks", masks.len(), count * choices)?;
        }
        Ok(())
    }
}

/// The numbers of the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnPolicySettings {
    /// How far a likelihood may move (PPO); `None`: the plain policy gradient (A2C).
    pub clip_range: Option<f32>,
    /// How far a value may move.
    pub clip_range_vf: Option<f32>,
    /// Weight of the entropy.
    pub ent_coef: f32,
    /// Weight of the error of the values.
    pub vf_coef: f32,
    /// Largest 2-norm of the gradient.
    pub max_grad_norm: f32,
    /// Stop when the policy has moved 1.5 times this far.
    pub target_kl: Option<f32>,
    /// Normalise the advantages of each minibatch.
    pub normalize: bool,
}

/// What a minibatch gives: the loss and its three parts, the divergence, the clipped fraction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OnPolicyMetrics {
    /// The whole loss.
    pub loss: f64,
    /// Minus the mean entropy.
    pub entropy_loss: f64,
    /// The loss of the policy.
    pub policy_loss: f64,
    /// The mean squared error of the values.
    pub value_loss: f64,
    /// Estimated divergence from the policy that collected.
    pub approx_kl: f64,
    /// LayerPart of the rows where the clip was at work.
    pub clip_fraction: f64,
}

/// A policy and a value function that learn from rollouts.
#[derive(Debug, Clone)]
pub struct OnPolicyUpdate {
    actor: TrainableMlp,
    critic: TrainableMlp,
    distribution: Distribution,
    // How many parameters there are, and how many of them are those of the two networks.
    size: usize,
    head_size: usize,
    trunk: Option<Trunk>,
    spread: Spread,
    pieces: Pieces<Piece>,
}

/// The memory for some rows of a minibatch, and what they give.
#[derive(Debug, Clone, Default)]
struct Piece {
    observations: Vec<f32>,
    actions: Vec<f32>,
    actor: Tape,
    critic: Tape,
    by_outputs: Vec<f32>,
    by_values: Vec<f32>,
    by_own: Vec<f32>,
    states: StateRows,
    by_features: [Vec<f32>; 2],
    gradient: Vec<f32>,
    sums: OnPolicyMetrics,
}

impl WithGradient for Piece {
    fn gradient(&mut self) -> &mut Vec<f32> {
        &mut self.gradient
    }
}

/// What the rows of a minibatch have in common.
pub(super) struct Minibatch<'a> {
    pub(super) rollout: &'a Rollout<'a>,
    pub(super) rows: &'a [u32],
    pub(super) parameters: &'a [f32],
    pub(super) settings: &'a OnPolicySettings,
    size: f32,
    // What to subtract from an advantage, and to multiply it with then.
    centre: f32,
    scale: f32,
}

/// What the networks see.
#[derive(Clone, Copy)]
enum Inputs<'a> {
    /// The observations of the whole rollout.
    Observations(&'a [f32]),
    /// The features of the minibatch, for the actor and for the critic.
    Features([&'a [f32]; 2]),
}

/// Mean, and one over the unbiased deviation; one number alone is left as it is.
fn normalization(advantages: impl ExactSizeIterator<Item = f32> + Clone) -> (f32, f32) {
    let count = advantages.len();
    if count == 1 {
        return (0.0, 1.0);
    }
    let mean = advantages.clone().map(f64::from).sum::<f64>() / count as f64;
    let squares = advantages.map(|a| (f64::from(a) - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (count - 1) as f64).sqrt();
    (mean as f32, (1.0 / (deviation + 1e-8)) as f32)
}

impl OnPolicyUpdate {
    /// Networks whose parameters lie in one vector of `size` numbers.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if they do not fit.
    pub fn new(
        actor: TrainableMlp,
        critic: TrainableMlp,
        distribution: Distribution,
        size: usize,
    ) -> Result<Self, UpdateError> {
        let wrong = |what, side, got, expected| UpdateError::Width {
            what,
            side,
            got,
            expected,
        };
        if actor.outputs() != distribution.outputs() {
            let expected = distribution.outputs();
            return Err(wrong("actor", "outputs", actor.outputs(), expected));
        }
        if let Distribution::StateDependent { noise, .. } = &distribution
            && actor.features() != noise.features
        {
            return Err(wrong("actor", "features", actor.features(), noise.features));
        }
        if critic.outputs() != 1 {
            return Err(wrong("critic", "outputs", critic.outputs(), 1));
        }
        if critic.inputs() != actor.inputs() {
            return Err(wrong("critic", "inputs", critic.inputs(), actor.inputs()));
        }
        let of_networks = actor.parameters().max(critic.parameters());
        let needed = of_networks.max(distribution.parameters());
        if size < needed {
            check("the vector of parameters", size, needed)?;
        }
        Ok(Self {
            actor,
            critic,
            distribution,
            size,
            head_size: size,
            trunk: None,
            spread: Spread::default(),
            pieces: Pieces::default(),
        })
    }

    /// The networks see features: of one extractor for both, or of one for the actor and one for the
    /// critic.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if they do not fit.
    pub fn with_extractors(mut self, extractors: Vec<Extractor>) -> Result<Self, UpdateError> {
        let count = extractors.len();
        check("the list of extractors", count, count.clamp(1, 2))?;
        let mut trunk = Trunk::new(extractors, self.size)?;
        self.actor = trunk.head(&self.actor, "actor", (0, 0))?;
        self.critic = trunk.head(&self.critic, "critic", (count - 1, 0))?;
        let packed = trunk.packed();
        self.distribution = self
            .distribution
            .moved(|from, count| packed.add(from, count));
        self.head_size = trunk.head_size();
        self.trunk = Some(trunk);
        Ok(self)
    }

    /// Numbers in the vector of parameters.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Numbers of an action.
    #[must_use]
    pub fn action_dim(&self) -> usize {
        self.distribution.action_dim()
    }

    pub(crate) fn distribution(&self) -> &Distribution {
        &self.distribution
    }

    pub(crate) fn has_extractors(&self) -> bool {
        self.trunk.is_some()
    }

    /// The networks of the policy and of the values.
    pub(crate) fn nets(&self) -> [&TrainableMlp; 2] {
        [&self.actor, &self.critic]
    }

    fn check(&self, rollout: &Rollout<'_>, rows: &[u32]) -> Result<(), UpdateError> {
        let count = rollout.advantages.len();
        let dim = self.distribution.action_dim();
        match &self.trunk {
            Some(trunk) => trunk.check(rollout.observations, count)?,
            None => {
                let numbers = count * self.actor.inputs();
                check(
                    "observations",
                    vectors(rollout.observations)?.len(),
                    numbers,
                )?;
            }
        }
        rollout.check_columns(&self.distribution)?;
        for &row in rows {
            let row = row as usize;
            if row >= count {
                return Err(UpdateError::Row { row, rows: count });
            }
            let action = &rollout.actions[row * dim..(row + 1) * dim];
            self.distribution.check(action)?;
        }
        Ok(())
    }

    /// One pass over the rows in `order`, a gradient step for every `batch_size` of them (fewer in
    /// the last one). Ends early at a minibatch where the policy has moved too far; that one does
    /// not count any more. Gives the metrics of each minibatch seen, and whether it ended early.
    ///
    /// # Errors
    /// [`UpdateError`] if the data do not fit; no step has been made then. After
    /// [`UpdateError::Interrupted`] some steps have been made, each of them whole.
    pub fn epoch(
        &mut self,
        rollout: &Rollout<'_>,
        order: &[u32],
        batch_size: usize,
        settings: &OnPolicySettings,
        trained: &mut Trained<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(Vec<OnPolicyMetrics>, bool), UpdateError> {
        trained.check("the vector of parameters", self.size)?;
        self.check(rollout, order)?;
        let numbers = self
            .actor
            .row_numbers()
            .saturating_add(self.critic.row_numbers());
        let most = batch_size.min(order.len());
        self.pieces.expect_room(most, numbers, self.head_size)?;
        if let Some(trunk) = &mut self.trunk {
            trunk.expect_room(most)?;
        }
        let mut metrics = Vec::with_capacity(order.len().div_ceil(batch_size.max(1)));
        for rows in order.chunks(batch_size.max(1)) {
            let (seen, went_on) = self.minibatch(rollout, rows, settings, trained);
            metrics.push(seen);
            if !went_on {
                return Ok((metrics, true));
            }
            watch.check()?;
        }
        Ok((metrics, false))
    }

    /// The gradient step of a minibatch, and whether it was made: not if the policy has moved too far.
    fn minibatch(
        &mut self,
        rollout: &Rollout<'_>,
        rows: &[u32],
        settings: &OnPolicySettings,
        trained: &mut Trained<'_>,
    ) -> (OnPolicyMetrics, bool) {
        let (mut trunk, columns) = (self.trunk.take(), rollout.observations);
        if let Some(trunk) = &mut trunk {
            trunk.see(trained.parameters, columns, Rows::Listed(rows));
        }
        let inputs = match (&trunk, columns) {
            (Some(trunk), _) => Inputs::Features(trunk.features()),
            (None, [ObservationColumn::Floats(column)]) => Inputs::Observations(column),
            // Has been refused.
            (None, _) => Inputs::Observations(&[]),
        };
        let parameters = trunk
            .as_ref()
            .map_or(&*trained.parameters, Trunk::parameters);
        let batch = Minibatch::new(rollout, rows, parameters, settings);
        if let Distribution::StateDependent { noise, .. } = &self.distribution {
            self.spread.load(noise, batch.parameters, &[]);
        }
        let cost = 3 * rows.len() * (self.actor.row_ns() + self.critic.row_ns());
        let mut memory = std::mem::take(&mut self.pieces);
        memory.visit_rows(rows.len(), cost, |range, piece| {
            self.piece(piece, &batch, inputs, range);
        });
        let sums = memory.visited().iter().map(|piece| &piece.sums);
        let metrics = total(sums, rows.len(), settings);
        let far = |target: f32| metrics.approx_kl > 1.5 * f64::from(target);
        let near = !settings.target_kl.is_some_and(far);
        if near {
            if let Some(trunk) = &mut trunk {
                let pieces = memory.visited().iter();
                trunk
                    .take_back(pieces.map(|piece| piece.by_features.each_ref().map(Vec::as_slice)));
            }
            let gradient = match (&mut trunk, memory.gradient()) {
                (None, of_networks) => of_networks,
                (Some(trunk), of_heads) => {
                    trunk.gradient(trained.parameters, columns, Rows::Listed(rows), of_heads)
                }
            };
            trained.step(gradient, clip(gradient, settings.max_grad_norm));
        }
        (self.pieces, self.trunk) = (memory, trunk);
        (metrics, near)
    }

    /// What some rows add to the gradient and the metrics of their minibatch.
    fn piece(
        &self,
        piece: &mut Piece,
        batch: &Minibatch<'_>,
        inputs: Inputs<'_>,
        range: Range<usize>,
    ) {
        piece.clear_gradient(self.head_size);
        piece.sums = OnPolicyMetrics::default();
        let (rows, action_dim) = (&batch.rows[range.clone()], self.distribution.action_dim());
        take(&mut piece.actions, batch.rollout.actions, rows, action_dim);
        let [seen, valued] = match inputs {
            Inputs::Observations(all) => {
                take(&mut piece.observations, all, rows, self.actor.inputs());
                [piece.observations.as_slice(); 2]
            }
            Inputs::Features([seen, valued]) => [
                rows_of(seen, &range, self.actor.inputs()),
                rows_of(valued, &range, self.critic.inputs()),
            ],
        };
        let parameters = batch.parameters;
        let outputs = self.actor.forward(parameters, seen, &mut piece.actor);
        let values = self.critic.forward(parameters, valued, &mut piece.critic);
        piece.by_outputs.clear();
        piece.by_outputs.extend_from_slice(outputs);
        piece.by_values.clear();
        let width = self.distribution.outputs();
        if let Some(masks) = batch.rollout.masks {
            for (outputs, &row) in piece.by_outputs.chunks_exact_mut(width).zip(rows) {
                let start = row as usize * width;
                forbid(outputs, &masks[start..start + width]);
            }
        }
        let actions = piece.actions.chunks_exact(action_dim);
        let all = piece.by_outputs.chunks_exact_mut(width).zip(actions);
        let own = self.distribution.own_parameters();
        piece.by_own.clear();
        piece.by_own.resize(own.len(), 0.0);
        let state_noise = match &self.distribution {
            Distribution::StateDependent { noise, squash } => {
                let features = piece.actor.last_input(seen);
                piece.states.see(noise, &self.spread, features);
                piece.states.by_variances.clear();
                Some((noise, *squash, features))
            }
            _ => None,
        };
        let rows_and_values = rows.iter().zip(values.iter());
        for (index, ((outputs, action), (&row, &value))) in all.zip(rows_and_values).enumerate() {
            if index.is_multiple_of(SUM_ROWS) {
                add_up_block(&mut piece.gradient[own.clone()], &mut piece.by_own);
            }
            let of_row = index * action_dim..(index + 1) * action_dim;
            let (log_prob, entropy) = match state_noise {
                Some((_, squash, _)) => {
                    let variances = &piece.states.variances[of_row.clone()];
                    measure_states(outputs, variances, action, squash)
                }
                None => self.distribution.measure(parameters, outputs, action),
            };
            let (by_log_prob, by_value) = batch.row(row as usize, log_prob, value, &mut piece.sums);
            piece.sums.entropy_loss -= f64::from(entropy);
            let weights = [by_log_prob, -batch.settings.ent_coef / batch.size];
            if let Some((_, squash, _)) = state_noise {
                let StateRows {
                    variances,
                    by_variances,
                    ..
                } = &mut piece.states;
                let variances = &variances[of_row];
                differentiate_states(outputs, variances, action, squash, weights, by_variances);
            } else {
                let by_own = &mut piece.by_own;
                self.distribution
                    .differentiate(parameters, outputs, action, weights, by_own);
            }
            piece.by_values.push(by_value);
        }
        if let Some((noise, _, features)) = state_noise {
            let with = (noise, &self.spread);
            let gradient = &mut piece.gradient;
            piece
                .states
                .add_gradient(with, parameters, features, gradient);
        }
        add_up_block(&mut piece.gradient[own], &mut piece.by_own);
        let Piece {
            actor,
            critic,
            by_outputs,
            by_values,
            by_features,
            gradient,
            ..
        } = piece;
        let wanted = matches!(inputs, Inputs::Features(_));
        let passes = [
            (&self.actor, seen, actor, &*by_outputs),
            (&self.critic, valued, critic, &*by_values),
        ];
        for ((net, input, tape, delta), by_features) in passes.into_iter().zip(by_features) {
            let by_inputs = net.backward(parameters, input, tape, delta, Some(gradient), wanted);
            by_features.clear();
            if wanted {
                by_features.extend_from_slice(by_inputs);
            }
        }
    }
}

/// Adds the sum of a block of rows to that of all, and begins anew.
pub(super) fn add_up_block(sum: &mut [f32], of_block: &mut [f32]) {
    for (sum, of_block) in sum.iter_mut().zip(of_block) {
        *sum += std::mem::take(of_block);
    }
}

/// Copies `rows` of `from`, each of `width` numbers.
pub(super) fn take(to: &mut Vec<f32>, from: &[f32], rows: &[u32], width: usize) {
    to.clear();
    for &row in rows {
        let start = row as usize * width;
        to.extend_from_slice(&from[start..start + width]);
    }
}

impl<'a> Minibatch<'a> {
    /// The rows of a minibatch, with what normalises their advantages.
    pub(super) fn new(
        rollout: &'a Rollout<'a>,
        rows: &'a [u32],
        parameters: &'a [f32],
        settings: &'a OnPolicySettings,
    ) -> Self {
        let (centre, scale) = if settings.normalize {
            normalization(rows.iter().map(|&row| rollout.advantages[row as usize]))
        } else {
            (0.0, 1.0)
        };
        Self {
            rollout,
            rows,
            parameters,
            settings,
            size: rows.len() as f32,
            centre,
            scale,
        }
    }

    /// Adds to the sums what a row gives; the derivatives of the loss by its log-likelihood and value.
    pub(super) fn row(
        &self,
        row: usize,
        log_prob: f32,
        value: f32,
        sums: &mut OnPolicyMetrics,
    ) -> (f32, f32) {
        let (rollout, settings) = (self.rollout, self.settings);
        let advantage = (rollout.advantages[row] - self.centre) * self.scale;
        let by_log_prob = match settings.clip_range {
            None => {
                sums.policy_loss -= f64::from(advantage * log_prob);
                -advantage / self.size
            }
            Some(range) => {
                let log_ratio = log_prob - rollout.log_probs[row];
                let ratio = log_ratio.exp();
                let (plain, clipped) = (
                    advantage * ratio,
                    advantage * ratio.max(1.0 - range).min(1.0 + range),
                );
                let active = plain <= clipped || plain.is_nan();
                sums.policy_loss -= f64::from(if active { plain } else { clipped });
                sums.approx_kl += f64::from((ratio - 1.0) - log_ratio);
                if (ratio - 1.0).abs() > range {
                    sums.clip_fraction += 1.0;
                }
                if active { -plain / self.size } else { 0.0 }
            }
        };
        let (old, target) = (rollout.values[row], rollout.returns[row]);
        let (value, slope) = match settings.clip_range_vf {
            Some(range) if (value - old).abs() > range => {
                (old + (value - old).max(-range).min(range), 0.0)
            }
            _ => (value, 1.0),
        };
        let error = value - target;
        sums.value_loss += f64::from(error * error);
        let by_value = slope * settings.vf_coef * 2.0 * error / self.size;
        (by_log_prob, by_value)
    }
}

/// The metrics of a minibatch of `rows` rows.
pub(super) fn total<'a>(
    sums: impl Iterator<Item = &'a OnPolicyMetrics> + Clone,
    rows: usize,
    settings: &OnPolicySettings,
) -> OnPolicyMetrics {
    let mean = |of: fn(&OnPolicyMetrics) -> f64| sums.clone().map(of).sum::<f64>() / rows as f64;
    let mut metrics = OnPolicyMetrics {
        loss: 0.0,
        entropy_loss: mean(|sums| sums.entropy_loss),
        policy_loss: mean(|sums| sums.policy_loss),
        value_loss: mean(|sums| sums.value_loss),
        approx_kl: mean(|sums| sums.approx_kl),
        clip_fraction: mean(|sums| sums.clip_fraction),
    };
    metrics.loss = metrics.policy_loss
        + f64::from(settings.ent_coef) * metrics.entropy_loss
        + f64::from(settings.vf_coef) * metrics.value_loss;
    metrics
}
