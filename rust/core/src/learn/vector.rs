//! Parameters that learn in many updates, each of which may be undone.

use super::LearnError;
use crate::update::{Moments, Rule, Trained, all_finite, check as expect};

/// Parameters, their optimizer, and both as they were before the last update.
#[derive(Debug)]
pub struct LearnedVector<'a> {
    /// The parameters.
    pub parameters: &'a mut [f32],
    /// Those before the last update.
    pub parameters_before: &'a mut [f32],
    /// First moments of the gradient (or none): the present ones, and memory for the next ones.
    pub exp_avg: [&'a mut [f32]; 2],
    /// Second moments likewise. Both change places with each update.
    pub exp_avg_sq: [&'a mut [f32]; 2],
    /// Steps of the optimizer so far.
    pub optimizer_steps: u64,
    /// Its rule.
    pub rule: Rule,
}

impl LearnedVector<'_> {
    /// That all vectors have `size` numbers.
    pub(super) fn check(&self, size: usize) -> Result<(), LearnError> {
        expect("the vector of parameters", self.parameters.len(), size)?;
        expect("the earlier parameters", self.parameters_before.len(), size)?;
        let first = match self.rule {
            Rule::Adam { .. } => size,
            _ => 0,
        };
        for (exp_avg, exp_avg_sq) in self.exp_avg.iter().zip(&self.exp_avg_sq) {
            expect("the first moment", exp_avg.len(), first)?;
            expect("the second moment", exp_avg_sq.len(), size)?;
        }
        Ok(())
    }

    /// An update: what `descend` makes of the parameters, and of the steps of the optimizer. After an error
    /// they are as before; where numbers are not finite, only the optimizer is. Whether all are.
    pub(super) fn update(
        &mut self,
        learning_rate: f32,
        descend: impl FnOnce(&mut Trained<'_>) -> Result<bool, LearnError>,
    ) -> Result<bool, LearnError> {
        self.parameters_before.copy_from_slice(self.parameters);
        let [exp_avg_before, exp_avg] = &mut self.exp_avg;
        let [exp_avg_sq_before, exp_avg_sq] = &mut self.exp_avg_sq;
        let mut steps = self.optimizer_steps;
        let mut trained = Trained {
            parameters: &mut *self.parameters,
            exp_avg,
            exp_avg_sq,
            previous: Some(Moments {
                exp_avg: exp_avg_before,
                exp_avg_sq: exp_avg_sq_before,
            }),
            before: None,
            steps: &mut steps,
            rule: self.rule,
            learning_rate,
        };
        let finite = descend(&mut trained).inspect_err(|_| {
            self.parameters.copy_from_slice(self.parameters_before);
        })?;
        if !finite || !all_finite(self.parameters) {
            return Ok(false);
        }
        // Without a step the next moments have not been computed.
        if steps != self.optimizer_steps {
            self.optimizer_steps = steps;
            self.exp_avg.swap(0, 1);
            self.exp_avg_sq.swap(0, 1);
        }
        Ok(true)
    }
}
