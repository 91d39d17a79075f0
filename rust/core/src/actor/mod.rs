//! Policies made of an MLP and a distribution, run without Python; a features extractor may come first.

mod draw;
mod exploration;
mod likelihood;
mod observed;
mod sampling;

use thiserror::Error;

use crate::interrupt::Interrupted;
use crate::memory::OutOfMemory;
use crate::nn::{InferenceMlp, NnError, ObservationColumn, Outputs, Workspace, tanh, total};
use crate::rng::{Pcg64, SeedSequence};
use draw::Draw;
use exploration::Exploration;
use observed::{Extracted, seen};

/// Bounds of the logarithm of SAC's standard deviation, as Stable-Baselines3 has them.
pub(crate) const LOG_STD: (f32, f32) = (-20.0, 2.0);

/// What the outputs of the network mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// Logits of a categorical distribution.
    Categorical,
    /// Logits of several independent categorical distributions, with this many categories each.
    MultiCategorical(Vec<usize>),
    /// Logits of independent Bernoulli distributions.
    Bernoulli,
    /// Means of Gaussians with these standard deviations.
    Gaussian(Vec<f32>),
    /// Means, then logarithms of standard deviations, of Gaussians squashed by tanh.
    SquashedGaussian,
    /// Means of actions with state-dependent noise: the features times a random matrix, whose
    /// entries have these `(features, actions)` standard deviations.
    StateDependent {
        /// The standard deviations, row after row.
        std: Vec<f32>,
        /// Whether tanh squashes the actions.
        squash: bool,
    },
    /// The actions themselves.
    Deterministic,
    /// Values of the actions. All rows of a batch explore together with this probability.
    EpsilonGreedy(f64),
    /// Quantiles of the return, each with a number for every one of so many actions. The action whose
    /// mean is the largest is taken.
    GreedyQuantiles(usize),
}

/// What can be wrong with an actor or a call of it.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ActorError {
    /// The network or its input.
    #[error(transparent)]
    Network(#[from] NnError),
    /// Exploration matrices that there is no memory for.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// Exploration matrices of another size, or for a head that has none.
    #[error("got {got} numbers of exploration matrices, those of a {head} head have {size} each")]
    Matrices {
        /// Numbers given.
        got: usize,
        /// The head.
        head: &'static str,
        /// Numbers of a matrix.
        size: usize,
    },
    /// The work was stopped from outside.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A network that does not take what the extractor gives.
    #[error("the network takes {got} inputs, the features extractor gives {expected}")]
    Features {
        /// What it takes.
        got: usize,
        /// What it is given.
        expected: usize,
    },
    /// Observations of a kind that the network does not take.
    #[error("expected one array of float observations, the policy has no features extractor")]
    Columns,
    /// An array of observations of the wrong size.
    #[error("array {column} of the observations has {got} numbers, expected {expected}")]
    Rows {
        /// The array.
        column: usize,
        /// Numbers given.
        got: usize,
        /// What is needed.
        expected: String,
    },
    /// A head that needs another number of outputs.
    #[error("the {head} head needs {expected} network outputs, got {got}")]
    Width {
        /// The head.
        head: &'static str,
        /// Outputs of the network.
        got: usize,
        /// Outputs it should have.
        expected: usize,
    },
    /// A place for actions of the wrong length or kind.
    #[error("got space for {got} {kind} actions, expected {expected}")]
    Out {
        /// Numbers that fit.
        got: usize,
        /// "integer" or "float".
        kind: &'static str,
        /// What is needed.
        expected: String,
    },
    /// Masks for another number of choices.
    #[error("the masks have {got} numbers, expected {expected}: one for each choice of each row")]
    Masks {
        /// Numbers given.
        got: usize,
        /// Numbers needed.
        expected: usize,
    },
    /// An action that the head cannot have taken.
    #[error("{0}")]
    Action(String),
    /// The network gave something that is not a distribution.
    #[error(
        "the policy's output for row {row} is not a finite number; the weights or the observation \
         hold NaN or infinity"
    )]
    NotFinite {
        /// Row of the batch.
        row: usize,
    },
}

