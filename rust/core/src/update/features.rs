//! Networks that see features: extractors in front of them, and the parameters of the networks without
//! those of the extractors, of which a gradient for each piece of a batch would cost more than all else.

use std::ops::Range;

use super::{UpdateError, check};
use crate::memory::expect_room;
use crate::memory::filled;
use crate::nn::{Extractor, ExtractorTape, ObservationColumn, Rows, TrainableMlp, total};

/// Parameters side by side that lie anywhere in a vector.
#[derive(Debug, Clone, Default)]
pub(super) struct Packed {
    places: Vec<Range<usize>>,
    size: usize,
}

impl Packed {
    /// Where `count` parameters go that lie at `from`.
    pub(super) fn add(&mut self, from: usize, count: usize) -> usize {
        self.places.push(from..from + count);
        self.size += count;
        self.size - count
    }

    /// How many there are.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn load(&self, from: &[f32], to: &mut Vec<f32>) {
        to.clear();
        self.places
            .iter()
            .for_each(|place| to.extend_from_slice(&from[place.clone()]));
    }

    fn store(&self, mut from: &[f32], to: &mut [f32]) {
        for place in &self.places {
            let (numbers, rest) = from.split_at(place.len());
            to[place.clone()].copy_from_slice(numbers);
            from = rest;
        }
    }
}

/// Extractors and the networks that see their features, all in one vector of parameters.
#[derive(Debug, Clone)]
pub(super) struct Trunk {
    extractors: Vec<Seen>,
    packed: Packed,
    parameters: Vec<f32>,
    gradient: Vec<f32>,
    // Rows that there is known to be memory for.
    rows: usize,
}

/// An extractor, and what it has made of a batch.
#[derive(Debug, Clone)]
struct Seen {
    extractor: Extractor,
    tape: ExtractorTape,
    by_features: Vec<f32>,
}

impl Trunk {
    /// The first extractor is for the first network, the last one for the last.
    pub(super) fn new(extractors: Vec<Extractor>, size: usize) -> Result<Self, UpdateError> {
        for extractor in &extractors {
            let needed = extractor.parameters();
            if size < needed {
                check("the vector of parameters", size, needed)?;
            }
        }
        let seen = extractors.into_iter().map(|extractor| Seen {
            extractor,
            tape: ExtractorTape::default(),
            by_features: Vec::new(),
        });
        Ok(Self {
            extractors: seen.collect(),
            packed: Packed::default(),
            parameters: Vec::new(),
            gradient: filled(0.0, size)?,
            rows: 0,
        })
    }

    /// The places of the networks' parameters.
    pub(super) fn packed(&mut self) -> &mut Packed {
        &mut self.packed
    }

    /// The network whose parameters are packed, if it takes what the extractor gives and as many `others`.
    pub(super) fn head(
        &mut self,
        net: &TrainableMlp,
        what: &'static str,
        (extractor, others): (usize, usize),
    ) -> Result<TrainableMlp, UpdateError> {
        let outputs = self.extractors[extractor].extractor.outputs();
        let (got, expected) = (net.inputs(), outputs + others);
        if got != expected {
            let side = "inputs";
            return Err(UpdateError::Width {
                what,
                side,
                got,
                expected,
            });
        }
        Ok(net.moved(|from, count| self.packed.add(from, count)))
    }

    /// How many numbers a gradient of the networks has.
    pub(super) fn head_size(&self) -> usize {
        self.packed.size()
    }

    /// That there are `count` rows of each column that is taken.
    pub(super) fn check(
        &self,
        columns: &[ObservationColumn<'_>],
        count: usize,
    ) -> Result<(), UpdateError> {
        let taken = self
            .extractors
            .iter()
            .flat_map(|seen| seen.extractor.columns());
        for (column, width) in taken {
            let got = columns.get(column).map_or(0, ObservationColumn::len);
            check("observations", got, count.saturating_mul(width))?;
        }
        Ok(())
    }

    /// That there is memory for as many rows.
    pub(super) fn expect_room(&mut self, rows: usize) -> Result<(), UpdateError> {
        if rows > self.rows {
            let numbers = self
                .extractors
                .iter()
                .map(|seen| seen.extractor.numbers(rows));
            expect_room(total(numbers), size_of::<f32>())?;
            self.rows = rows;
        }
        Ok(())
    }

    /// Lets the extractors see some rows, and takes the parameters of the networks.
    pub(super) fn see(
        &mut self,
        parameters: &[f32],
        columns: &[ObservationColumn<'_>],
        rows: Rows<'_>,
    ) {
        self.packed.load(parameters, &mut self.parameters);
        for seen in &mut self.extractors {
            seen.extractor
                .forward(parameters, columns, rows, &mut seen.tape);
        }
    }

    /// The parameters of the networks as last taken.
    pub(super) fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    /// What the first and the last network see.
    pub(super) fn features(&self) -> [&[f32]; 2] {
        let last = self.extractors.len() - 1;
        [0, last].map(|index| self.extractors[index].tape.features())
    }

    /// Takes the gradient of what the first and the last network saw: of some rows after those before.
    pub(super) fn take_back<'a>(&mut self, pieces: impl Iterator<Item = [&'a [f32]; 2]>) {
        let last = self.extractors.len() - 1;
        self.extractors
            .iter_mut()
            .for_each(|seen| seen.by_features.clear());
        for [by_first, by_last] in pieces {
            self.extractors[0].by_features.extend_from_slice(by_first);
            let sum = &mut self.extractors[last].by_features;
            if last > 0 {
                sum.extend_from_slice(by_last);
                continue;
            }
            let start = sum.len() - by_first.len();
            let pairs = sum[start..].iter_mut().zip(by_last);
            pairs.for_each(|(sum, &add)| *sum += add);
        }
    }

    /// Takes the gradient of what the only extractor has given, and leaves memory of no use.
    pub(super) fn take_sum(&mut self, by_features: &mut Vec<f32>) {
        std::mem::swap(&mut self.extractors[0].by_features, by_features);
    }

    /// Where the parameters of the first extractor lie.
    pub(super) fn extractor_places(&self) -> Vec<Range<usize>> {
        self.extractors[0].extractor.places().collect()
    }

    /// The gradient of all parameters, from that of the networks. The other arguments are those of
    /// [`see`](Self::see).
    pub(super) fn gradient(
        &mut self,
        parameters: &[f32],
        columns: &[ObservationColumn<'_>],
        rows: Rows<'_>,
        of_heads: &[f32],
    ) -> &[f32] {
        self.packed.store(of_heads, &mut self.gradient);
        for seen in &mut self.extractors {
            let Seen {
                extractor,
                tape,
                by_features,
            } = seen;
            let gradient = &mut self.gradient;
            extractor.backward(parameters, columns, rows, tape, by_features, gradient);
        }
        &self.gradient
    }
}

/// The one column of a network that sees observations as they are.
pub(super) fn vectors<'a>(columns: &[ObservationColumn<'a>]) -> Result<&'a [f32], UpdateError> {
    match columns {
        [ObservationColumn::Floats(column)] => Ok(column),
        _ => Err(UpdateError::Columns),
    }
}
