//! Noise that depends on the state (gSDE): a linear function of what the last layer takes
//! (Raffin et al. 2021, <https://arxiv.org/abs/2005.05719>).

use std::ops::Range;

use crate::nn::{Matrix, add_product, multiply};

/// Keeps variances above 0, and `expln` differentiable.
const EPSILON: f32 = 1e-6;

/// The logarithms of the deviations of the entries of an exploration matrix, among the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateNoise {
    /// Where they begin, row after row.
    pub log_std: usize,
    /// Rows of the matrix: numbers that the last layer takes.
    pub features: usize,
    /// Columns of it: numbers of an action.
    pub actions: usize,
    /// Whether each entry has its own logarithm, not each row.
    pub full: bool,
    /// Whether positive logarithms become deviations by `expln` (section 3.2 of the paper).
    pub expln: bool,
}

impl StateNoise {
    /// Where the logarithms lie.
    pub(super) fn parameters(&self) -> Range<usize> {
        let columns = if self.full { self.actions } else { 1 };
        let count = self.features.saturating_mul(columns);
        self.log_std..self.log_std.saturating_add(count)
    }

    /// The same with the logarithms elsewhere.
    pub(super) fn moved(self, place: impl FnOnce(usize, usize) -> usize) -> Self {
        let log_std = place(self.log_std, self.parameters().len());
        Self { log_std, ..self }
    }

    fn deviation(&self, log_std: f32) -> f32 {
        if self.expln && log_std > 0.0 {
            (log_std + EPSILON).ln_1p() + 1.0
        } else {
            log_std.exp()
        }
    }

    fn slope(&self, log_std: f32) -> f32 {
        if self.expln && log_std > 0.0 {
            1.0 / (1.0 + log_std + EPSILON)
        } else {
            log_std.exp()
        }
    }

    /// Numbers of the matrix that share a logarithm.
    fn shared(&self) -> usize {
        if self.full { 1 } else { self.actions }
    }
}

/// The deviations of a matrix as the parameters are, and the matrix itself where there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Spread {
    std: Vec<f32>,
    variances: Vec<f32>,
    matrix: Vec<f32>,
    normals: Vec<f32>,
}

impl Spread {
    /// Takes the deviations, and the standard normals of a matrix; none where it is not needed.
    pub(super) fn load(&mut self, noise: &StateNoise, parameters: &[f32], normals: &[f32]) {
        let log_std = &parameters[noise.parameters()];
        self.std.clear();
        for &log_std in log_std {
            let std = noise.deviation(log_std);
            self.std.extend(std::iter::repeat_n(std, noise.shared()));
        }
        self.variances.clear();
        self.variances.extend(self.std.iter().map(|std| std * std));
        self.normals.clear();
        self.normals.extend_from_slice(normals);
        self.matrix.clear();
        let entries = self.std.iter().zip(normals);
        self.matrix
            .extend(entries.map(|(std, normal)| std * normal));
    }
}

/// The variance of each number of an action, by what the last layer takes and `(features, actions)` deviations.
pub(crate) fn variances_of(features: &[f32], std: &[f32], out: &mut [f32]) {
    out.fill(EPSILON);
    for (feature, std) in features.iter().zip(std.chunks_exact(out.len())) {
        for (out, std) in out.iter_mut().zip(std) {
            *out += feature * feature * std * std;
        }
    }
}

/// The memory of some rows.
#[derive(Debug, Clone, Default)]
pub(super) struct StateRows {
    squares: Vec<f32>,
    // What the rows' matrices give, and the variances of the actions.
    pub(super) offsets: Vec<f32>,
    pub(super) variances: Vec<f32>,
    // The gradients of the two.
    pub(super) by_offsets: Vec<f32>,
    pub(super) by_variances: Vec<f32>,
    by_std: Vec<f32>,
    products: Vec<f32>,
}

/// `a b` of matrices without gaps, to memory that becomes as long.
fn product(a: Matrix<'_>, b: Matrix<'_>, out: &mut Vec<f32>) {
    out.resize(a.rows() * b.columns(), 0.0);
    multiply(a, b, out, b.columns(), false);
}

/// The same where the rows of a batch are summed up.
fn sum_of_rows(a: Matrix<'_>, b: Matrix<'_>, out: &mut Vec<f32>) {
    out.clear();
    out.resize(a.rows() * b.columns(), 0.0);
    add_product(a, b, out);
}

impl StateRows {
    /// Computes the variances, and the offsets if there is a matrix, from what the last layer takes.
    pub(super) fn see(&mut self, noise: &StateNoise, spread: &Spread, features: &[f32]) {
        let (width, actions) = (noise.features, noise.actions);
        let rows = features.len() / width;
        self.squares.clear();
        self.squares.extend(features.iter().map(|x| x * x));
        let squares = Matrix::new(&self.squares, rows, width, width);
        let of_entries = Matrix::new(&spread.variances, width, actions, actions);
        product(squares, of_entries, &mut self.variances);
        self.variances.iter_mut().for_each(|x| *x += EPSILON);
        if !spread.matrix.is_empty() {
            let features = Matrix::new(features, rows, width, width);
            let matrix = Matrix::new(&spread.matrix, width, actions, actions);
            product(features, matrix, &mut self.offsets);
        }
    }

