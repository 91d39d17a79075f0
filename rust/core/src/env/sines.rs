//! Sines and cosines of several float64 angles at once, each in every bit the C library's.
//!
//! Gymnasium's are the C library's, so these have to be. glibc says how exact its own are: they are
//! computed here to eight bits more than a double has, several side by side, and where the exact value
//! is farther from the middle between two doubles than glibc errs, both round to the same one. For
//! the others, 5 to 9 in a hundred, and for all where nothing is known, the C library is asked.

use std::f64::consts::FRAC_1_SQRT_2;

use pulp::{Arch, Simd, WithSimd};

use super::numerics::{ask, is_surely_rounded};

/// Whether the C library is one whose exactness is known: glibc, on processors where its `sin` and
/// `cos` are those of `sysdeps/ieee754/dbl-64`.
const KNOWN_LIBRARY: bool = cfg!(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
));

/// How far from the middle between two doubles a value has to be, in units of the last place, for
/// glibc to round it as here.
///
/// By the comments in its [`s_sin.c`][source] glibc errs by 0.518 units at most, and what is rounded
/// here is off by less than 0.004: 0.022 would do. Versions before 2.28 and the newest ones, which
/// [round correctly][core-math], err less.
///
/// [core-math]: https://core-math.gitlabpages.inria.fr
/// [source]: https://sourceware.org/git/?p=glibc.git;a=blob;f=sysdeps/ieee754/dbl-64/s_sin.c;hb=glibc-2.36
const CLEAR: f64 = 0.025;
/// The same for sines of angles below [`DIRECT`], for which one of the comments says 0.548.
const CLEAR_DIRECT: f64 = 0.055;
const DIRECT: f64 = 0.86;

/// Angles beyond are the C library's: with more turns the reduction would lose bits.
const FARTHEST: f64 = 16.0;
/// Values below are the C library's: the reduction's error is an absolute one. Zeros keep their sign.
const SMALLEST: f64 = 1.0 / 1024.0;

/// Work that takes sines: `FUSED` says whether the processor has a fused multiply-add and the C
/// library is known; then it is compiled for that processor.
pub trait Work {
    /// What it gives.
    type Output;

    /// Does it. To be `#[inline(always)]`, like all it calls that does arithmetic: a function that
    /// stays one by itself is compiled for any processor.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// Does the work on the best vector unit there is. The results are the same on all.
#[inline]
pub fn dispatch<W: Work>(work: W) -> W::Output {
    Arch::new().dispatch(Dispatched(work))
}

struct Dispatched<W>(W);

impl<W: Work> WithSimd for Dispatched<W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> W::Output {
        if S::IS_SCALAR || !KNOWN_LIBRARY {
            self.0.run::<false>()
        } else {
            self.0.run::<true>()
        }
    }
}

/// The sines of the angles, and their cosines; 32 angles at most.
#[inline(always)]
pub fn sines_and_cosines<const FUSED: bool, const N: usize>(
    angles: [f64; N],
) -> ([f64; N], [f64; N]) {
    if !FUSED {
        return (angles.map(f64::sin), angles.map(f64::cos));
    }
    let (mut sines, mut cosines) = ([0.0; N], [0.0; N]);
    let (mut doubtful_sines, mut doubtful_cosines) = (0, 0);
    for i in 0..N {
        let reduced = Reduced::of(angles[i]);
        let (high, low) = reduced.sine();
        sines[i] = high;
        let clear = if angles[i].abs() < DIRECT {
            CLEAR_DIRECT
        } else {
            CLEAR
        };
        doubtful_sines |= u32::from(!is_certain(angles[i], high, low, clear)) << i;
        let (high, low) = reduced.cosine();
        cosines[i] = high;
        doubtful_cosines |= u32::from(!is_certain(angles[i], high, low, CLEAR)) << i;
    }
    if doubtful_sines != 0 {
        ask(f64::sin, &angles, doubtful_sines, &mut sines);
    }
    if doubtful_cosines != 0 {
        ask(f64::cos, &angles, doubtful_cosines, &mut cosines);
    }
    (sines, cosines)
}

