//! Are the states of the nodes the same after the same entry, and their events up to the same one?
//!
//! ```text
//!  every node: digest after a CHECKPOINT ─▶ leader: what do more than half of the voters say? who says otherwise?
//!              chain at its anchor       ─▶         └ and of the chain?
//!              it has found itself wrong ─▶         └─▶ DIVERGED, in the log ─▶ every node knows who is wrong
//! ```
//!
//! It finds what a node cannot find alone: a fault that was in memory before the snapshot which it compares with.
//! Without a majority of one opinion something is wrong and nobody knows where: DIVERGED names nobody.
//!
//! Whatever a node has to say it says again until it is in the log, so a leader may forget it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::Inner;
use crate::protocol::event::{Divergence, Finding};
use crate::protocol::{Reader, Truncated};
use crate::replication::core::Core;
use crate::replication::link::Link;
use crate::replication::peer_frame::Kind;

/// CHECKPOINTs whose digests are remembered: who is further behind is not judged.
pub(super) const CHECKPOINTS_MAX: usize = 4;
/// So often a leader is asked whether others agree; by then they have told theirs, or are gone.
const ASKED_MAX: u32 = 30;
/// In the place of a node: nobody knows which.
pub(super) const NOBODY: u64 = 0;

/// What the nodes have told a leader of one thing, by entry and node.
#[derive(Default)]
pub(super) struct Digests(BTreeMap<u64, BTreeMap<u64, u64>>);

/// What follows from a digest.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Judgement {
    /// Who has what a majority of the voters has.
    pub right: BTreeSet<u64>,
    /// Who is wrong, and after which entry.
    pub wrong: Vec<(u64, u64)>,
}

impl Digests {
    /// Takes what a node has after an entry.
    pub fn take(
        &mut self,
        node: u64,
        (index, digest): (u64, u64),
        voters: &BTreeSet<u64>,
    ) -> Judgement {
        self.0.entry(index).or_default().insert(node, digest);
        let mut judgement = self.judge(index, voters);
        if self.0.len() > CHECKPOINTS_MAX
            && let Some((index, told)) = self.0.pop_first()
            && 2 * told.keys().filter(|node| voters.contains(node)).count() > voters.len()
            && majority(&told, voters).is_none()
            && are_different(&told)
        {
            judgement.wrong.push((NOBODY, index));
        }
        judgement
    }

    fn judge(&self, index: u64, voters: &BTreeSet<u64>) -> Judgement {
        let Some(told) = self.0.get(&index) else { return Judgement::default() };
        let Some(right) = majority(told, voters) else {
            let is_all = voters.iter().all(|voter| told.contains_key(voter));
            let wrong = if is_all { vec![(NOBODY, index)] } else { Vec::new() };
            return Judgement { wrong, ..Judgement::default() };
        };
        let is_right = |node: &u64| told.get(node) == Some(&right);
        let (right, wrong): (Vec<_>, Vec<_>) = told.keys().copied().partition(is_right);
        let wrong = wrong.into_iter().map(|node| (node, index)).collect();
        Judgement { right: right.into_iter().collect(), wrong }
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
    digest: Option<Told>,
    /// Until they are in the log.
    alarms: Vec<Divergence>,
}

/// A node's state after an entry.
#[derive(Clone, Copy)]
struct Told {
    index: u64,
    digest: u64,
    chain: Option<u64>,
    next_event: u64,
    asked: u32,
}

impl Words {
    pub fn is_empty(&self) -> bool {
        self.digest.is_none() && self.alarms.is_empty()
    }

    pub fn has_alarm(&self) -> bool {
        !self.alarms.is_empty()
    }

    pub fn digest(&mut self, (index, digest): (u64, u64), chain: Option<u64>, next_event: u64) {
        self.digest = Some(Told { index, digest, chain, next_event, asked: 0 });
    }

    /// The state that it was of is another's by now.
    pub fn forget_digest(&mut self) {
        self.digest = None;
    }

    pub fn alarm(&mut self, divergence: Divergence) {
        self.alarms.push(divergence);
    }

