//! The arithmetic of NumPy and CPython where it is not plain IEEE: scalar promotion, powers,
//! float32 trigonometry, floor modulo and `sum`.
//!
//! Gymnasium's physics mixes NumPy float32 and float64 scalars with Python floats. Which of them
//! wins depends on the NumPy version, so the rule is data ([`Numerics`]), not code.

use std::hint::black_box;

/// What the installed NumPy, Gymnasium and Python do where versions and platforms differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numerics {
    /// A Python float takes the type of the NumPy scalar it meets (NEP 50, NumPy 2). Before, two
    /// scalars of different precision met in float64.
    pub weak_scalars: bool,
    /// `CartPole` squares with the C library's `pow`, as Gymnasium before 1.0 does, and not by a product.
    pub pow_squares: bool,
    /// NumPy's `uniform` rounds once (see [`crate::rng::Pcg64::fused`]).
    pub fused_uniform: bool,
    /// Python's `sum` of floats carries the rounding error along (CPython 3.12 and later).
    pub compensated_sum: bool,
}

impl Default for Numerics {
    /// NumPy 2 and Gymnasium 1.4 on `x86_64` with Python 3.11.
    fn default() -> Self {
        Self {
            weak_scalars: true,
            pow_squares: false,
            fused_uniform: false,
            compensated_sum: false,
        }
    }
}

/// `x ** 2` of a NumPy or Python float64: the C library's `pow`, which is not always `x * x`.
#[must_use]
pub fn square(x: f64) -> f64 {
    // A literal 2.0 would let the compiler turn the call into a product, everywhere.
    if power_is_product(x) {
        x * x
    } else {
        x.powf(black_box(2.0))
    }
}

/// `x ** 2` of a NumPy float32 under NEP 50: the C library's `powf`.
fn square_f32(x: f32) -> f32 {
    if power_is_product_f32(x) {
        x * x
    } else {
        x.powf(black_box(2.0))
    }
}

/// How far from the middle between two doubles `x * x` has to be for glibc's `pow(x, 2)` to round
/// to the same one, in units of the last place. Its error is at most 0.513 for such numbers (see
/// [`power_is_product`]), so 0.013 would do. No other C library says how exact it is.
const CLEAR: f64 = 1.0 / 64.0;
const KNOWN_POW: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// Whether `pow(x, 2)` must be `x * x`: a third of the time of Pendulum and of Acrobot went into
/// `pow`, and in 31 of 32 cases its answer is known.
///
/// glibc bounds `pow`'s error by that of its exponential, 0.509 units in the last place, and
/// 1.3 * 2^-15 for each unit of the result's logarithm; below 2^128 that is 0.513.
#[inline]
fn power_is_product(x: f64) -> bool {
    const MANTISSA: u32 = f64::MANTISSA_DIGITS - 1;
    let bits = x.to_bits();
    let exponent = ((bits >> MANTISSA) & 0x7ff).wrapping_sub(1023 - 64);
    let whole = u128::from((bits & ((1 << MANTISSA) - 1)) | (1 << MANTISSA));
    let product = whole * whole;
    // Of the 105 or 106 bits of the product, those after the first 53 as a fraction of 2^64.
    let rest = (product as u64) << (12 - ((product >> (2 * MANTISSA + 1)) as u32));
    KNOWN_POW && exponent < 128 && is_clear(rest)
}

/// [`square`] of several numbers at once, 32 at most; `FUSED` is [`super::sines::Work`]'s.
#[inline(always)]
#[must_use]
pub fn squares<const FUSED: bool, const N: usize>(x: [f64; N]) -> [f64; N] {
    if !FUSED {
        return x.map(square);
    }
    let mut products = [0.0; N];
    let mut doubtful = 0;
    for i in 0..N {
        let product = x[i] * x[i];
        let known = is_surely_rounded(product, x[i].mul_add(x[i], -product), CLEAR);
        // Well within the sizes of `power_is_product`, and far from where `rest` would underflow.
        let usual = (product > 1e-19) & (product < 1e19);
        doubtful |= u32::from(!(known & usual)) << i;
        products[i] = product;
    }
    if doubtful != 0 {
        ask(|x| x.powf(black_box(2.0)), &x, doubtful, &mut products);
    }
    products
}