    /// Adds the gradient of the logarithms to `gradient`, from those of offsets and variances.
    pub(super) fn add_gradient(
        &mut self,
        (noise, spread): (&StateNoise, &Spread),
        parameters: &[f32],
        features: &[f32],
        gradient: &mut [f32],
    ) {
        let (width, actions) = (noise.features, noise.actions);
        let rows = features.len() / width;
        let matrix = |numbers, columns| Matrix::new(numbers, rows, columns, columns);
        let by_variances = matrix(&self.by_variances, actions);
        let squares = matrix(&self.squares, width).transposed();
        sum_of_rows(squares, by_variances, &mut self.by_std);
        let entries = self.by_std.iter_mut().zip(&spread.std);
        entries.for_each(|(by_std, std)| *by_std *= 2.0 * std);
        if !spread.matrix.is_empty() {
            let by_offsets = matrix(&self.by_offsets, actions);
            let features = matrix(features, width).transposed();
            sum_of_rows(features, by_offsets, &mut self.products);
            let entries = self.by_std.iter_mut().zip(&self.products);
            let entries = entries.zip(&spread.normals);
            entries.for_each(|((by_std, by_entry), normal)| *by_std += by_entry * normal);
        }
        let places = noise.parameters();
        let out = gradient[places.clone()].iter_mut();
        let shared = self.by_std.chunks_exact(noise.shared());
        for ((out, &log_std), by_std) in out.zip(&parameters[places]).zip(shared) {
            *out += by_std.iter().sum::<f32>() * noise.slope(log_std);
        }
    }

    /// Writes the gradient of what the last layer takes, from those of offsets and variances.
    pub(super) fn by_features(
        &mut self,
        (noise, spread): (&StateNoise, &Spread),
        features: &[f32],
        out: &mut Vec<f32>,
    ) {
        let (width, actions) = (noise.features, noise.actions);
        let rows = features.len() / width;
        let by_variances = Matrix::new(&self.by_variances, rows, actions, actions);
        let of_entries = Matrix::new(&spread.variances, width, actions, actions);
        product(by_variances, of_entries.transposed(), out);
        let numbers = out.iter_mut().zip(features);
        numbers.for_each(|(out, feature)| *out *= 2.0 * feature);
        let by_offsets = Matrix::new(&self.by_offsets, rows, actions, actions);
        let matrix = Matrix::new(&spread.matrix, width, actions, actions).transposed();
        multiply(by_offsets, matrix, out, width, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: usize = 5;
    const FEATURES: usize = 3;
    const ACTIONS: usize = 2;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|i| ((i as f32 * step).sin() * 43.7).fract())
            .collect()
    }

    fn kinds() -> impl Iterator<Item = StateNoise> {
        [(true, false), (true, true), (false, true)]
            .into_iter()
            .map(|(full, expln)| StateNoise {
                log_std: 1,
                features: FEATURES,
                actions: ACTIONS,
                full,
                expln,
            })
    }

    /// A weighted sum of offsets and variances, and the memory of it.
    fn loss(noise: &StateNoise, parameters: &[f32], features: &[f32]) -> (f64, Spread, StateRows) {
        let (mut spread, mut rows) = (Spread::default(), StateRows::default());
        spread.load(noise, parameters, &numbers(FEATURES * ACTIONS, 0.4));
        rows.see(noise, &spread, features);
        rows.by_offsets = numbers(ROWS * ACTIONS, 1.9);
        rows.by_variances = numbers(ROWS * ACTIONS, 0.8);
        let sum = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        };
        let of_offsets = sum(&rows.offsets, &rows.by_offsets);
        let of_variances = sum(&rows.variances, &rows.by_variances);
        (of_offsets + of_variances, spread, rows)
    }

    #[test]
    fn gradients_are_differences() {
        const STEP: f32 = 1e-2;
        for noise in kinds() {
            let (parameters, features) = (numbers(8, 0.7), numbers(ROWS * FEATURES, 1.3));
            let (_, spread, mut rows) = loss(&noise, &parameters, &features);
            let (mut gradient, mut by_features) = (vec![0.0; 8], Vec::new());
            let with = (&noise, &spread);
            rows.add_gradient(with, &parameters, &features, &mut gradient);
            rows.by_features(with, &features, &mut by_features);
            let difference = |numbers: &[f32], at: usize, of: &dyn Fn(&[f32]) -> f64| {
                let (mut more, mut less) = (numbers.to_vec(), numbers.to_vec());
                more[at] += STEP;
                less[at] -= STEP;
                (of(&more) - of(&less)) / f64::from(2.0 * STEP)
            };
            let places = noise.parameters();
            for (at, &got) in gradient.iter().enumerate() {
                let expected =
                    difference(&parameters, at, &|moved| loss(&noise, moved, &features).0);
                assert!((f64::from(got) - expected).abs() < 2e-3, "{noise:?} {at}");
                assert_eq!(got != 0.0, places.contains(&at));
            }
            for (at, &got) in by_features.iter().enumerate() {
                let expected =
                    difference(&features, at, &|moved| loss(&noise, &parameters, moved).0);
                assert!((f64::from(got) - expected).abs() < 2e-3, "{noise:?} {at}");
            }
        }
    }
}
