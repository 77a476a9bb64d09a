//! The headers by which a producer finds its own messages again and knows what they prove. Written by [`crate::kafka::sender`], read by [`crate::kafka::tail`].

/// The header that says whose message it is: `namespace/pipeline/producer`.
pub const PRODUCER: &str = "tapeline-producer";
/// The header of the tick, from 0.
pub const TICK: &str = "tapeline-tick";
/// The header of the highest tick up to which all were acknowledged when this one was sent; absent as long as there is none.
pub const ACKED: &str = "tapeline-acked";
/// The header of the id of the message's last trade.
pub const LAST_ID: &str = "tapeline-last-id";
/// The header of a hash of what a replay's tick consists of.
pub const CHECK: &str = "tapeline-check";
/// The header of an empty message that a producer writes into each partition when it starts; see [`crate::kafka::barrier`].
pub const START: &str = "tapeline-start";

/// What the headers of a message say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The tick.
    pub tick: u64,
    /// How many ticks, from the first on, were acknowledged without a gap when it was sent.
    pub acked: u64,
    /// The id of the message's last trade.
    pub last_id: i64,
    /// A hash of the tick's ids, times, symbols, volumes and prices, by which a replay sees that the topic holds another recording under its name.
    pub check: Option<u64>,
}

impl Mark {
    /// The headers' names and values, without the producer's.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![(TICK, self.tick.to_string())];
        headers.extend(self.acked.checked_sub(1).map(|acked| (ACKED, acked.to_string())));
        headers.push((LAST_ID, self.last_id.to_string()));
        headers.extend(self.check.map(|check| (CHECK, format!("{check:016x}"))));
        headers
    }

    /// What the headers of a message of `producer` say; nothing if it is somebody else's.
    #[must_use]
    pub fn read<'a>(producer: &str, headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<Self> {
        let (mut own, mut tick, mut acked, mut last_id, mut check) = (false, None, 0, 0, None);
        for (name, value) in headers {
            let Ok(value) = std::str::from_utf8(value) else { continue };
            match name {
                PRODUCER => own = value == producer,
                TICK => tick = value.parse().ok(),
                ACKED => acked = value.parse::<u64>().ok()?.checked_add(1)?,
                LAST_ID => last_id = value.parse().ok()?,
                CHECK => check = u64::from_str_radix(value, 16).ok(),
                _ => {}
            }
        }
        tick.filter(|_| own).map(|tick| Self { tick, acked, last_id, check })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Mark { tick: 0, acked: 0, last_id: 5, check: None })]
    #[case(Mark { tick: 7, acked: 1, last_id: 40, check: Some(0xAB) })]
    fn headers_are_read_back(#[case] mark: Mark) {
        let headers = mark.headers();
        let pairs = || headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        assert_eq!(Mark::read("a/b/c", pairs().chain([(PRODUCER, &b"a/b/c"[..])])), Some(mark));
        assert_eq!(Mark::read("a/b/c", pairs().chain([(PRODUCER, &b"a/b/d"[..])])), None);
        assert_eq!(Mark::read("a/b/c", pairs()), None);
    }
}
