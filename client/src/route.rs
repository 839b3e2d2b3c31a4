//! Which node to ask: decisions only, no sockets.
//!
//! Invariants:
//! - `known` starts with the caller's addresses, grows by what servers name as leader, holds each
//!   address once and at most [`KNOWN_MAX`].
//! - A candidate list starts with the presumed leader and then holds every other known node once,
//!   from a different one each time, so that one dead host cannot take every caller's whole time.

/// Most node addresses remembered: far more than a Raft group has voters, and few enough that a
/// server that lies about leaders costs nothing.
const KNOWN_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Route {
    known: Vec<String>,
    leader: Option<String>,
    next: usize,
}

impl Route {
    pub(crate) fn new(addresses: &[String]) -> Self {
        let mut route = Self { known: Vec::new(), leader: None, next: 0 };
        for address in addresses {
            route.learn(address);
        }
        route
    }

    /// A server named `address` as leader, or knows none.
    pub(crate) fn set_leader(&mut self, address: Option<&str>) {
        self.leader = address.map(str::to_owned);
        if let Some(address) = address {
            self.learn(address);
        }
    }

    /// `address` broke or did not answer: whoever leads, presume it is another.
    pub(crate) fn doubt(&mut self, address: &str) {
        if self.leader.as_deref() == Some(address) {
            self.leader = None;
        }
    }

    /// There is another node to try.
    pub(crate) fn knows_several(&self) -> bool {
        self.known.len() > 1
    }

    /// Whom to try, in this order.
    pub(crate) fn candidates(&mut self) -> Vec<String> {
        let count = self.known.len();
        let start = self.next;
        self.next = (self.next + 1) % count.max(1);
        let others = (0..count).map(|i| &self.known[(start + i) % count]);
        let others = others.filter(|address| self.leader.as_ref() != Some(*address));
        self.leader.iter().chain(others).cloned().collect()
    }

    fn learn(&mut self, address: &str) {
        if self.known.len() < KNOWN_MAX && self.known.iter().all(|known| known != address) {
            self.known.push(address.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_comes_first_and_the_rest_takes_turns() {
        let mut route = Route::new(&["a".into(), "b".into(), "a".into()]);
        assert_eq!(route.candidates(), ["a", "b"]);
        assert_eq!(route.candidates(), ["b", "a"]);
        route.set_leader(Some("c"));
        assert_eq!(route.candidates(), ["c", "a", "b"]);
        assert_eq!(route.candidates(), ["c", "b", "a"]);
        route.doubt("b");
        assert_eq!(route.candidates(), ["c", "a", "b"], "another node's trouble says nothing");
        route.doubt("c");
        assert_eq!(route.candidates().len(), 3, "a learned address stays known");
    }

    #[test]
    fn learned_addresses_are_bounded() {
        let mut route = Route::new(&[]);
        assert!(route.candidates().is_empty());
        for i in 0..1000 {
            route.set_leader(Some(&format!("node-{i}")));
        }
        assert_eq!(route.known.len(), KNOWN_MAX);
        assert_eq!(route.candidates()[0], "node-999");
    }
}
