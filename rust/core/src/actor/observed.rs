//! What an actor's network sees: one array of observations as it is, or the features of several.

use super::{Actor, ActorError};
use crate::nn::{ExtractorWorkspace, InferenceExtractor, NnError, ObservationColumn, Rows};

/// An extractor and its memory.
#[derive(Debug, Clone)]
pub(super) struct Extracted {
    extractor: InferenceExtractor,
    work: ExtractorWorkspace,
}

impl Extracted {
    /// How many observations there are: as many in each array that is taken.
    fn rows(&self, columns: &[ObservationColumn<'_>]) -> Result<usize, ActorError> {
        let mut rows: Option<usize> = None;
        for (column, width) in self.extractor.columns() {
            let got = columns.get(column).map_or(0, ObservationColumn::len);
            let fits = rows.map_or(got.is_multiple_of(width), |rows| got == rows * width);
            if !fits {
                let expected = match rows {
                    None => format!("a multiple of {width}"),
                    Some(rows) => (rows * width).to_string(),
                };
                return Err(ActorError::Rows {
                    column,
                    got,
                    expected,
                });
            }
            rows = Some(got / width);
        }
        Ok(rows.unwrap_or(0))
    }
}

/// What the network takes.
pub(super) fn seen<'a>(
    extracted: &'a mut Option<Extracted>,
    columns: &'a [ObservationColumn<'a>],
) -> Result<&'a [f32], ActorError> {
    match (extracted, columns) {
        (None, [ObservationColumn::Floats(column)]) => Ok(column),
        (None, _) => Err(ActorError::Columns),
        (Some(extracted), _) => {
            let rows = Rows::From(0, extracted.rows(columns)?);
            let Extracted { extractor, work } = extracted;
            Ok(extractor.forward(columns, rows, work)?)
        }
    }
}

impl Actor {
    /// The network sees the features that `extractor` makes of the observations.
    ///
    /// # Errors
    /// [`ActorError::Features`] if it takes another number of them.
    pub fn with_extractor(mut self, extractor: InferenceExtractor) -> Result<Self, ActorError> {
        let (got, expected) = (self.net.inputs(), extractor.outputs());
        if got != expected {
            return Err(ActorError::Features { got, expected });
        }
        self.extracted = Some(Extracted {
            extractor,
            work: ExtractorWorkspace::default(),
        });
        Ok(self)
    }

    /// Gives the extractor other parameters; see [`InferenceExtractor::load`].
    ///
    /// # Errors
    /// [`ActorError::Network`] if there are too few, or there is no extractor.
    pub fn load_extractor(&mut self, parameters: &[f32]) -> Result<(), ActorError> {
        match &mut self.extracted {
            Some(extracted) => Ok(extracted.extractor.load(parameters)?),
            None => Err(ActorError::Network(NnError::Count {
                what: "parameters of a features extractor",
                got: parameters.len(),
                expected: 0,
            })),
        }
    }

    /// The arrays of observations that it takes, and the numbers of an observation in each.
    #[must_use]
    pub fn columns(&self) -> Vec<(usize, usize)> {
        match &self.extracted {
            Some(extracted) => extracted.extractor.columns().collect(),
            None => vec![(0, self.net.inputs())],
        }
    }

    /// Numbers in an observation; 0 if it is several arrays.
    #[must_use]
    pub fn obs_dim(&self) -> usize {
        match &self.extracted {
            None => self.net.inputs(),
            Some(extracted) => {
                let mut columns = extracted.extractor.columns();
                let (_, width) = columns.next().unwrap_or_default();
                let one = extracted
                    .extractor
                    .columns()
                    .all(|column| column == (0, width));
                if one { width } else { 0 }
            }
        }
    }

    /// Numbers that the network takes: those of a row of features, or of an observation.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.net.inputs()
    }

    /// How many observations these are.
    ///
    /// # Errors
    /// [`ActorError::Columns`] or [`ActorError::Rows`]; rows that are not whole are for the network to
    /// refuse where there is no extractor.
    pub(super) fn rows(&self, columns: &[ObservationColumn<'_>]) -> Result<usize, ActorError> {
        match (&self.extracted, columns) {
            (Some(extracted), _) => extracted.rows(columns),
            (None, [column]) => Ok(column.len() / self.net.inputs()),
            (None, _) => Err(ActorError::Columns),
        }
    }

    /// Writes what the network takes for some observations: their features, where there is an extractor.
    ///
    /// # Errors
    /// An [`ActorError`]; nothing is written then.
    pub fn extract(
        &mut self,
        columns: &[ObservationColumn<'_>],
        out: &mut [f32],
    ) -> Result<(), ActorError> {
        let input = seen(&mut self.extracted, columns)?;
        if out.len() != input.len() {
            return Err(ActorError::Out {
                got: out.len(),
                kind: "float",
                expected: format!("{} features", input.len()),
            });
        }
        out.copy_from_slice(input);
        Ok(())
    }
}
