//! How many batches are under way at once: as many as saturate a node, fewer as soon as the server cannot follow.

/// With fewer, one node was not saturated (measured: 20 rows a batch, 32 batches: 10 to 13 s for a million rows).
const START: usize = 32;
/// No more than this, however many nodes there are.
const LIMIT: usize = 256;

/// Grows by one batch for each round of acknowledgements, halves for each round that meets a server that is too slow.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    most: usize,
    acknowledged: usize,
    sent: u64,
    /// Batches sent before this one belong to the round for which it was halved already.
    halved_at: u64,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { size: START, most: START, acknowledged: 0, sent: 0, halved_at: 0 }
    }

    /// Each node brings room.
    pub(super) fn set_nodes(&mut self, nodes: usize) {
        self.most = (START * nodes).clamp(START, LIMIT);
        self.size = self.size.min(self.most);
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// A batch is sent. Returns its number.
    pub(super) const fn send(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    pub(super) const fn acknowledge(&mut self) {
        self.acknowledged += 1;
        if self.acknowledged >= self.size && self.size < self.most {
            self.size += 1;
            self.acknowledged = 0;
        }
    }

    /// The server was too slow for batch `number`.
    pub(super) fn too_slow(&mut self, number: u64) {
        if number > self.halved_at {
            self.size = (self.size / 2).max(1);
            self.halved_at = self.sent;
            self.acknowledged = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_is_too_slow_halves_it_once() {
        let mut window = Window::new();
        let round: Vec<u64> = (0..32).map(|_| window.send()).collect();
        for number in round {
            window.too_slow(number);
        }
        assert_eq!(window.size(), 16);
        let next = window.send();
        window.too_slow(next);
        assert_eq!(window.size(), 8);
    }

    #[test]
    fn it_never_closes_and_opens_again_slowly() {
        let mut window = Window::new();
        for _ in 0..10 {
            let number = window.send();
            window.too_slow(number);
        }
        assert_eq!(window.size(), 1);
        window.acknowledge();
        assert_eq!(window.size(), 2);
        window.acknowledge();
        assert_eq!(window.size(), 2);
        for _ in 0..1_000 {
            window.acknowledge();
        }
        assert_eq!(window.size(), START);
    }

    #[test]
    fn more_nodes_let_it_grow_further() {
        let mut window = Window::new();
        window.set_nodes(3);
        assert_eq!(window.size(), START);
        for _ in 0..10_000 {
            window.acknowledge();
        }
        assert_eq!(window.size(), 3 * START);
        window.set_nodes(1);
        assert_eq!(window.size(), START);
    }
}