/// Whether every value within `clear` units in the last place of `high + low` rounds to `high`.
#[inline(always)]
pub(super) fn is_surely_rounded(high: f64, low: f64, clear: f64) -> bool {
    const EXPONENT: u64 = 0x7ff << (f64::MANTISSA_DIGITS - 1);
    let unit = f64::from_bits(high.to_bits() & EXPONENT) * f64::EPSILON;
    high + (low + (unit * clear).copysign(low)) == high
}

/// Asks the C library for the values whose bit in `doubtful` is set.
#[cold]
#[inline(never)]
pub(super) fn ask(library: fn(f64) -> f64, x: &[f64], mut doubtful: u32, values: &mut [f64]) {
    while doubtful != 0 {
        let i = doubtful.trailing_zeros() as usize;
        values[i] = library(x[i]);
        doubtful &= doubtful - 1;
    }
}

/// The same of `powf`, which is off the product in one of a thousand cases, all of them within
/// 0.002 units of the middle for numbers of these sizes.
#[inline]
fn power_is_product_f32(x: f32) -> bool {
    const DROPPED: u32 = f64::MANTISSA_DIGITS - f32::MANTISSA_DIGITS;
    let exact = (f64::from(x) * f64::from(x)).to_bits();
    let exponent = ((x.to_bits() >> (f32::MANTISSA_DIGITS - 1)) & 0xff).wrapping_sub(127 - 24);
    KNOWN_POW && exponent < 28 && is_clear(exact << (64 - DROPPED))
}

/// Whether `rest`, in units of 2^-64, is not near one half.
#[inline]
fn is_clear(rest: u64) -> bool {
    const MARGIN: u64 = (CLEAR * (1_u128 << 64) as f64) as u64;
    rest.wrapping_sub((1 << 63) - MARGIN) > 2 * MARGIN
}

/// `x % y` of NumPy float64: the result has the sign of `y`.
#[must_use]
pub fn floor_mod(x: f64, y: f64) -> f64 {
    let rest = x % y;
    if rest == 0.0 {
        0.0_f64.copysign(y)
    } else if (y < 0.0) != (rest < 0.0) {
        rest + y
    } else {
        rest
    }
}

/// Python's `round(x, 6)`, or `None` where only its exact decimal arithmetic can tell: near the
/// middle between two results, and for large or infinite numbers.
#[must_use]
pub fn round_micro(x: f64) -> Option<f64> {
    if x.fract() == 0.0 {
        return Some(x);
    }
    let scaled = x * 1e6;
    // Below 2^40 the product is off by far less than the margin, and an integer over 1e6 is the
    // double nearest to that decimal.
    let clear = scaled.abs() < (1_u64 << 40) as f64 && (scaled.fract().abs() - 0.5).abs() > 1e-3;
    clear.then(|| scaled.round() / 1e6)
}

/// A number on its way through Gymnasium's Python: a NumPy scalar or a Python float.
#[derive(Debug, Clone, Copy)]
pub enum Scalar {
    /// `np.float32`
    Single(f32),
    /// `np.float64`
    Double(f64),
    /// `float` (or `int`), which under NEP 50 yields to the other operand's type
    Python(f64),
}

use Scalar::{Double, Python, Single};

impl Scalar {
    /// The value, widened.
    #[must_use]
    pub fn get(self) -> f64 {
        match self {
            Single(x) => f64::from(x),
            Double(x) | Python(x) => x,
        }
    }

    fn binary(
        self,
        other: Self,
        weak: bool,
        single: fn(f32, f32) -> f32,
        double: fn(f64, f64) -> f64,
    ) -> Self {
        match (self, other) {
            (Single(a), Single(b)) => Single(single(a, b)),
            (Single(a), Python(b)) if weak => Single(single(a, b as f32)),
            (Python(a), Single(b)) if weak => Single(single(a as f32, b)),
            (Python(a), Python(b)) => Python(double(a, b)),
            (a, b) => Double(double(a.get(), b.get())),
        }
    }

    /// `self + other`
    #[must_use]
    pub fn add(self, other: Self, n: Numerics) -> Self {
        self.binary(other, n.weak_scalars, |a, b| a + b, |a, b| a + b)
    }

    /// `self - other`
    #[must_use]
    pub fn sub(self, other: Self, n: Numerics) -> Self {
        self.binary(other, n.weak_scalars, |a, b| a - b, |a, b| a - b)
    }

