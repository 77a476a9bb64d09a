//! Noise that is the same for ever: a replay's tick must be the same bytes after an update of this program, so the numbers come from a rule that is written down
//! here (SplitMix64 behind an FNV-1a hash of the key) and not from a library that may change its own.

/// A sequence of numbers that its key alone decides.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// The sequence of `key`. The parts are kept apart: `["ab", "c"]` and `["a", "bc"]` are different keys.
    #[must_use]
    pub fn of(key: &[&[u8]]) -> Self {
        let mut hash = Fnv::default();
        for part in key {
            hash.add(&(part.len() as u64).to_le_bytes());
            hash.add(part);
        }
        Self(hash.get())
    }

    /// The next number (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        // The upper half of a 64-bit product is below `bound`, so the conversion cannot fail.
        u32::try_from((u64::from(self.half()) * u64::from(bound)) >> 32).unwrap_or(0)
    }

    /// The next number from 0 up to, but without 1.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.half()) / 4_294_967_296.0
    }

    /// The next number of a bell curve around 0 with a standard deviation of 1: a sum of twelve even ones, since `ln` and `cos` differ between platforms.
    pub fn bell(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    fn half(&mut self) -> u32 {
        u32::try_from(self.draw() >> 32).unwrap_or(0)
    }
}

/// The hash FNV-1a with 64 bits: short, and the same everywhere.
#[derive(Debug, Clone, Copy)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Fnv {
    /// Takes further bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    /// The hash of what was taken.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_never_change() {
        // A change of these breaks replays that are half done when the program is updated.
        let mut noise = Noise::of(&[b"AAPL", b"2000-03-01"]);
        assert_eq!([noise.draw(), noise.draw()], [8_449_484_664_090_602_318, 6_510_686_657_628_619_466]);
        let mut reference = Noise(1_234_567);
        assert_eq!(reference.draw(), 6_457_827_717_110_365_317, "the published first value of SplitMix64 for the seed 1234567");
    }

    #[test]
    fn numbers_stay_in_their_range_and_spread() {
        let mut noise = Noise::of(&[b"x"]);
        let (mut low, mut high, mut sum) = (u32::MAX, 0, 0.0);
        for _ in 0..10_000 {
            let number = noise.below(100);
            low = low.min(number);
            high = high.max(number);
            sum += noise.bell();
        }
        assert_eq!((low, high), (0, 99));
        assert!(sum.abs() < 400.0, "{sum}");
        assert_eq!(noise.below(0), 0);
    }

    #[test]
    fn the_parts_of_a_key_are_kept_apart() {
        assert_ne!(Noise::of(&[b"ab", b"c"]).draw(), Noise::of(&[b"a", b"bc"]).draw());
    }
}
