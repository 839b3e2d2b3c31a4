//! Are the states of the nodes the same after the same entry?
//!
//! ```text
//!  every node: digest after a CHECKPOINT ─▶ leader: what do more than half of the voters say? ─▶ who says otherwise
//!              its judgement           ◀──                                                       DIVERGED, by name
//! ```
//!
//! It finds what a node cannot find alone: a fault that was in memory before the snapshot which it compares with.
//! Without a majority of one opinion something is wrong and nobody knows where: DIVERGED names nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::event::{Divergence, Finding};
use crate::protocol::{Reader, Truncated};
use crate::replication::core::Core;
use crate::replication::link::Link;
use crate::replication::peer_frame::Kind;

/// CHECKPOINTs whose digests a leader remembers: who is further behind is not judged.
const INDEXES_MAX: usize = 4;
/// A leader is asked so many times for its judgement; by then the others have told theirs, or are gone.
const ASKED_MAX: u32 = 30;
/// In the place of a node: nobody knows which.
const NOBODY: u64 = 0;

/// What a leader thinks of a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(in crate::replication) enum Judgement {
    /// Not enough nodes have told theirs.
    Open = 0,
    /// More than half of the voters have the same.
    Same = 1,
    /// More than half of the voters have another.
    Other = 2,
}

/// What the nodes have told a leader.
#[derive(Default)]
pub(super) struct Digests {
    /// By entry and node.
    told: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Who was found wrong, and how, until it agrees again.
    named: BTreeSet<(u64, Finding)>,
}

impl Digests {
    /// Takes what a node has after an entry; gives who is to be named because of it.
    pub fn take(
        &mut self,
        node: u64,
        (index, digest): (u64, u64),
        voters: &BTreeSet<u64>,
    ) -> Vec<Divergence> {
        self.told.entry(index).or_default().insert(node, digest);
        let mut nodes = self.judge_all(index, voters);
        if self.told.len() > INDEXES_MAX
            && let Some((_, told)) = self.told.pop_first()
            && majority(&told, voters).is_none()
            && are_different(&told)
        {
            nodes.push(NOBODY);
        }
        let finding = Finding::Replica;
        nodes.retain(|node| self.named.insert((*node, finding)));
        nodes.into_iter().map(|node| Divergence { node, index, finding, cell: None }).collect()
    }

    /// Who is wrong, as far as the nodes have told.
    fn judge_all(&mut self, index: u64, voters: &BTreeSet<u64>) -> Vec<u64> {
        let Some(told) = self.told.get(&index) else { return Vec::new() };
        let Some(right) = majority(told, voters) else {
            let is_all = voters.iter().all(|voter| told.contains_key(voter));
            return if is_all { vec![NOBODY] } else { Vec::new() };
        };
        let (same, other): (Vec<_>, Vec<_>) = told.iter().partition(|(_, told)| **told == right);
        let is_same = |node: u64| same.iter().any(|(same, _)| **same == node);
        self.named.retain(|(node, _)| *node != NOBODY && !is_same(*node));
        other.into_iter().map(|(node, _)| *node).collect()
    }

    /// What becomes of a digest.
    pub fn judge(&self, (index, digest): (u64, u64), voters: &BTreeSet<u64>) -> Judgement {
        match self.told.get(&index).and_then(|told| majority(told, voters)) {
            None => Judgement::Open,
            Some(right) if right == digest => Judgement::Same,
            Some(_) => Judgement::Other,
        }
    }

    /// A node has found itself wrong: `true` the first time.
    pub fn name(&mut self, divergence: &Divergence) -> bool {
        self.named.insert((divergence.node, divergence.finding))
    }

    /// The node was found wrong, and has not agreed since.
    pub fn is_named(&self, node: u64) -> bool {
        self.named.iter().any(|(named, _)| *named == node)
    }
}

/// What more than half of the voters say.
fn majority(told: &BTreeMap<u64, u64>, voters: &BTreeSet<u64>) -> Option<u64> {
    let mut votes = BTreeMap::<u64, usize>::new();
    for (_, digest) in told.iter().filter(|(node, _)| voters.contains(node)) {
        *votes.entry(*digest).or_default() += 1;
    }
    votes.into_iter().find(|(_, votes)| 2 * votes > voters.len()).map(|(digest, _)| digest)
}