/// The cosines of the angles, 32 at most.
#[inline(always)]
pub fn cosines<const FUSED: bool, const N: usize>(angles: [f64; N]) -> [f64; N] {
    if !FUSED {
        return angles.map(f64::cos);
    }
    let mut cosines = [0.0; N];
    let mut doubtful = 0;
    for i in 0..N {
        let (high, low) = Reduced::of(angles[i]).cosine();
        cosines[i] = high;
        doubtful |= u32::from(!is_certain(angles[i], high, low, CLEAR)) << i;
    }
    if doubtful != 0 {
        ask(f64::cos, &angles, doubtful, &mut cosines);
    }
    cosines
}

/// Whether the C library must round to `high` too, if it errs by half a unit and `clear` at most.
#[inline(always)]
fn is_certain(angle: f64, high: f64, low: f64, clear: f64) -> bool {
    is_surely_rounded(high, low, clear) & (high.abs() > SMALLEST) & (angle.abs() < FARTHEST)
}

/// Steps of the table to a turn.
const ROWS: usize = 128;
/// The sine of every row, its rounding error, its cosine and that one's.
static TABLE: [[f64; 4]; ROWS] = table();

/// `angle = row * pi / 64 + rest` (Cody and Waite's reduction), with a rest below 1/40.
struct Reduced {
    row: [f64; 4],
    rest: f64,
    rest_low: f64,
    /// `sin(rest) - rest`
    sin: f64,
    /// `cos(rest) - 1`
    cos: f64,
}

impl Reduced {
    #[inline(always)]
    fn of(angle: f64) -> Self {
        const STEP: [f64; 2] = [0.049_087_385_212_340_52, 1.913_510_623_667_739_4e-18];
        // 1.5 * 2^52: in a sum with it the integer is in the last bits.
        const ROUND: f64 = 6_755_399_441_055_744.0;
        let shifted = angle.mul_add(1.0 / STEP[0], ROUND);
        let steps = ROUND - shifted;
        let first = steps.mul_add(STEP[0], angle);
        let rest = steps.mul_add(STEP[1], first);
        let square = rest * rest;
        Self {
            row: TABLE[shifted.to_bits() as usize % ROWS],
            rest,
            rest_low: steps.mul_add(STEP[1], first - rest),
            sin: square
                .mul_add(1.0 / 362_880.0, -1.0 / 5_040.0)
                .mul_add(square, 1.0 / 120.0)
                .mul_add(square, -1.0 / 6.0)
                * (square * rest),
            cos: square
                .mul_add(1.0 / 40_320.0, -1.0 / 720.0)
                .mul_add(square, 1.0 / 24.0)
                .mul_add(square, -0.5)
                * square,
        }
    }

    #[inline(always)]
    fn sine(&self) -> (f64, f64) {
        let [sin, sin_low, cos, cos_low] = self.row;
        self.sum([sin, sin_low], [cos, cos_low])
    }

    #[inline(always)]
    fn cosine(&self) -> (f64, f64) {
        let [sin, sin_low, cos, cos_low] = self.row;
        self.sum([cos, cos_low], [-sin, -sin_low])
    }

    /// `a * cos(rest) + b * sin(rest)`, rounded, and how much is missing, to within 2^-61 of the
    /// value: everything but `a` and the product `b * rest` is so small that a double does.
    #[inline(always)]
    fn sum(&self, [a, a_low]: [f64; 2], [b, b_low]: [f64; 2]) -> (f64, f64) {
        let product = b * self.rest;
        let product_low = b.mul_add(self.rest, -product);
        let sum = a + product;
        let sum_low = product - (sum - a);
        let tiny = b_low.mul_add(self.rest, product_low + a_low);
        let small = b.mul_add(self.sin + self.rest_low, tiny);
        let low = a.mul_add(self.cos, small) + sum_low;
        let high = sum + low;
        (high, low - (high - sum))
    }
}

