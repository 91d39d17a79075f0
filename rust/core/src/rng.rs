//! NumPy's random generators, bit for bit: `SeedSequence`, `PCG64` and `Generator.uniform`.
//!
//! Gymnasium draws every initial state with `np.random.Generator(np.random.PCG64(SeedSequence(seed)))`;
//! the same numbers here are what makes a native environment reproduce it seed for seed. PCG64 is
//! O'Neill's PCG XSL RR 128/64 (<https://www.pcg-random.org>), the seeding is the hash that
//! NumPy documents in its NEP 19 follow-up.

const POOL: usize = 4;
const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_L: u32 = 0xca01_f9dd;
const MIX_R: u32 = 0x4973_f715;
const PCG_MULT: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

fn hash(value: u32, constant: &mut u32, mult: u32) -> u32 {
    let value = value ^ *constant;
    *constant = constant.wrapping_mul(mult);
    let value = value.wrapping_mul(*constant);
    value ^ (value >> 16)
}

fn mix(x: u32, y: u32) -> u32 {
    let mixed = MIX_L.wrapping_mul(x).wrapping_sub(MIX_R.wrapping_mul(y));
    mixed ^ (mixed >> 16)
}

/// NumPy's `SeedSequence` without a spawn key: spreads a seed over as many words as are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedSequence {
    pool: [u32; POOL],
}

impl SeedSequence {
    /// The sequence of an integer seed, given as its 32-bit words, least significant first.
    #[must_use]
    pub fn new(entropy: &[u32]) -> Self {
        let mut constant = INIT_A;
        let mut pool = [0; POOL];
        for (i, word) in pool.iter_mut().enumerate() {
            *word = hash(entropy.get(i).copied().unwrap_or(0), &mut constant, MULT_A);
        }
        for src in 0..POOL {
            for dst in (0..POOL).filter(|&dst| dst != src) {
                pool[dst] = mix(pool[dst], hash(pool[src], &mut constant, MULT_A));
            }
        }
        for &word in entropy.iter().skip(POOL) {
            for slot in &mut pool {
                *slot = mix(*slot, hash(word, &mut constant, MULT_A));
            }
        }
        Self { pool }
    }

    /// The sequence of a seed that fits 64 bits.
    #[must_use]
    pub fn from_u64(seed: u64) -> Self {
        Self::new(&[seed as u32, (seed >> 32) as u32])
    }

    /// `SeedSequence.generate_state(N, np.uint64)`.
    #[must_use]
    pub fn generate<const N: usize>(&self) -> [u64; N] {
        let mut constant = INIT_B;
        let mut source = self.pool.iter().cycle();
        let mut word = || {
            let pooled = source.next().copied().unwrap_or(0);
            u64::from(hash(pooled, &mut constant, MULT_B))
        };
        std::array::from_fn(|_| word() | (word() << 32))
    }
}

/// The whole state of a [`Pcg64`], as NumPy's `bit_generator.state` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcg64State {
    /// The 128-bit state of the generator.
    pub state: u128,
    /// The 128-bit increment; always odd.
    pub inc: u128,
    /// Whether half of a 64-bit draw waits in `uinteger`.
    pub has_uint32: bool,
    /// The waiting half. The environments never draw 32 bits; it is kept for a Python environment that does.
    pub uinteger: u32,
}

/// NumPy's `PCG64` bit generator with the draws the environments need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcg64 {
    state: Pcg64State,
    fused: bool,
}

impl Pcg64 {
    /// The generator of `np.random.PCG64(sequence)`.
    #[must_use]
    pub fn new(sequence: &SeedSequence) -> Self {
        let [state_hi, state_lo, inc_hi, inc_lo] = sequence.generate();
        let join = |hi: u64, lo: u64| (u128::from(hi) << 64) | u128::from(lo);
        let inc = (join(inc_hi, inc_lo) << 1) | 1;
        let mut rng = Self::from_state(Pcg64State {
            state: inc.wrapping_add(join(state_hi, state_lo)),
            inc,
            has_uint32: false,
            uinteger: 0,
        });
        rng.advance();
        rng
    }

    /// A generator that continues from `state`.
    #[must_use]
    pub fn from_state(state: Pcg64State) -> Self {
        Self {
            state,
            fused: false,
        }
    }

    /// Whether [`uniform`](Self::uniform) multiplies and adds with one rounding. NumPy's own C code
    /// does where its compiler may contract the two (arm64), and does not elsewhere (`x86_64`).
    #[must_use]
    pub fn fused(mut self, fused: bool) -> Self {
        self.fused = fused;
        self
    }

    /// The state, ready for NumPy's `bit_generator.state`.
    #[must_use]
    pub fn state(&self) -> Pcg64State {
        self.state
    }

    fn advance(&mut self) {
        self.state.state = self
            .state
            .state
            .wrapping_mul(PCG_MULT)
            .wrapping_add(self.state.inc);
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.advance();
        let state = self.state.state;
        (((state >> 64) as u64) ^ (state as u64)).rotate_right((state >> 122) as u32)
    }

    /// `Generator.random()`: a double in `[0, 1)` from the upper 53 bits.
    pub fn random(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `Generator.uniform(low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let range = high - low;
        let draw = self.random();
        if self.fused {
            range.mul_add(draw, low)
        } else {
            low + range * draw
        }
    }
}
