//! Many iterations of an algorithm in one call.

mod on_policy;
mod q_learning;

use std::ops::Range;

use mlx_baselines3_core::interrupt::Interrupted;
use mlx_baselines3_core::learn::{LearnedVector, SharedNumbers};
use numpy::PyReadwriteArray1;
use pyo3::prelude::*;

use crate::args::place;
use crate::error::bad;
use crate::ffi::random::{Bounds, GlobalNumbers, Numbers};
use crate::trained::RuleSpec;

/// First and second moment of the gradient, to be written.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct MomentArrays<'py> {
    exp_avg: PyReadwriteArray1<'py, f32>,
    exp_avg_sq: PyReadwriteArray1<'py, f32>,
}

/// Parameters and their optimizer. All vectors are written.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct VectorArrays<'py> {
    parameters: PyReadwriteArray1<'py, f32>,
    parameters_before: PyReadwriteArray1<'py, f32>,
    moments: MomentArrays<'py>,
    next_moments: MomentArrays<'py>,
    optimizer_steps: u64,
    rule: RuleSpec,
}

impl VectorArrays<'_> {
    fn places(&self) -> [Range<usize>; 6] {
        let (now, next) = (&self.moments, &self.next_moments);
        [
            place(&self.parameters),
            place(&self.parameters_before),
            place(&now.exp_avg),
            place(&now.exp_avg_sq),
            place(&next.exp_avg),
            place(&next.exp_avg_sq),
        ]
    }

    fn vector(&mut self) -> PyResult<LearnedVector<'_>> {
        Ok(LearnedVector {
            parameters: self.parameters.as_slice_mut()?,
            parameters_before: self.parameters_before.as_slice_mut()?,
            exp_avg: [
                self.moments.exp_avg.as_slice_mut()?,
                self.next_moments.exp_avg.as_slice_mut()?,
            ],
            exp_avg_sq: [
                self.moments.exp_avg_sq.as_slice_mut()?,
                self.next_moments.exp_avg_sq.as_slice_mut()?,
            ],
            optimizer_steps: self.optimizer_steps,
            rule: self.rule.rule()?,
        })
    }
}

/// The generator, for work without the GIL. An exception that comes meanwhile waits in `raised`.
struct Shared<'a> {
    numbers: &'a GlobalNumbers,
    raised: Option<PyErr>,
}

impl<'a> Shared<'a> {
    fn new(numbers: &'a GlobalNumbers) -> Self {
        Self {
            numbers,
            raised: None,
        }
    }

    fn visit<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Numbers<'_>) -> T + Send,
    ) -> Result<T, Interrupted> {
        // None while the interpreter ends.
        let drawn = Python::try_attach(|py| self.numbers.visit(py, work));
        match drawn {
            Some(Ok(drawn)) => Ok(drawn),
            Some(Err(error)) => {
                self.raised = Some(error);
                Err(Interrupted)
            }
            None => Err(Interrupted),
        }
    }
}

impl SharedNumbers for Shared<'_> {
    fn are_below(&mut self, rates: &[f64], below: &mut [bool]) -> Result<(), Interrupted> {
        self.visit(|numbers| {
            for (below, &rate) in below.iter_mut().zip(rates) {
                // As SB3 asks: a rate that is nan explores.
                let acts = numbers.uniform() >= rate;
                *below = !acts;
            }
        })
    }

    fn draw_ints(&mut self, arrays: [(Range<usize>, &mut [usize]); 2]) -> Result<(), Interrupted> {
        let bounds = arrays.each_ref().map(|(range, _)| {
            Bounds::new(
                i64::try_from(range.start).ok()?,
                i64::try_from(range.end).ok()?,
            )
        });
        let [Some(first), Some(second)] = bounds else {
            self.raised = Some(bad(
                "the replay buffer is empty or too large to be drawn from",
            ));
            return Err(Interrupted);
        };
        self.visit(|numbers| {
            for ((_, to), bounds) in arrays.into_iter().zip([first, second]) {
                for to in to {
                    *to = numbers.draw(bounds).cast_unsigned() as usize;
                }
            }
        })
    }

    fn shuffle(&mut self, rows: &mut [u32]) -> Result<(), Interrupted> {
        // Long ones take a while: a signal is seen to at the next gradient step.
        self.visit(|numbers| numbers.shuffle(rows))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    on_policy::register(m)?;
    q_learning::register(m)
}