const fn table() -> [[f64; 4]; ROWS] {
    let mut table = [[0.0; 4]; ROWS];
    let mut row = 0;
    while row < ROWS {
        let (sin, sin_low) = sine_of_row(row);
        let (cos, cos_low) = sine_of_row(row + ROWS / 4);
        table[row] = [sin, sin_low, cos, cos_low];
        row += 1;
    }
    table
}

const fn sine_of_row(row: usize) -> (f64, f64) {
    const QUARTER: usize = ROWS / 4;
    let row = row % ROWS;
    let in_half = row % (2 * QUARTER);
    let mirrored = if in_half > QUARTER {
        2 * QUARTER - in_half
    } else {
        in_half
    };
    let (high, low) = SINES[mirrored];
    if row < 2 * QUARTER {
        (high, low)
    } else {
        (-high, -low)
    }
}

/// `sin(row * pi / 64)` and what its rounding left.
const SINES: [(f64, f64); ROWS / 4 + 1] = [
    (0.0, 0.0),
    (0.049_067_674_327_418_015, -6.796_103_720_518_28e-19),
    (0.098_017_140_329_560_6, -1.634_582_362_244_256e-18),
    (0.146_730_474_455_361_75, 3.726_947_147_046_568e-18),
    (0.195_090_322_016_128_28, -7.991_079_068_461_731e-18),
    (0.242_980_179_903_263_9, -8.751_431_529_719_663e-18),
    (0.290_284_677_254_462_4, -1.892_797_870_777_425e-17),
    (0.336_889_853_392_220_05, -4.200_094_003_347_509e-19),
    (0.382_683_432_365_089_8, -1.005_077_269_646_158_8e-17),
    (0.427_555_093_430_282_1, 9.411_189_816_295_473e-18),
    (0.471_396_736_825_997_64, 6.516_678_136_069_013e-18),
    (0.514_102_744_193_221_8, -4.571_270_752_361_562_4e-17),
    (0.555_570_233_019_602_2, 4.709_410_940_561_677e-17),
    (0.595_699_304_492_433_4, -1.343_864_193_657_946_7e-17),
    (0.634_393_284_163_645_5, 1.042_090_192_928_003_5e-17),
    (0.671_558_954_847_018_4, -4.048_903_774_929_669e-17),
    (FRAC_1_SQRT_2, -4.833_646_656_726_457e-17),
    (0.740_951_125_354_959_1, -1.470_861_695_229_734_5e-17),
    (0.773_010_453_362_737, -3.256_590_703_364_977e-17),
    (0.803_207_531_480_644_9, -3.306_060_980_481_491e-17),
    (0.831_469_612_302_545_2, 1.407_385_698_472_802_4e-18),
    (0.857_728_610_000_272_1, -4.818_344_793_633_662e-17),
    (0.881_921_264_348_355, -1.984_324_840_589_056_2e-17),
    (0.903_989_293_123_443_3, -6.609_754_468_748_431e-18),
    (0.923_879_532_511_286_7, 1.764_504_708_433_667_7e-17),
    (0.941_544_065_183_020_8, -2.789_637_954_769_834e-17),
    (0.956_940_335_732_208_8, 4.055_386_986_187_57e-17),
    (0.970_031_253_194_544, 1.836_530_034_842_884_4e-17),
    (0.980_785_280_403_230_4, 1.854_693_999_782_500_6e-17),
    (0.989_176_509_964_781, -4.098_730_993_704_711e-17),
    (0.995_184_726_672_196_9, -4.248_691_367_830_441e-17),
    (0.998_795_456_205_172_4, -1.229_169_333_707_546_5e-17),
    (1.0, 0.0),
];