fn are_different(told: &BTreeMap<u64, u64>) -> bool {
    let first = told.values().next();
    told.values().any(|digest| Some(digest) != first)
}

/// What a node has to tell whoever leads.
#[derive(Default)]
pub(super) struct Words {
    /// Its state after an entry, and how often the leader was asked what it thinks.
    digest: Option<(u64, u64, u32)>,
    alarms: Vec<Divergence>,
}

impl Words {
    pub fn is_empty(&self) -> bool {
        self.digest.is_none() && self.alarms.is_empty()
    }

    pub fn has_alarm(&self) -> bool {
        !self.alarms.is_empty()
    }

    pub fn digest(&mut self, index: u64, digest: u64) {
        self.digest = Some((index, digest, 0));
    }

    pub fn alarm(&mut self, divergence: Divergence) {
        self.alarms.push(divergence);
    }
}

/// Tells the leader, which may be this node; what remains is tried again. Gives the leader's judgement, if there is
/// one.
pub(super) async fn tell(core: &Core, words: &mut Words) -> Option<(u64, Judgement)> {
    while let Some(divergence) = words.alarms.last() {
        if say(core, Word::Alarm(*divergence)).await.is_none() {
            break;
        }
        words.alarms.pop();
    }
    let (index, digest, asked) = words.digest?;
    let judgement = say(core, Word::Digest(index, digest)).await.unwrap_or(Judgement::Open);
    words.digest = match judgement {
        Judgement::Open if asked < ASKED_MAX => Some((index, digest, asked + 1)),
        _ => None,
    };
    Some((index, judgement))
}

/// One thing that a node tells.
///
/// ```text
/// 0 · index u64 · digest u64       its state after an entry
/// 1 · divergence 21                it has found itself wrong
/// ```
///
/// The answer is the judgement, u8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replication) enum Word {
    Digest(u64, u64),
    Alarm(Divergence),
}

impl Word {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Digest(index, digest) => {
                out.put_u8(0);
                out.put_u64_le(*index);
                out.put_u64_le(*digest);
            }
            Self::Alarm(divergence) => {
                out.put_u8(1);
                divergence.encode(&mut out);
            }
        }
        out.freeze()
    }

    /// # Errors
    /// The bytes end inside it. `None`: nothing that this version knows.
    pub fn decode(body: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut reader = Reader::new(body);
        Ok(match reader.u8()? {
            0 => Some(Self::Digest(reader.u64()?, reader.u64()?)),
            1 => Divergence::take(&mut reader)?.map(Self::Alarm),
            _ => None,
        })
    }
}

/// `None`: nobody leads, or it did not answer.
async fn say(core: &Core, word: Word) -> Option<Judgement> {
    if core.is_leader() {
        return Some(hear(core, core.me(), word));
    }
    let leader = core.leadership().leader.clone()?;
    let mut link = Link::new(core.links(), leader.id, leader.peer_address);
    let limit: Duration = core.timing().admin_timeout;
    let answer = link.call_within(Kind::Compared, core.shard, word.encode(), limit).await.ok()?;
    match Reader::new(&answer).u8() {
        Ok(1) => Some(Judgement::Same),
        Ok(2) => Some(Judgement::Other),
        _ => Some(Judgement::Open),
    }
}

