//! Activations as loops without calls or branches, which the compiler turns into vector code.

/// The function after a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x`.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `x` above 0, this number times `e^x - 1` below (Clevert et al. 2015, <https://arxiv.org/abs/1511.07289>).
    Elu(f32),
    /// `max(x, this number times x)`.
    LeakyRelu(f32),
    /// `x sigmoid(x)`.
    Silu,
    /// `x` times the Gaussian distribution function (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// `x`, no further from 0 than this number.
    HardTanh(f32),
}

impl Activation {
    /// Applies the function in place.
    #[inline(always)]
    pub(super) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Tanh => values.iter_mut().for_each(|x| *x = tanh(*x)),
            Self::Relu => values.iter_mut().for_each(|x| *x = at_least(*x, 0.0)),
            Self::Elu(alpha) => values.iter_mut().for_each(|x| {
                let below = alpha * exp_m1(*x);
                *x = if *x > 0.0 { *x } else { below };
            }),
            Self::LeakyRelu(slope) => values
                .iter_mut()
                .for_each(|x| *x = at_least(*x, slope * *x)),
            Self::Silu => values.iter_mut().for_each(|x| *x *= sigmoid(*x)),
            Self::Gelu => values.iter_mut().for_each(|x| *x = gelu(*x)),
            Self::HardTanh(limit) => values
                .iter_mut()
                .for_each(|x| *x = at_most(at_least(*x, -limit), limit)),
        }
    }
}

impl Activation {
    /// Whether [`scale_gradient`](Self::scale_gradient) goes by what the function took, not by what it gave.
    pub(super) fn needs_input(self) -> bool {
        matches!(
            self,
            Self::Elu(_) | Self::LeakyRelu(_) | Self::Silu | Self::Gelu
        )
    }

    /// Multiplies the gradient of what the function gave by its derivative. `seen` is what it took
    /// where [`needs_input`](Self::needs_input) says so, else what it gave.
    #[inline(always)]
    pub(super) fn scale_gradient(self, seen: &[f32], gradient: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Tanh => scale(seen, gradient, |y| 1.0 - y * y),
            Self::Relu => scale(seen, gradient, |y| if y > 0.0 { 1.0 } else { 0.0 }),
            Self::Elu(alpha) => scale(seen, gradient, |x| {
                let below = alpha * exp(at_most(x, 0.0));
                if x > 0.0 { 1.0 } else { below }
            }),
            Self::LeakyRelu(slope) => {
                // `max(x, slope x)` as above.
                scale(seen, gradient, |x| if x < slope * x { slope } else { 1.0 });
            }
            Self::Silu => scale(seen, gradient, |x| {
                let s = sigmoid(x);
                s + x * s * (1.0 - s)
            }),
            Self::Gelu => scale(seen, gradient, |x| {
                const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
                gaussian_cdf(x) + x * DENSITY * exp(-0.5 * x * x)
            }),
            Self::HardTanh(limit) => scale(seen, gradient, |y| {
                if y > -limit && y < limit { 1.0 } else { 0.0 }
            }),
        }
    }
}

#[inline(always)]
fn scale(seen: &[f32], gradient: &mut [f32], derivative: impl Fn(f32) -> f32) {
    for (gradient, &seen) in gradient.iter_mut().zip(seen) {
        *gradient *= derivative(seen);
    }
}

// `f32::max` drops a NaN, which has to reach the actions to be noticed.
#[inline(always)]
fn at_least(x: f32, low: f32) -> f32 {
    if x < low { low } else { x }
}

#[inline(always)]
fn at_most(x: f32, high: f32) -> f32 {
    if x > high { high } else { x }
}

#[inline(always)]
fn polynomial<const N: usize>(z: f32, coefficients: [f32; N]) -> f32 {
    let mut value = coefficients[N - 1];
    for coefficient in coefficients[..N - 1].iter().rev() {
        value = value * z + coefficient;
    }
    value
}

/// The hyperbolic tangent to within 4e-7: the fraction that `common/activations.py` gives to MLX.
#[must_use]
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    const LIMIT: f32 = 9.02;
    let x = at_most(at_least(x, -LIMIT), LIMIT);
    let z = x * x;
    let above = polynomial(
        z,
        [1.0, 0.133_797_2, 3.494_037e-3, 2.058_352e-5, 1.331_911_9e-8],
    );
    let below = polynomial(
        z,
        [
            1.0,
            0.467_130_36,
            2.587_108_3e-2,
            3.283_096_7e-4,
            7.762_04e-7,
        ],
    );
    // Rounding may carry the fraction past 1, and an action out of its bounds.
    at_most(at_least(x * above / below, -1.0), 1.0)
}

const LN_2_HI: f32 = 0.693_359_4;
const LN_2_LO: f32 = -2.121_944_4e-4;

/// Splits `x` into `n ln 2 + r`; returns `2^n`, and the Taylor sum `(e^r - 1) / r` with `r`.
#[inline(always)]
fn reduce(x: f32) -> (f32, f32, f32) {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (x - n * LN_2_HI) - n * LN_2_LO;
    let series = polynomial(
        r,
        [
            1.0,
            0.5,
            1.0 / 6.0,
            1.0 / 24.0,
            1.0 / 120.0,
            1.0 / 720.0,
            1.0 / 5040.0,
        ],
    );
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (power, series, r)
}

/// `e^x` to within 2e-7 relative; 0 below -87 and 2e38 above 88.
#[must_use]
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let (power, series, r) = reduce(at_most(at_least(x, -87.0), 88.0));
    let value = power + power * (series * r);
    if x < -87.0 { 0.0 } else { value }
}

#[inline(always)]
fn exp_m1(x: f32) -> f32 {
    let (power, series, r) = reduce(at_most(at_least(x, -87.0), 0.0));
    (power - 1.0) + power * (series * r)
}

/// `1 / (1 + e^-x)`.
#[must_use]
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x Phi(x)`.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    x * gaussian_cdf(x)
}

/// `Phi(x)`, with the error function of Abramowitz and Stegun, formula 7.1.26 (1.5e-7).
#[inline(always)]
fn gaussian_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let tail = polynomial(
        t,
        [
            0.254_829_6,
            -0.284_496_72,
            1.421_413_8,
            -1.453_152,
            1.061_405_4,
        ],
    );
    let half_tail = 0.5 * t * tail * exp(-z * z);
    if x < 0.0 { half_tail } else { 1.0 - half_tail }
}