/// Where actions are written, row after row.
#[derive(Debug)]
pub enum ActionsOut<'a> {
    /// Discrete actions.
    Ints(&'a mut [i64]),
    /// Continuous actions, or 0 and 1.
    Floats(&'a mut [f32]),
}

impl Head {
    /// Gaussians with these logarithms of the standard deviations.
    #[must_use]
    pub fn gaussian(log_std: &[f32]) -> Self {
        Self::Gaussian(log_std.iter().map(|log_std| log_std.exp()).collect())
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Categorical => "categorical",
            Self::MultiCategorical(_) => "multi-categorical",
            Self::Bernoulli => "Bernoulli",
            Self::Gaussian(_) => "Gaussian",
            Self::SquashedGaussian => "squashed Gaussian",
            Self::StateDependent { .. } => "state-dependent",
            Self::Deterministic => "deterministic",
            Self::EpsilonGreedy(_) => "epsilon-greedy",
            Self::GreedyQuantiles(_) => "greedy quantiles",
        }
    }

    /// Whether actions are integers.
    #[must_use]
    pub fn is_discrete(&self) -> bool {
        matches!(
            self,
            Self::Categorical
                | Self::MultiCategorical(_)
                | Self::EpsilonGreedy(_)
                | Self::GreedyQuantiles(_)
        )
    }

    fn expected_outputs(&self, net: &InferenceMlp) -> usize {
        let got = net.outputs();
        match self {
            Self::MultiCategorical(options) => total(options.iter().copied()),
            Self::Gaussian(std) => std.len(),
            Self::SquashedGaussian => got.next_multiple_of(2),
            Self::GreedyQuantiles(options) => got.next_multiple_of((*options).max(1)),
            // A row for each feature. Where the rows are not whole, no number of outputs fits.
            Self::StateDependent { std, .. } => {
                let columns = std.len() / net.features();
                let whole = std.len().is_multiple_of(net.features());
                columns + usize::from(!whole && columns == got)
            }
            _ => got,
        }
    }
}

impl Head {
    fn check(&self, net: &InferenceMlp) -> Result<(), ActorError> {
        let (got, expected) = (net.outputs(), self.expected_outputs(net));
        if got == expected {
            return Ok(());
        }
        Err(ActorError::Width {
            head: self.name(),
            got,
            expected,
        })
    }
}

/// A network, its head and its random generator.
#[derive(Debug, Clone)]
pub struct Actor {
    extracted: Option<Extracted>,
    net: InferenceMlp,
    head: Head,
    rng: Pcg64,
    work: Workspace,
    scratch: Vec<f32>,
    masked: Vec<f32>,
    exploration: Exploration,
}

impl Actor {
    /// An actor; its generator is that of `np.random.PCG64(0)` until it is seeded.
    ///
    /// # Errors
    /// [`ActorError::Width`] if the head needs another number of outputs.
    pub fn new(net: InferenceMlp, head: Head) -> Result<Self, ActorError> {
        head.check(&net)?;
        let got = net.outputs();
        Ok(Self {
            extracted: None,
            net,
            head,
            rng: Pcg64::new(&SeedSequence::from_u64(0)),
            work: Workspace::default(),
            scratch: vec![0.0; got],
            masked: Vec::new(),
            exploration: Exploration::default(),
        })
    }

