//! The gradient steps of PPO with recurrent policies: actor and critic side by side, each over its sequences.

use super::actor::rows_of;
use super::on_policy::{Minibatch, take, total};
use super::{
    Distribution, OnPolicyMetrics, OnPolicySettings, Rollout, Trained, UpdateError, add_up, check,
    forbid, optimizer::clip,
};
use crate::interrupt::Watch;
use crate::memory::expect_room;
use crate::nn::{Lstm, LstmTape, LstmWeights, SUM_ROWS, Steps, Tape, TrainableMlp, total as sum};
use crate::threads;

/// The LSTM states before each step of a rollout, `(rows, layers, hidden)`: the hidden and the cell states.
pub type StoredStates<'a> = [&'a [f32]; 2];

/// What a rollout has besides its columns.
#[derive(Debug, Clone, Copy)]
pub struct Memories<'a> {
    /// The states of the actor.
    pub actor: StoredStates<'a>,
    /// Those of the critic; not read if it has no LSTM of its own.
    pub critic: StoredStates<'a>,
    /// Whether a row is the first of an episode, where the states are zeros.
    pub episode_starts: &'a [f32],
    /// Rows of one environment; those of the next one follow.
    pub env_rows: usize,
}

/// An LSTM in front of an MLP, or one of the two alone.
#[derive(Debug, Clone)]
struct Side {
    lstm: Option<Lstm>,
    net: TrainableMlp,
    weights: LstmWeights,
    lstm_tape: LstmTape,
    tape: Tape,
    states: [Vec<f32>; 2],
    // The gradient of what the network gave, and of all parameters.
    by_outputs: Vec<f32>,
    gradient: Vec<f32>,
}

impl Side {
    fn new(lstm: Option<Lstm>, net: TrainableMlp) -> Self {
        Self {
            lstm,
            net,
            weights: LstmWeights::default(),
            lstm_tape: LstmTape::default(),
            tape: Tape::default(),
            states: Default::default(),
            by_outputs: Vec::new(),
            gradient: Vec::new(),
        }
    }

    fn inputs(&self) -> usize {
        self.lstm.as_ref().map_or(self.net.inputs(), Lstm::inputs)
    }

    fn row_ns(&self) -> usize {
        self.net.row_ns() + self.lstm.as_ref().map_or(0, Lstm::row_ns)
    }

    fn row_numbers(&self) -> usize {
        let of_lstm = self.lstm.as_ref().map_or(0, Lstm::row_numbers);
        self.net.row_numbers().saturating_add(of_lstm)
    }

    /// What the network takes: the inputs, or what the LSTM has made of them.
    fn seen<'a>(lstm: Option<&Lstm>, tape: &'a LstmTape, input: &'a [f32]) -> &'a [f32] {
        if lstm.is_some() { tape.output() } else { input }
    }

    fn forward(
        &mut self,
        parameters: &[f32],
        steps: &Steps,
        input: &[f32],
    ) -> Result<(), UpdateError> {
        if let Some(lstm) = &self.lstm {
            lstm.load(parameters, &mut self.weights, true)?;
            let states = self.states.each_ref().map(Vec::as_slice);
            lstm.forward(&self.weights, steps, input, states, &mut self.lstm_tape);
        }
        let seen = Self::seen(self.lstm.as_ref(), &self.lstm_tape, input);
        self.net.forward(parameters, seen, &mut self.tape);
        Ok(())
    }

    fn backward(&mut self, parameters: &[f32], steps: &Steps, input: &[f32]) {
        let seen = Self::seen(self.lstm.as_ref(), &self.lstm_tape, input);
        let wanted = self.lstm.is_some();
        let (tape, gradient) = (&mut self.tape, Some(self.gradient.as_mut_slice()));
        let of_seen = self
            .net
            .backward(parameters, seen, tape, &self.by_outputs, gradient, wanted);
        if let Some(lstm) = &self.lstm {
            let (tape, gradient) = (&mut self.lstm_tape, &mut self.gradient);
            let weights = (parameters, &self.weights);
            lstm.backward(weights, steps, input, of_seen, tape, gradient);
        }
    }

