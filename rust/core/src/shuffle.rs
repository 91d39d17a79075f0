//! `np.random.permutation`, bit for bit: `NumPy`'s legacy generator and its shuffle.
//!
//! The generator is the Mersenne Twister, Matsumoto and Nishimura (1998),
//! <https://doi.org/10.1145/272991.272995>; the shuffle is Fisher and Yates's from the last number down,
//! with a place drawn by cutting 32 bits to those of the largest place, until one is in range.

/// Words of the generator's state.
pub const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// The state of `NumPy`'s `MT19937`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MersenneTwister {
    key: [u32; WORDS],
    pos: usize,
    /// What the words of the state give.
    words: [u32; WORDS],
}

impl MersenneTwister {
    /// The generator whose state `NumPy` shows as `key` and `pos`.
    #[must_use]
    pub fn new(key: [u32; WORDS], pos: usize) -> Self {
        let words = key.map(temper);
        let pos = pos.min(WORDS);
        Self { key, pos, words }
    }

    /// The state, as [`MersenneTwister::new`] takes it.
    #[must_use]
    pub fn state(&self) -> (&[u32; WORDS], usize) {
        (&self.key, self.pos)
    }

    /// The next words, at most `most` of them and at least one: not taken yet.
    fn ahead(&mut self, most: usize) -> &[u32] {
        if self.pos == WORDS {
            twist(&mut self.key);
            self.words = self.key.map(temper);
            self.pos = 0;
        }
        let end = (self.pos + most).min(WORDS);
        &self.words[self.pos..end]
    }
}

fn temper(word: u32) -> u32 {
    let mut y = word;
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c_5680;
    y ^= (y << 15) & 0xefc6_0000;
    y ^ (y >> 18)
}

fn twisted(word: u32, next: u32, far: u32) -> u32 {
    let y = (word & 0x8000_0000) | (next & 0x7fff_ffff);
    far ^ (y >> 1) ^ (0x9908_b0df * (y & 1))
}

fn twist(key: &mut [u32; WORDS]) {
    // In two halves, so that no index needs a remainder.
    for i in 0..WORDS - MIDDLE {
        key[i] = twisted(key[i], key[i + 1], key[i + MIDDLE]);
    }
    for i in WORDS - MIDDLE..WORDS - 1 {
        key[i] = twisted(key[i], key[i + 1], key[i + MIDDLE - WORDS]);
    }
    key[WORDS - 1] = twisted(key[WORDS - 1], key[0], key[MIDDLE - 1]);
}

/// Places that are drawn before numbers move there: a move waits for memory, and for no other move.
const AT_ONCE: usize = 1024;

/// The numbers below `count` in the order of `np.random.permutation(count)`.
#[must_use]
pub fn permutation(generator: &mut MersenneTwister, count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut places = [0_u32; AT_ONCE];
    let mut largest = count.saturating_sub(1);
    while largest > 0 {
        let mask = u32::MAX >> largest.leading_zeros();
        // As far down as the mask is the same.
        let lowest = (mask >> 1) + 1;
        let wanted = ((largest - lowest) as usize + 1).min(AT_ONCE);
        let mut found = 0;
        while found < wanted {
            let words = generator.ahead(wanted - found);
            let taken = words.len();
            for &word in words {
                // Without a branch: a quarter of the words is out of range, and no one can tell which.
                let place = word & mask;
                places[found] = place;
                found += usize::from(place <= largest - found as u32);
            }
            generator.pos += taken;
        }
        for &place in &places[..wanted] {
            order.swap(largest as usize, place as usize);
            largest -= 1;
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state that `np.random.seed(seed)` gives: `init_genrand` of the authors.
    fn seeded(seed: u32) -> MersenneTwister {
        let mut key = [0_u32; WORDS];
        key[0] = seed;
        for i in 1..WORDS {
            let before = key[i - 1] ^ (key[i - 1] >> 30);
            key[i] = before.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        MersenneTwister::new(key, WORDS)
    }

    #[test]
    fn permutations_are_numpys() {
        // np.random.seed(5); np.random.permutation(12); np.random.permutation(7)
        let mut generator = seeded(5);
        assert_eq!(
            permutation(&mut generator, 12),
            [7, 5, 2, 9, 11, 4, 8, 1, 0, 10, 6, 3],
        );
        assert_eq!(permutation(&mut generator, 7), [2, 5, 6, 3, 0, 1, 4]);
    }

    #[test]
    fn nothing_is_drawn_for_one_number() {
        let mut generator = seeded(1);
        assert_eq!(permutation(&mut generator, 0), []);
        assert_eq!(permutation(&mut generator, 1), [0]);
        assert_eq!(generator, seeded(1));
    }

    #[test]
    fn every_number_is_there_once() {
        let mut order = permutation(&mut seeded(3), 5000);
        order.sort_unstable();
        assert_eq!(order, (0..5000).collect::<Vec<_>>());
    }
}
