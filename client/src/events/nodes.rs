//! Which node to follow next: decisions only.
//!
//! Invariants:
//! - Each node has its turn: after one comes the next, and after the last the first.
//! - What a node said stays until a node sends events that come next: then all that was said is about another place.

use std::time::Duration;

use super::error::Trouble;

/// Most node addresses remembered, as for requests.
const KNOWN_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Nodes {
    known: Vec<(String, Option<Trouble>)>,
    /// Whose turn is next.
    turn: usize,
    /// Turns in a row that came to nothing.
    failed: usize,
}

impl Nodes {
    pub(super) fn new(addresses: &[String]) -> Self {
        let mut nodes = Self { known: Vec::new(), turn: 0, failed: 0 };
        for address in addresses {
            nodes.learn(address);
        }
        nodes
    }

    /// There is a node at `address`, too.
    pub(super) fn learn(&mut self, address: &str) {
        let is_new = self.known.iter().all(|(known, _)| known != address);
        if is_new && self.known.len() < KNOWN_MAX {
            self.known.push((address.to_owned(), None));
        }
    }

    /// Whom to follow now; `None`: nobody is known.
    pub(super) fn next(&mut self) -> Option<String> {
        let at = self.turn % self.known.len().max(1);
        let (address, _) = self.known.get(at)?;
        // Behind the last one: whoever is learned of until then is next.
        self.turn = at + 1;
        Some(address.clone())
    }

    /// Nothing came of the turn of `address`. True: all have had theirs, so that it is time for a pause.
    pub(super) fn fail(&mut self, address: &str, trouble: Trouble) -> bool {
        if let Some((_, last)) = self.known.iter_mut().find(|(known, _)| known == address) {
            *last = Some(trouble);
        }
        self.failed += 1;
        self.failed.is_multiple_of(self.known.len().max(1))
    }

    /// A node has sent what comes next.
    pub(super) fn succeed(&mut self) {
        self.failed = 0;
        self.known.iter_mut().for_each(|(_, trouble)| *trouble = None);
    }

    /// Turns have come to nothing since a node has sent what comes next.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Every node has said that asking it again is of no use.
    pub(super) fn all_final(&self) -> bool {
        let is_final = |trouble: &Option<Trouble>| trouble.as_ref().is_some_and(Trouble::is_final);
        self.known.iter().all(|(_, trouble)| is_final(trouble))
    }

    /// What was last wrong with each.
    pub(super) fn troubles(&self) -> impl Iterator<Item = (&str, &Trouble)> {
        let known = self.known.iter();
        known.filter_map(|(address, trouble)| Some((address.as_str(), trouble.as_ref()?)))
    }

    /// The first event that any node has of those that say that events are missing.
    pub(super) fn next_there(&self) -> Option<u64> {
        let next = |(_, trouble): (&str, &Trouble)| match trouble {
            Trouble::Gone { next, .. } => *next,
            _ => None,
        };
        self.troubles().filter_map(next).min()
    }

    /// The longest that a busy node would have for itself.
    pub(super) fn retry_after(&self) -> Duration {
        let after = |(_, trouble): (&str, &Trouble)| match trouble {
            Trouble::Busy { retry_after } => *retry_after,
            _ => Duration::ZERO,
        };
        self.troubles().map(after).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_before_a_pause() {
        let mut nodes = Nodes::new(&["a".into(), "b".into(), "a".into()]);
        assert_eq!(nodes.next().as_deref(), Some("a"));
        assert!(!nodes.fail("a", Trouble::Silent));
        assert_eq!(nodes.next().as_deref(), Some("b"));
        assert!(nodes.fail("b", Trouble::NoEvents));
        assert_eq!(nodes.next().as_deref(), Some("a"));
        nodes.succeed();
        assert_eq!(nodes.troubles().count(), 0);
        assert!(!nodes.fail("a", Trouble::Silent), "the round begins anew");
        assert_eq!(nodes.next().as_deref(), Some("b"));
        nodes.learn("c");
        assert_eq!(nodes.next().as_deref(), Some("c"));
        assert_eq!(Nodes::new(&[]).next(), None);
    }

    #[test]
    fn one_node_that_may_yet_answer_is_hope() {
        let mut nodes = Nodes::new(&["a".into(), "b".into()]);
        nodes.fail("a", Trouble::Gone { message: String::new(), next: Some(7) });
        assert!(!nodes.all_final(), "b was not asked");
        nodes.fail("b", Trouble::Lost { message: String::new() });
        assert!(!nodes.all_final(), "b has not said so");
        nodes.learn("c");
        nodes.fail("b", Trouble::NoEvents);
        assert!(!nodes.all_final(), "c was not asked");
        nodes.fail("c", Trouble::NoEvents);
        assert!(nodes.all_final());
        assert_eq!(nodes.next_there(), Some(7));
        nodes.succeed();
        assert!(!nodes.all_final());
    }

    #[test]
    fn learned_addresses_are_bounded() {
        let mut nodes = Nodes::new(&[]);
        (0..1000).for_each(|n| nodes.learn(&format!("node-{n}")));
        assert_eq!(nodes.known.len(), KNOWN_MAX);
    }
}