    /// It is in the log.
    pub fn is_told(&mut self, divergence: &Divergence) {
        self.alarms.retain(|alarm| alarm != divergence);
    }
}

/// Tells the leader, which may be this node, what there is to tell.
pub(super) async fn tell(core: &Core) {
    let reconciler = &core.shared.reconciler;
    let (alarms, told) = {
        let words = &reconciler.lock().words;
        (words.alarms.clone(), words.digest)
    };
    for divergence in alarms {
        // What did not arrive is said again.
        say(core, Statement::Alarm(divergence)).await;
    }
    let Some(Told { index, digest, chain, next_event, asked }) = told else { return };
    let is_right = say(core, Statement::Digest { index, digest, chain }).await;
    let mut inner = reconciler.lock();
    if is_right {
        inner.status.agreed_index = inner.status.agreed_index.max(index);
        inner.agreed_until = inner.agreed_until.max(next_event);
        inner.settle(Finding::Replica, index, &BTreeSet::from([core.me()]));
    }
    if let Some(told) = inner.words.digest.as_mut().filter(|told| told.index == index) {
        told.asked = asked + 1;
        if is_right || asked >= ASKED_MAX {
            inner.words.digest = None;
        }
    }
}

/// One thing that a node tells.
///
/// ```text
/// 0 · index u64 · digest u64 · chain u64       its state after an entry, a CHECKPOINT, and 8 bytes of the chain of its
///                                              events at the place that this tells of (0: it has none, or not whole)
/// 1 · divergence 21                            it has found itself wrong
/// ```
///
/// The answer is a byte: 1, a majority has the same state; 0, not so, or not known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::replication) enum Statement {
    Digest { index: u64, digest: u64, chain: Option<u64> },
    Alarm(Divergence),
}

impl Statement {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Digest { index, digest, chain } => {
                out.put_u8(0);
                out.put_u64_le(*index);
                out.put_u64_le(*digest);
                out.put_u64_le(chain.unwrap_or(0));
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
            0 => {
                let (index, digest, chain) = (reader.u64()?, reader.u64()?, reader.u64()?);
                Some(Self::Digest { index, digest, chain: Some(chain).filter(|chain| *chain != 0) })
            }
            1 => Divergence::take(&mut reader)?.map(Self::Alarm),
            _ => None,
        })
    }
}

/// `true`: whoever leads says that a majority has the same.
async fn say(core: &Core, statement: Statement) -> bool {
    if core.is_leader() {
        return hear(core, core.me(), statement);
    }
    let Some(leader) = core.leadership().leader.clone() else { return false };
    let mut link = Link::new(core.links(), leader.id, leader.peer_address);
    let limit = core.timing().admin_timeout;
    let answer = link.call_within(Kind::Compared, core.shard, statement.encode(), limit).await;
    answer.is_ok_and(|answer| answer.first() == Some(&1))
}

/// What a node tells this one, which leads. `true`: a majority has the same.
pub(in crate::replication) fn hear(core: &Core, node: u64, statement: Statement) -> bool {
    let members = core.members();
    if members.get_node(&node).is_none() {
        return false;
    }
    let voters: BTreeSet<u64> = members.voter_ids().collect();
    let mut inner = core.shared.reconciler.lock();
    let (found, is_right) = match statement {
        Statement::Digest { index, digest, chain } if inner.checkpoints.contains(&index) => {
            let states = inner.digests.take(node, (index, digest), &voters);
            let is_right = states.right.contains(&node);
            let mut found = inner.follow(Finding::Replica, index, states);
            if let Some(chain) = chain {
                let chains = inner.chains.take(node, (index, chain), &voters);
                found.extend(inner.follow(Finding::Chain, index, chains));
            }
            (found, is_right)
        }
        // This node has not applied the CHECKPOINT yet, or forgotten it.
        Statement::Digest { .. } => (Vec::new(), false),
        Statement::Alarm(divergence) => {
            let divergence = Divergence { node, ..divergence };
            let known = inner.named.get(&(node, divergence.finding));
            let is_new = known.is_none_or(|known| known.index < divergence.index);
            (is_new.then_some(divergence).into_iter().collect::<Vec<_>>(), false)
        }
    };
    drop(inner);
    found.into_iter().for_each(|divergence| core.alarm(divergence));
    is_right
}

impl Inner {
    /// What is to be told after a judgement.
    fn follow(&mut self, finding: Finding, index: u64, judgement: Judgement) -> Vec<Divergence> {
        self.settle(finding, index, &judgement.right);
        let found = judgement.wrong.into_iter();
        let found = found.map(|(node, index)| Divergence { node, index, finding, cell: None });
        found.filter(|found| !self.is_named(found)).collect()
    }

    /// These nodes were right after an entry. What was found of that before it is over: of their states, or their events.
    fn settle(&mut self, finding: Finding, index: u64, right: &BTreeSet<u64>) {
        let is_over = |node: u64| right.contains(&node) || node == NOBODY && !right.is_empty();
        let is_of = |named: Finding| (named == Finding::Chain) == (finding == Finding::Chain);
        self.named
            .retain(|(node, of), named| !is_of(*of) || !is_over(*node) || named.index >= index);
    }

    /// The log tells it already. What it told of an earlier entry was perhaps of another state: a node that was started
    /// since does not take it for its own; and of events it is told again as long as it is so.
    fn is_named(&self, found: &Divergence) -> bool {
        let named = self.named.get(&(found.node, found.finding));
        let is_lasting = found.node == NOBODY && found.finding != Finding::Chain;
        named.is_some_and(|named| is_lasting || named.index >= found.index)
    }

