//! What actor and critics see of a batch: the observations as they are, or the features of extractors.

use std::ops::Range;

use super::UpdateError;
use super::features::{Trunk, vectors};
use crate::nn::{Extractor, ObservationColumn, Rows, TrainableMlp};

/// What a network sees, row after row, and the vector that its parameters lie in.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) inputs: &'a [f32],
    pub(super) parameters: &'a [f32],
    /// Whether the gradient of the inputs is wanted.
    pub(super) learns: bool,
}

/// A vector of parameters, and the observations that an extractor with these parameters sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) parameters: &'a [f32],
    pub(super) columns: &'a [ObservationColumn<'a>],
    pub(super) rows: usize,
}

/// What is before a network: an extractor of its own, or nothing.
#[derive(Debug, Clone, Default)]
struct Front {
    trunk: Option<Trunk>,
}

impl Front {
    fn new(extractor: Extractor, size: usize) -> Result<Self, UpdateError> {
        let trunk = Some(Trunk::new(vec![extractor], size)?);
        Ok(Self { trunk })
    }

    fn head(
        &mut self,
        net: &TrainableMlp,
        what: &'static str,
        others: usize,
    ) -> Result<TrainableMlp, UpdateError> {
        match &mut self.trunk {
            Some(trunk) => trunk.head(net, what, (0, others)),
            None => Ok(net.clone()),
        }
    }

    /// Numbers of a gradient of the networks behind it, which have this vector of parameters.
    fn head_size(&self, size: usize) -> usize {
        self.trunk.as_ref().map_or(size, Trunk::head_size)
    }

    fn see(&mut self, sight: &Sight<'_>) {
        if let Some(trunk) = &mut self.trunk {
            trunk.see(sight.parameters, sight.columns, Rows::From(0, sight.rows));
        }
    }

    fn view<'a>(&'a self, sight: &Sight<'a>) -> Result<View<'a>, UpdateError> {
        Ok(match &self.trunk {
            Some(trunk) => View {
                inputs: trunk.features()[0],
                parameters: trunk.parameters(),
                learns: true,
            },
            None => View {
                inputs: vectors(sight.columns)?,
                parameters: sight.parameters,
                learns: false,
            },
        })
    }

    fn gradient<'a>(
        &'a mut self,
        sight: &Sight<'_>,
        of_heads: &'a [f32],
        by_features: &mut Vec<f32>,
    ) -> &'a [f32] {
        let Some(trunk) = &mut self.trunk else {
            return of_heads;
        };
        trunk.take_sum(by_features);
        let rows = Rows::From(0, sight.rows);
        trunk.gradient(sight.parameters, sight.columns, rows, of_heads)
    }
}

/// What is before an actor and before critics.
#[derive(Debug, Clone, Default)]
pub(super) struct Views {
    actor: Front,
    critics: Front,
    shares: bool,
}

impl Views {
    /// An extractor in the actor's vector of parameters, and one in the critics' if these have their own.
    pub(super) fn new(
        actor: Extractor,
        critics: Option<Extractor>,
        [actor_size, critic_size]: [usize; 2],
    ) -> Result<Self, UpdateError> {
        let shares = critics.is_none();
        Ok(Self {
            actor: Front::new(actor, actor_size)?,
            critics: match critics {
                Some(extractor) => Front::new(extractor, critic_size)?,
                None => Front::default(),
            },
            shares,
        })
    }

    /// Whether critics see the features of the actor's extractor, which they do not train.
    pub(super) fn shares(&self) -> bool {
        self.shares
    }

    /// Where the parameters of the extractor lie that is shared.
    pub(super) fn shared_places(&self) -> Vec<Range<usize>> {
        match &self.actor.trunk {
            Some(trunk) if self.shares => trunk.extractor_places(),
            _ => Vec::new(),
        }
    }

    /// The extractors of the observations, if there are any.
    pub(super) fn trunks(&self) -> [Option<&Trunk>; 2] {
        let critics = if self.shares {
            &self.actor
        } else {
            &self.critics
        };
        [self.actor.trunk.as_ref(), critics.trunk.as_ref()]
    }

    /// That there is memory for as many rows.
    pub(super) fn expect_room(&mut self, rows: usize) -> Result<(), UpdateError> {
        let trunks = [&mut self.actor.trunk, &mut self.critics.trunk];
        trunks
            .into_iter()
            .flatten()
            .try_for_each(|trunk| trunk.expect_room(rows))
    }

    /// The actor behind its extractor.
    pub(super) fn actor_head(&mut self, net: &TrainableMlp) -> Result<TrainableMlp, UpdateError> {
        self.actor.head(net, "actor", 0)
    }

    /// Where `count` other parameters of the actor go that lie at `from`.
    pub(super) fn pack_of_actor(&mut self, from: usize, count: usize) -> usize {
        match &mut self.actor.trunk {
            Some(trunk) => trunk.packed().add(from, count),
            None => from,
        }
    }

    /// A critic behind its extractor, which takes actions of `action_dim` numbers, too.
    pub(super) fn critic_head(
        &mut self,
        net: &TrainableMlp,
        action_dim: usize,
    ) -> Result<TrainableMlp, UpdateError> {
        self.critics.head(net, "critic", action_dim)
    }

    /// Numbers of a gradient of the actor, and of one of the critics, without extractors.
    pub(super) fn head_sizes(&self, [actor, critics]: [usize; 2]) -> [usize; 2] {
        [self.actor.head_size(actor), self.critics.head_size(critics)]
    }

    /// Lets the actor's extractor see observations.
    pub(super) fn see_as_actor(&mut self, sight: &Sight<'_>) {
        self.actor.see(sight);
    }

    /// Lets the critics' extractor see observations, if they have their own.
    pub(super) fn see_as_critics(&mut self, sight: &Sight<'_>) {
        self.critics.see(sight);
    }

    /// What the actor sees of what was last seen.
    pub(super) fn of_actor<'a>(&'a self, sight: &Sight<'a>) -> Result<View<'a>, UpdateError> {
        self.actor.view(sight)
    }

    /// What the critics see of what was last seen, with a shared extractor as the actor.
    pub(super) fn of_critics<'a>(&'a self, sight: &Sight<'a>) -> Result<View<'a>, UpdateError> {
        if !self.shares {
            return self.critics.view(sight);
        }
        let View { inputs, .. } = self.actor.view(sight)?;
        Ok(View {
            inputs,
            parameters: sight.parameters,
            learns: false,
        })
    }

    /// The gradient of all parameters of the actor, from that of its layers and of what these see.
    pub(super) fn gradient_of_actor<'a>(
        &'a mut self,
        sight: &Sight<'_>,
        of_heads: &'a [f32],
        by_features: &mut Vec<f32>,
    ) -> &'a [f32] {
        self.actor.gradient(sight, of_heads, by_features)
    }

    /// The same of the critics.
    pub(super) fn gradient_of_critics<'a>(
        &'a mut self,
        sight: &Sight<'_>,
        of_heads: &'a [f32],
        by_features: &mut Vec<f32>,
    ) -> &'a [f32] {
        self.critics.gradient(sight, of_heads, by_features)
    }
}