    /// Picks the states before some rows, zeros where an episode begins.
    fn take_states(&mut self, stored: StoredStates<'_>, firsts: &[usize], starts: &[f32]) {
        let Some(lstm) = &self.lstm else { return };
        let width = lstm.hidden();
        for (to, from) in self.states.iter_mut().zip(stored) {
            to.clear();
            for layer in 0..lstm.layers() {
                for &row in firsts {
                    let place = (row * lstm.layers() + layer) * width;
                    let keep = 1.0 - starts[row];
                    to.extend(from[place..place + width].iter().map(|&x| keep * x));
                }
            }
        }
    }
}

/// The sequences of a minibatch, the longest first.
#[derive(Debug, Clone, Default)]
struct Sequences {
    steps: Steps,
    // The rows of the rollout, step after step.
    rows: Vec<u32>,
    // The first row of each sequence.
    firsts: Vec<usize>,
}

impl Sequences {
    /// Cuts rows where an episode or an environment begins.
    fn cut(&mut self, rows: &[u32], memories: &Memories<'_>) {
        let begins = |&row: &u32| {
            let row = row as usize;
            memories.episode_starts[row] != 0.0 || row.is_multiple_of(memories.env_rows)
        };
        let mut parts: Vec<&[u32]> = Vec::new();
        let mut start = 0;
        for (at, row) in rows.iter().enumerate().skip(1) {
            if begins(row) {
                parts.push(&rows[start..at]);
                start = at;
            }
        }
        parts.push(&rows[start..]);
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        self.firsts = parts.iter().map(|part| part[0] as usize).collect();
        self.steps.counts.clear();
        self.rows.clear();
        for step in 0..parts[0].len() {
            let before = self.rows.len();
            let there = parts.iter().map_while(|part| part.get(step));
            self.rows.extend(there);
            self.steps.counts.push(self.rows.len() - before);
        }
    }
}

/// What the critic sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CriticInput {
    /// The observations, through an LSTM of its own or none.
    Observations,
    /// What the actor's LSTM gives, as a constant.
    ActorMemory,
}

/// A recurrent policy and a value function that learn from rollouts.
#[derive(Debug, Clone)]
pub struct RecurrentUpdate {
    actor: Side,
    critic: Side,
    sees: CriticInput,
    distribution: Distribution,
    size: usize,
    sequences: Sequences,
    observations: Vec<f32>,
    actions: Vec<f32>,
    // Rows that there is known to be memory for.
    known_rows: usize,
}

impl RecurrentUpdate {
    /// Networks whose parameters lie in one vector of `size` numbers: for actor and critic an LSTM, if there is
    /// one, and the MLP after it.
    ///
    /// # Errors
    /// [`UpdateError::Width`] or [`UpdateError::Count`] if they do not fit.
    pub fn new(
        actor: (Lstm, TrainableMlp),
        critic: (Option<Lstm>, TrainableMlp),
        sees: CriticInput,
        distribution: Distribution,
        size: usize,
    ) -> Result<Self, UpdateError> {
        let fits = |what, side, got, expected| {
            if got == expected {
                return Ok(());
            }
            Err(UpdateError::Width {
                what,
                side,
                got,
                expected,
            })
        };
        let (lstm, net) = actor;
        fits("actor", "inputs", net.inputs(), lstm.hidden())?;
        fits("actor", "outputs", net.outputs(), distribution.outputs())?;
        fits("critic", "outputs", critic.1.outputs(), 1)?;
        let (taken, given) = match (&critic.0, sees) {
            (Some(own), _) => {
                fits("critic", "inputs", critic.1.inputs(), own.hidden())?;
                (own.inputs(), lstm.inputs())
            }
            (None, CriticInput::Observations) => (critic.1.inputs(), lstm.inputs()),
            (None, CriticInput::ActorMemory) => (critic.1.inputs(), lstm.hidden()),
        };
        fits("critic", "inputs", taken, given)?;
        let lstms = [Some(&lstm), critic.0.as_ref()].into_iter().flatten();
        let needed = lstms.map(Lstm::parameters).max().unwrap_or(0);
        let needed = needed.max(net.parameters()).max(critic.1.parameters());
        let needed = needed.max(distribution.parameters());
        if size < needed {
            check("the vector of parameters", size, needed)?;
        }
        Ok(Self {
            actor: Side::new(Some(lstm), net),
            critic: Side::new(critic.0, critic.1),
            sees,
            distribution,
            size,
            sequences: Sequences::default(),
            observations: Vec::new(),
            actions: Vec::new(),
            known_rows: 0,
        })
    }