/// What a node tells this one, which leads.
pub(in crate::replication) fn hear(core: &Core, node: u64, word: Word) -> Judgement {
    let voters: BTreeSet<u64> = core.members().voter_ids().collect();
    let reconciler = &core.shared.reconciler;
    let mut inner = reconciler.lock();
    let (found, judgement) = match word {
        Word::Digest(index, digest) => {
            let found = inner.digests.take(node, (index, digest), &voters);
            (found, inner.digests.judge((index, digest), &voters))
        }
        Word::Alarm(divergence) => {
            let divergence = Divergence { node, ..divergence };
            let is_new = inner.digests.name(&divergence);
            (is_new.then_some(divergence).into_iter().collect(), Judgement::Open)
        }
    };
    drop(inner);
    for divergence in found {
        let Divergence { node, index, finding, .. } = divergence;
        match (node, finding) {
            (NOBODY, _) => core.note(format_args!(
                "ALARM: the nodes' states after entry {index} are not the same, and no majority agrees on one"
            )),
            (_, Finding::Replica) => core.note(format_args!(
                "ALARM: the state of node {node} after entry {index} is not the one that a majority has"
            )),
            _ => core.note(format_args!(
                "ALARM: node {node} has found its state or its events wrong after entry {index}; see `reconcile` there"
            )),
        }
        core.alarm(divergence);
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> BTreeSet<u64> {
        BTreeSet::from([1, 2, 3])
    }

    fn nodes(found: &[Divergence]) -> Vec<u64> {
        found.iter().map(|divergence| divergence.node).collect()
    }

    #[test]
    fn who_is_not_of_the_majoritys_opinion_is_named_once_and_again_after_it_agreed() {
        let mut digests = Digests::default();
        assert_eq!(digests.take(1, (10, 7), &three()), []);
        assert_eq!(digests.judge((10, 7), &three()), Judgement::Open);
        assert_eq!(digests.take(2, (10, 8), &three()), [], "one of the two is wrong");
        assert_eq!(nodes(&digests.take(3, (10, 7), &three())), [2]);
        assert_eq!(digests.judge((10, 8), &three()), Judgement::Other);
        assert_eq!(digests.judge((10, 7), &three()), Judgement::Same);
        assert!(digests.is_named(2) && !digests.is_named(1));
        for (node, digest) in [(2, 9), (1, 5), (3, 5)] {
            assert_eq!(digests.take(node, (20, digest), &three()), [], "it is known");
        }
        for node in 1..=3 {
            assert_eq!(digests.take(node, (30, 5), &three()), []);
        }
        assert!(!digests.is_named(2));
        for (node, digest, named) in [(1, 5, vec![]), (3, 5, vec![]), (2, 9, vec![2])] {
            assert_eq!(nodes(&digests.take(node, (40, digest), &three())), named);
        }
    }

    #[test]
    fn a_leader_can_be_the_one_that_is_wrong() {
        let mut digests = Digests::default();
        digests.take(1, (10, 8), &three());
        digests.take(2, (10, 7), &three());
        assert_eq!(nodes(&digests.take(3, (10, 7), &three())), [1]);
    }

    #[test]
    fn without_a_majority_of_one_opinion_nobody_is_named() {
        let mut digests = Digests::default();
        digests.take(1, (10, 1), &three());
        digests.take(2, (10, 2), &three());
        assert_eq!(nodes(&digests.take(3, (10, 3), &three())), [NOBODY]);
        let two = BTreeSet::from([1, 2]);
        let mut digests = Digests::default();
        digests.take(1, (10, 1), &two);
        assert_eq!(nodes(&digests.take(2, (10, 2), &two)), [NOBODY]);
        assert_eq!(digests.judge((10, 2), &two), Judgement::Open);
    }

    #[test]
    fn what_is_never_settled_is_told_when_it_is_forgotten() {
        let mut digests = Digests::default();
        digests.take(1, (10, 1), &three());
        digests.take(2, (10, 2), &three());
        for index in 11..10 + INDEXES_MAX as u64 {
            assert_eq!(digests.take(1, (index, 1), &three()), []);
        }
        assert_eq!(nodes(&digests.take(1, (100, 1), &three())), [NOBODY]);
        assert_eq!(digests.told.len(), INDEXES_MAX);
    }

    #[test]
    fn a_learner_is_judged_and_does_not_judge() {
        let mut digests = Digests::default();
        digests.take(1, (10, 1), &three());
        assert_eq!(digests.take(4, (10, 2), &three()), []);
        assert_eq!(digests.take(5, (10, 2), &three()), []);
        assert_eq!(nodes(&digests.take(2, (10, 1), &three())), [4, 5]);
    }

    #[test]
    fn words_come_back_and_those_of_another_version_are_none() {
        let divergence = Divergence { node: 2, index: 3, finding: Finding::Chain, cell: None };
        for word in [Word::Digest(7, 8), Word::Alarm(divergence)] {
            let bytes = word.encode();
            assert_eq!(Word::decode(&bytes), Ok(Some(word)));
            assert!(Word::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        assert_eq!(Word::decode(&[2]), Ok(None));
        assert!(Word::decode(&[]).is_err());
    }
}
