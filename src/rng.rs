//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). A draw is a pure function of (seed, stream, step, sample, index), so any thread,
//! any order and any resumed run see the same numbers.

/// What a random number is for; streams with different numbers are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights; `step` is a hash of the parameter's name.
    Init = 1,
    /// The order of samples in an epoch; `step` is the epoch.
    Shuffle = 2,
    /// Where a training sample is cut out and how it is turned; `step` is the epoch, `sample` its index there.
    Crop = 3,
    /// Latent noise of the stochastic generator in training.
    Noise = 4,
    /// Latent noise in validation; `sample` is the image's index.
    ValidationNoise = 5,
    /// Bands given to the perceptual term in training; `sample` is the batch's first in its step.
    PerceptualBands = 6,
    /// The same in validation, once for a run.
    ValidationBands = 7,
}

/// One Philox4x32-10 block.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
        }
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// A sequence of numbers at one counter position (seed, stream, step, sample).
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Rng {
    /// The sequence for (`seed`, `stream`, `step`, `sample`).
    pub fn new(seed: u64, stream: Stream, step: u64, sample: u32) -> Self {
        // The counter's low word numbers the blocks of a sequence, the others are the sample and the step; no word is
        // left for the stream, which is folded into the key.
        let key = [seed as u32 ^ (stream as u32).wrapping_mul(0x85EB_CA6B), (seed >> 32) as u32];
        let counter = [0, sample, step as u32, (step >> 32) as u32];
        Rng { key, counter, block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1) with 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal (Box-Muller, f64 inside).
    pub fn normal(&mut self) -> f32 {
        let u1 = (f64::from(self.next_u32()) + 1.0) / 4_294_967_297.0;
        let u2 = f64::from(self.next_u32()) / 4_294_967_296.0;
        ((-2.0 * u1.ln()).sqrt() * (2.0 * std::f64::consts::PI * u2).cos()) as f32
    }

    /// Uniform in 0..`bound` without modulo bias (Lemire); `bound` > 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let m = u64::from(self.next_u32()) * u64::from(bound);
            if m as u32 >= threshold {
                return (m >> 32) as u32;
            }
        }
    }
}

/// FNV-1a hash of a name: the counter position of a parameter's initial weights.
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_random123_known_answers() {
        // kat_vectors of Random123 1.14, philox4x32 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn sequences_are_independent_of_each_other() {
        let draw = |step, sample| {
            (0..8)
                .map(move |_| ())
                .fold(Rng::new(7, Stream::Crop, step, sample), |mut r, ()| {
                    r.next_u32();
                    r
                })
                .next_u32()
        };
        assert_eq!(draw(3, 4), draw(3, 4));
        assert_ne!(draw(3, 4), draw(4, 3));
    }

    #[test]
    fn normal_has_unit_moments() {
        let mut r = Rng::new(1, Stream::Noise, 0, 0);
        let x: Vec<f64> = (0..100_000).map(|_| f64::from(r.normal())).collect();
        let mean = x.iter().sum::<f64>() / 1e5;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.03, "{mean} {var}");
    }
}