    fn check(
        &self,
        observations: &[f32],
        rollout: &Rollout<'_>,
        memories: &Memories<'_>,
        rows: &[u32],
    ) -> Result<(), UpdateError> {
        let count = rollout.advantages.len();
        let dim = self.distribution.action_dim();
        check(
            "observations",
            observations.len(),
            count * self.actor.inputs(),
        )?;
        rollout.check_columns(&self.distribution)?;
        check("episode starts", memories.episode_starts.len(), count)?;
        if memories.env_rows == 0 || !count.is_multiple_of(memories.env_rows) {
            check("the rows of an environment", memories.env_rows, count)?;
        }
        for (side, stored) in [
            (&self.actor, memories.actor),
            (&self.critic, memories.critic),
        ] {
            if let Some(lstm) = &side.lstm {
                for states in stored {
                    check(
                        "LSTM states",
                        states.len(),
                        count * lstm.layers() * lstm.hidden(),
                    )?;
                }
            }
        }
        for &row in rows {
            let row = row as usize;
            if row >= count {
                return Err(UpdateError::Row { row, rows: count });
            }
            self.distribution
                .check(&rollout.actions[row * dim..(row + 1) * dim])?;
        }
        Ok(())
    }

    /// One pass over the rows in `order`, which is that of time, a gradient step for every `batch_size` of them
    /// (fewer in the last one). As [`super::OnPolicyUpdate::epoch`] otherwise; the rollout's observations are
    /// `observations`.
    ///
    /// # Errors
    /// [`UpdateError`] if the data do not fit; no step has been made then. After
    /// [`UpdateError::Interrupted`] some steps have been made, each of them whole.
    pub fn epoch(
        &mut self,
        observations: &[f32],
        (rollout, memories): (&Rollout<'_>, &Memories<'_>),
        (order, batch_size): (&[u32], usize),
        settings: &OnPolicySettings,
        trained: &mut Trained<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(Vec<OnPolicyMetrics>, bool), UpdateError> {
        trained.check("the vector of parameters", self.size)?;
        self.check(observations, rollout, memories, order)?;
        self.expect_room(batch_size.min(order.len()))?;
        let mut metrics = Vec::with_capacity(order.len().div_ceil(batch_size.max(1)));
        for rows in order.chunks(batch_size.max(1)) {
            let data = (observations, rollout, memories);
            let (seen, went_on) = self.minibatch(data, rows, settings, trained)?;
            metrics.push(seen);
            if !went_on {
                return Ok((metrics, true));
            }
            watch.check()?;
        }
        Ok((metrics, false))
    }

    fn expect_room(&mut self, rows: usize) -> Result<(), UpdateError> {
        if rows > self.known_rows {
            let sides = [&self.actor, &self.critic];
            let numbers = sum(sides.into_iter().map(Side::row_numbers)).saturating_mul(rows);
            // Two gradients, and the weights once more.
            expect_room(
                numbers.saturating_add(self.size.saturating_mul(4)),
                size_of::<f32>(),
            )?;
            self.known_rows = rows;
        }
        Ok(())
    }

    /// The gradient step of a minibatch, and whether it was made: not if the policy has moved too far.
    fn minibatch(
        &mut self,
        (observations, rollout, memories): (&[f32], &Rollout<'_>, &Memories<'_>),
        rows: &[u32],
        settings: &OnPolicySettings,
        trained: &mut Trained<'_>,
    ) -> Result<(OnPolicyMetrics, bool), UpdateError> {
        let mut sequences = std::mem::take(&mut self.sequences);
        sequences.cut(rows, memories);
        let (firsts, starts) = (&sequences.firsts, memories.episode_starts);
        self.actor.take_states(memories.actor, firsts, starts);
        self.critic.take_states(memories.critic, firsts, starts);
        take(
            &mut self.observations,
            observations,
            &sequences.rows,
            self.actor.inputs(),
        );
        take(
            &mut self.actions,
            rollout.actions,
            &sequences.rows,
            self.distribution.action_dim(),
        );
        self.forward(trained.parameters, &sequences.steps)?;
        let batch = Minibatch::new(rollout, &sequences.rows, trained.parameters, settings);
        let metrics = self.differentiate(&batch);
        let far = |target: f32| metrics.approx_kl > 1.5 * f64::from(target);
        let near = !settings.target_kl.is_some_and(far);
        if near {
            self.backward(trained.parameters, &sequences.steps);
            let mut gradients = [
                self.actor.gradient.as_mut_slice(),
                self.critic.gradient.as_mut_slice(),
            ];
            add_up(&mut gradients);
            let gradient = &self.actor.gradient;
            trained.step(gradient, clip(gradient, settings.max_grad_norm));
        }
        self.sequences = sequences;
        Ok((metrics, near))
    }

    /// Whether actor and critic are worth a thread each.
    fn side_by_side(&self, rows: usize) -> bool {
        self.sees == CriticInput::Observations
            && threads::parts(2, rows * self.actor.row_ns().min(self.critic.row_ns())) == 2
    }

    fn forward(&mut self, parameters: &[f32], steps: &Steps) -> Result<(), UpdateError> {
        let together = self.side_by_side(steps.rows());
        let (input, mut results) = (&*self.observations, [Ok(()), Ok(())]);
        if together {
            let sides = [&mut self.actor, &mut self.critic]
                .into_iter()
                .zip(&mut results);
            threads::for_each(sides, |(side, result)| {
                *result = side.forward(parameters, steps, input);
            });
        } else {
            results[0] = self.actor.forward(parameters, steps, input);
            let input = match self.sees {
                CriticInput::Observations => input,
                CriticInput::ActorMemory => self.actor.lstm_tape.output(),
            };
            results[1] = self.critic.forward(parameters, steps, input);
        }
        let [actor, critic] = results;
        actor.and(critic)
    }

    fn backward(&mut self, parameters: &[f32], steps: &Steps) {
        let together = self.side_by_side(steps.rows());
        let input = &*self.observations;
        if together {
            let sides = [&mut self.actor, &mut self.critic].into_iter();
            threads::for_each(sides, |side| side.backward(parameters, steps, input));
            return;
        }
        // Before the actor's, whose memory it may have seen.
        let input_of_critic = match self.sees {
            CriticInput::Observations => input,
            CriticInput::ActorMemory => self.actor.lstm_tape.output(),
        };
        self.critic.backward(parameters, steps, input_of_critic);
        self.actor.backward(parameters, steps, input);
    }

    /// The metrics of a minibatch, and the derivatives of the loss by what the networks gave.
    fn differentiate(&mut self, batch: &Minibatch<'_>) -> OnPolicyMetrics {
        let (mut sums, settings) = (OnPolicyMetrics::default(), batch.settings);
        let width = self.distribution.outputs();
        let dim = self.distribution.action_dim();
        let rows = batch.rows.len();
        let outputs = &mut self.actor.by_outputs;
        outputs.clear();
        outputs.extend_from_slice(rows_of(self.actor.tape.output(), &(0..rows), width));
        for side in [&mut self.actor, &mut self.critic] {
            side.gradient.clear();
            side.gradient.resize(self.size, 0.0);
        }
        self.critic.by_outputs.clear();
        let own = self.distribution.own_parameters();
        let mut by_own = vec![0.0; own.len()];
        let values = self.critic.tape.output();
        let lines = self.actor.by_outputs.chunks_exact_mut(width);
        for (index, (outputs, action)) in lines.zip(self.actions.chunks_exact(dim)).enumerate() {
            if index.is_multiple_of(SUM_ROWS) {
                super::on_policy::add_up_block(&mut self.actor.gradient[own.clone()], &mut by_own);
            }
            let row = batch.rows[index] as usize;
            if let Some(masks) = batch.rollout.masks {
                forbid(outputs, &masks[row * width..(row + 1) * width]);
            }
            let (log_prob, entropy) = self.distribution.measure(batch.parameters, outputs, action);
            let (by_log_prob, by_value) = batch.row(row, log_prob, values[index], &mut sums);
            sums.entropy_loss -= f64::from(entropy);
            let weights = [by_log_prob, -settings.ent_coef / rows as f32];
            let distribution = &self.distribution;
            distribution.differentiate(batch.parameters, outputs, action, weights, &mut by_own);
            self.critic.by_outputs.push(by_value);
        }
        super::on_policy::add_up_block(&mut self.actor.gradient[own], &mut by_own);
        total(std::iter::once(&sums), rows, settings)
    }
}