    /// `self * other`
    #[must_use]
    pub fn mul(self, other: Self, n: Numerics) -> Self {
        self.binary(other, n.weak_scalars, |a, b| a * b, |a, b| a * b)
    }

    /// `self ** 2`
    #[must_use]
    pub fn squared(self, n: Numerics) -> Self {
        self.binary(
            Python(2.0),
            n.weak_scalars,
            |a, _| square_f32(a),
            |a, _| square(a),
        )
    }

    /// `self > other`, in the type the two are promoted to
    #[must_use]
    pub fn gt(self, other: Self, n: Numerics) -> bool {
        match (self, other) {
            (Single(a), Python(b)) if n.weak_scalars => a > b as f32,
            (Python(a), Single(b)) if n.weak_scalars => a as f32 > b,
            (a, b) => a.get() > b.get(),
        }
    }

    /// `self >= other`, in the type the two are promoted to
    #[must_use]
    pub fn ge(self, other: Self, n: Numerics) -> bool {
        self.gt(other, n) || self.eq(other, n)
    }

    /// `self == other`, in the type the two are promoted to
    #[must_use]
    pub fn eq(self, other: Self, n: Numerics) -> bool {
        !self.gt(other, n) && !other.gt(self, n)
    }
}

/// `np.cos` and `np.sin` of a float32 with few enough turns; the C library's beyond.
///
/// NumPy does not call the C library here: it reduces by Cody and Waite in three fused steps and
/// evaluates one polynomial for each function (at most 1.5 ulp off). Only the same steps give the
/// same bits.
#[must_use]
pub fn cos_sin_f32(x: f32) -> (f32, f32) {
    const TWO_OVER_PI: f32 = f32::from_bits(0x3f22_f983);
    const PIO2: [f32; 3] = [
        f32::from_bits(0xbfc9_0fd8),
        f32::from_bits(0xb4a8_885a),
        f32::from_bits(0xa7c2_34c4),
    ];
    const ROUND: f32 = 12_582_912.0;
    let turns = (x * TWO_OVER_PI + ROUND) - ROUND;
    let reduced = PIO2.iter().fold(x, |acc, &part| turns.mul_add(part, acc));
    let squared = reduced * reduced;
    let (cos, sin) = (cos_poly(squared), sin_poly(reduced, squared));
    let quadrant = turns as i32;
    let pick = |quadrant: i32| {
        let value = if quadrant & 1 == 0 { sin } else { cos };
        if quadrant & 2 == 2 {
            0.0 - value
        } else {
            value
        }
    };
    (
        if x.abs() <= 71_476.06 {
            pick(quadrant.wrapping_add(1))
        } else {
            x.cos()
        },
        if x.abs() <= 117_435.99 {
            pick(quadrant)
        } else {
            x.sin()
        },
    )
}

fn cos_poly(x2: f32) -> f32 {
    const TERMS: [f32; 4] = [
        f32::from_bits(0xbab6_036e),
        f32::from_bits(0x3d2a_aa9e),
        -0.5,
        1.0,
    ];
    TERMS
        .iter()
        .fold(f32::from_bits(0x37cc_730b), |acc, &term| {
            acc.mul_add(x2, term)
        })
}

fn sin_poly(x: f32, x2: f32) -> f32 {
    const TERMS: [f32; 4] = [
        f32::from_bits(0xb950_35dd),
        f32::from_bits(0x3c08_88cd),
        f32::from_bits(0xbe2a_aaab),
        0.0,
    ];
    TERMS
        .iter()
        .fold(f32::from_bits(0x363e_9dde), |acc, &term| {
            acc.mul_add(x2, term)
        })
        .mul_add(x, x)
}

/// Python's `sum` over the rewards of an episode, one reward at a time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ReturnSum {
    /// The running sum.
    pub sum: f64,
    /// The rounding errors so far (Neumaier); stays zero in a plain sum.
    pub error: f64,
}

impl ReturnSum {
    /// Adds one reward.
    pub fn add(&mut self, reward: f64, n: Numerics) {
        let total = self.sum + reward;
        if n.compensated_sum {
            self.error += if self.sum.abs() >= reward.abs() {
                (self.sum - total) + reward
            } else {
                (reward - total) + self.sum
            };
        }
        self.sum = total;
    }

    /// The sum as Python would return it.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.error != 0.0 && self.error.is_finite() {
            self.sum + self.error
        } else {
            self.sum
        }
    }
}