    /// A CHECKPOINT has come. Events of which nothing was told at the latest ones are the others' again; only who leads
    /// hears that.
    pub(super) fn forget_chains(&mut self) {
        let Some(oldest) = self.checkpoints.front().copied() else { return };
        self.named.retain(|(_, of), named| *of != Finding::Chain || named.index >= oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> BTreeSet<u64> {
        BTreeSet::from([1, 2, 3])
    }

    /// What follows from the last of these digests after entry 10.
    fn last(told: &[(u64, u64)], voters: &BTreeSet<u64>) -> Judgement {
        let mut digests = Digests::default();
        let judgements =
            told.iter().map(|(node, digest)| digests.take(*node, (10, *digest), voters));
        judgements.last().unwrap_or_default()
    }

    #[test]
    fn who_is_not_of_the_majoritys_opinion_is_wrong() {
        assert_eq!(last(&[(1, 7)], &three()), Judgement::default());
        assert_eq!(last(&[(1, 7), (2, 8)], &three()), Judgement::default(), "one of them is wrong");
        let found = last(&[(1, 7), (2, 8), (3, 7)], &three());
        assert_eq!(found, Judgement { right: [1, 3].into(), wrong: vec![(2, 10)] });
        // The first that told may be the one.
        let found = last(&[(1, 8), (2, 7), (3, 7)], &three());
        assert_eq!(found, Judgement { right: [2, 3].into(), wrong: vec![(1, 10)] });
        let found = last(&[(1, 7), (2, 7)], &three());
        assert_eq!(found, Judgement { right: [1, 2].into(), wrong: Vec::new() });
    }

    #[test]
    fn without_a_majority_of_one_opinion_nobody_is_named() {
        let nobody = Judgement { wrong: vec![(NOBODY, 10)], ..Judgement::default() };
        assert_eq!(last(&[(1, 1), (2, 2), (3, 3)], &three()), nobody);
        assert_eq!(last(&[(1, 1), (2, 2)], &[1, 2].into()), nobody);
    }

    #[test]
    fn what_is_never_settled_is_told_when_it_is_forgotten() {
        let mut digests = Digests::default();
        digests.take(1, (10, 1), &three());
        digests.take(2, (10, 2), &three());
        for index in 11..10 + CHECKPOINTS_MAX as u64 {
            assert_eq!(digests.take(1, (index, 1), &three()), Judgement::default());
        }
        assert_eq!(digests.take(1, (100, 1), &three()).wrong, [(NOBODY, 10)]);
        assert_eq!(digests.0.len(), CHECKPOINTS_MAX);
    }

    #[test]
    fn a_learner_is_judged_and_does_not_judge() {
        let found = last(&[(1, 1), (4, 2), (5, 2)], &three());
        assert_eq!(found, Judgement::default());
        let found = last(&[(1, 1), (4, 2), (5, 2), (2, 1)], &three());
        assert_eq!(found, Judgement { right: [1, 2].into(), wrong: vec![(4, 10), (5, 10)] });
    }

    #[test]
    fn a_finding_is_over_when_the_node_is_right_later() {
        let mut inner = Inner::default();
        for (node, finding) in [
            (2, Finding::Replica),
            (2, Finding::Replay),
            (2, Finding::Chain),
            (NOBODY, Finding::Replica),
        ] {
            let named = Divergence { node, index: 20, finding, cell: None };
            inner.named.insert((node, finding), named);
        }
        inner.settle(Finding::Replica, 10, &[1, 2, 3].into());
        assert_eq!(inner.named.len(), 4, "that was before");
        inner.settle(Finding::Replica, 30, &[1, 3].into());
        assert_eq!(inner.named.len(), 3, "the others agree, and 2 has not told");
        inner.settle(Finding::Replica, 30, &[1, 2, 3].into());
        assert_eq!(inner.named.len(), 1, "its events are others' all the same");
        inner.settle(Finding::Chain, 30, &[1, 2, 3].into());
        assert!(inner.named.is_empty());
    }

    #[test]
    fn statements_come_back_and_those_of_another_version_are_none() {
        let divergence = Divergence { node: 2, index: 3, finding: Finding::Chain, cell: None };
        let digest = |chain| Statement::Digest { index: 7, digest: 8, chain };
        for statement in [digest(None), digest(Some(9)), Statement::Alarm(divergence)] {
            let bytes = statement.encode();
            assert_eq!(Statement::decode(&bytes), Ok(Some(statement)));
            assert!(Statement::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        assert_eq!(Statement::decode(&[2]), Ok(None));
        assert!(Statement::decode(&[]).is_err());
    }
}