    /// The network, to give it other weights.
    pub fn net_mut(&mut self) -> &mut InferenceMlp {
        &mut self.net
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &InferenceMlp {
        &self.net
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Replaces the head, for instance with other standard deviations.
    ///
    /// # Errors
    /// [`ActorError::Width`]; nothing has changed then.
    pub fn set_head(&mut self, head: Head) -> Result<(), ActorError> {
        head.check(&self.net)?;
        self.head = head;
        Ok(())
    }

    /// The random generator.
    pub fn rng_mut(&mut self) -> &mut Pcg64 {
        &mut self.rng
    }

    /// Draws exploration matrices for `n_envs` environments, and new ones after every `every`
    /// batches of that many rows (0: never). Other heads have none.
    ///
    /// # Errors
    /// [`ActorError::Memory`]; nothing has changed then.
    pub fn reset_noise(&mut self, n_envs: usize, every: usize) -> Result<(), ActorError> {
        if let Head::StateDependent { std, .. } = &self.head {
            self.exploration.start(n_envs, every, std, &mut self.rng)?;
        }
        Ok(())
    }

    /// Takes exploration matrices that were drawn elsewhere: that of all rows, then one for each of some
    /// environments. They stay until others come.
    ///
    /// # Errors
    /// [`ActorError::Matrices`] or [`ActorError::Memory`]; nothing has changed then.
    pub fn set_matrices(&mut self, matrices: &[f32]) -> Result<(), ActorError> {
        let size = match &self.head {
            Head::StateDependent { std, .. } => std.len(),
            _ => 0,
        };
        let count = matrices.len().checked_div(size).unwrap_or(0);
        if count == 0 || !matrices.len().is_multiple_of(size) {
            let (got, head) = (matrices.len(), self.head.name());
            return Err(ActorError::Matrices { got, head, size });
        }
        Ok(self.exploration.take(matrices, count - 1)?)
    }

    /// The exploration matrices, that of all rows first, and how often they were drawn so far.
    #[must_use]
    pub fn matrices(&self) -> (&[f32], u64) {
        self.exploration.matrices()
    }

    /// How many discrete actions there are to choose from at most.
    #[must_use]
    pub fn options(&self) -> usize {
        match self.head {
            Head::GreedyQuantiles(options) => options,
            _ => self.net.outputs(),
        }
    }

    /// Numbers in an action.
    #[must_use]
    pub fn action_dim(&self) -> usize {
        match &self.head {
            Head::Categorical | Head::EpsilonGreedy(_) | Head::GreedyQuantiles(_) => 1,
            Head::MultiCategorical(options) => options.len(),
            Head::SquashedGaussian => self.net.outputs() / 2,
            _ => self.net.outputs(),
        }
    }

    /// Writes what the network gives for some observations.
    ///
    /// # Errors
    /// An [`ActorError`]; nothing is written then.
    pub fn outputs(
        &mut self,
        columns: &[ObservationColumn<'_>],
        out: &mut [f32],
    ) -> Result<(), ActorError> {
        let input = seen(&mut self.extracted, columns)?;
        let outputs = self.net.forward(input, &mut self.work)?;
        write(outputs, out, "outputs")
    }

    /// Writes what the last layer of the network takes for some observations.
    ///
    /// # Errors
    /// An [`ActorError`]; nothing is written then.
    pub fn features(
        &mut self,
        columns: &[ObservationColumn<'_>],
        out: &mut [f32],
    ) -> Result<(), ActorError> {
        let input = seen(&mut self.extracted, columns)?;
        let (features, _) = self.net.forward_from_features(input, &mut self.work)?;
        write(features, out, "features")
    }

    /// Writes the actions for `obs`, whole rows of the one array of observations.
    ///
    /// # Errors
    /// An [`ActorError`]; what was written is of no use then.
    pub fn act(
        &mut self,
        obs: &[f32],
        deterministic: bool,
        out: ActionsOut<'_>,
    ) -> Result<(), ActorError> {
        let columns = [ObservationColumn::Floats(obs)];
        self.act_on(&columns, None, deterministic, out)
    }

    /// Writes the actions for some observations. `masks` has a number for each output of each row, 0
    /// where the choice is not allowed; a row that allows nothing takes any choice.
    ///
    /// # Errors
    /// An [`ActorError`]; what was written is of no use then.
    pub fn act_on(
        &mut self,
        columns: &[ObservationColumn<'_>],
        masks: Option<&[f32]>,
        deterministic: bool,
        out: ActionsOut<'_>,
    ) -> Result<(), ActorError> {
        let rows = self.rows(columns)?;
        self.check_out(rows, &out)?;
        self.check_masks(masks, rows)?;
        let dim = self.action_dim();
        let input = seen(&mut self.extracted, columns)?;
        let (features, outputs) = self.net.forward_from_features(input, &mut self.work)?;
        let mut draw = Draw {
            rng: &mut self.rng,
            scratch: &mut self.scratch,
            masks,
            masked: &mut self.masked,
            deterministic,
        };
        let bad_row = match (out, &self.head) {
            (ActionsOut::Ints(out), Head::MultiCategorical(options)) => {
                draw.categorical(outputs, options, out)
            }
            (ActionsOut::Ints(out), Head::EpsilonGreedy(epsilon)) => {
                draw.epsilon_greedy(outputs, *epsilon, out)
            }
            (ActionsOut::Ints(out), Head::GreedyQuantiles(options)) => {
                draw.greedy_quantiles(outputs, *options, out)
            }
            (ActionsOut::Ints(out), _) => {
                let options = [self.net.outputs()];
                draw.categorical(outputs, &options, out)
            }
            (ActionsOut::Floats(out), Head::Bernoulli) => draw.bernoulli(outputs, dim, out),
            (ActionsOut::Floats(out), Head::StateDependent { std, squash }) => {
                outputs.copy_to(out);
                if !deterministic {
                    self.exploration.add(features, std, &mut self.rng, out);
                }
                if *squash {
                    out.iter_mut().for_each(|x| *x = tanh(*x));
                }
                None
            }
            (ActionsOut::Floats(out), head) => {
                draw.continuous(outputs, head, dim, out);
                None
            }
        };
        bad_row.map_or(Ok(()), |row| Err(ActorError::NotFinite { row }))
    }

    /// That there is a number for each choice, and there are choices.
    fn check_masks(&self, masks: Option<&[f32]>, rows: usize) -> Result<(), ActorError> {
        let Some(masks) = masks else { return Ok(()) };
        let masked = matches!(self.head, Head::Categorical | Head::MultiCategorical(_));
        let expected = if masked { rows * self.net.outputs() } else { 0 };
        if masks.len() == expected {
            return Ok(());
        }
        Err(ActorError::Masks {
            got: masks.len(),
            expected,
        })
    }

    fn check_out(&self, rows: usize, out: &ActionsOut<'_>) -> Result<(), ActorError> {
        let (got, kind, fits) = match out {
            ActionsOut::Ints(out) => (out.len(), "integer", self.head.is_discrete()),
            ActionsOut::Floats(out) => (out.len(), "float", !self.head.is_discrete()),
        };
        let expected = rows * self.action_dim();
        if fits && got == expected {
            return Ok(());
        }
        let wanted = if self.head.is_discrete() {
            "integer"
        } else {
            "float"
        };
        Err(ActorError::Out {
            got,
            kind,
            expected: format!("{expected} {wanted} ones"),
        })
    }
}

fn write(from: Outputs<'_>, out: &mut [f32], what: &str) -> Result<(), ActorError> {
    let expected = from.len();
    if out.len() != expected {
        return Err(ActorError::Out {
            got: out.len(),
            kind: "float",
            expected: format!("{expected} {what}"),
        });
    }
    from.copy_to(out);
    Ok(())
}
