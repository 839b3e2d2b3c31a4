//! Evidence verifies, and nothing else does.

use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};
use stockd::audit::Finding;
use stockd::audit::evidence::{Fault, Head, Proof, verify, write};
use stockd::protocol::Reader;
use stockd::protocol::event::EventRecord;

use super::forge::{ID_AT, changed};
use super::node::life;
use super::{Files, disk_of, first_of, records, segments, snapshot};

/// Evidence of a range, and what it says of itself.
fn taken(files: &Files, range: RangeInclusive<u64>) -> Result<(Vec<u8>, Head), Finding> {
    let mut out = Vec::new();
    let head = write(&disk_of(files), range, &mut out, &mut |_, _, _| ())?;
    Ok((out, head))
}

fn verified(evidence: &[u8]) -> Result<Proof, Fault> {
    verify(&mut &*evidence, &mut |_| ())
}

#[test]
fn every_range_is_widened_to_whole_records_and_verifies() {
    let all = records(&life().files);
    for (at, record) in all.iter().enumerate().step_by(9) {
        let from = first_of(record);
        let to = all.get(at + 5).map_or(from, |record| first_of(record));
        let (evidence, head) = taken(&life().files, from..=to).unwrap();
        let proof = verified(&evidence).unwrap();
        assert_eq!(proof.head, head);
        assert_eq!((head.from, head.to, head.before.next), (from, to, from));
        assert!(head.after.next > to && head.named >= 1);
        assert_eq!(proof.events, head.after.next - head.before.next);
        assert!(evidence.windows(record.len()).any(|bytes| bytes == record), "as they lie");
    }
    let (_, wide) = taken(&life().files, 2..=2).unwrap();
    assert_eq!(wide.before.next, 1, "a cell is defined by the entry that receives its first units");
}

#[test]
fn names_come_from_the_snapshot_or_from_the_events() {
    let all = records(&life().files);
    let last = first_of(&all[all.len() - 1]);
    let names = |evidence: &[u8]| {
        [b"\x03BER\x03mug", b"\x03BER\x03cup", b"\x03HAM\x03mug"]
            .map(|name| evidence.windows(8).any(|bytes| bytes == name))
    };
    let (evidence, head) = taken(&life().files, 1..=last).unwrap();
    assert_eq!((head.named, names(&evidence)), (3, [true; 3]));
    assert_eq!(verified(&evidence).unwrap().defined, 3);
    // Without a snapshot, as the first events are here.
    let mut files = life().files.clone();
    files.remove(&snapshot(&life().files));
    assert_eq!(taken(&files, 1..=last).unwrap().0, evidence);
    let (late, _) = taken(&files, last..=last).unwrap();
    assert_eq!(verified(&late).unwrap().defined, 0);
    // Neither.
    files.remove(&segments(&files)[0]);
    let refused = taken(&files, last..=last).unwrap_err();
    assert!(refused.what.contains("is called"), "{refused}");
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    let (evidence, _) = taken(&life().files, 1..=40).unwrap();
    verified(&evidence).unwrap();
    for at in 0..evidence.len() {
        let mut changed = evidence.clone();
        changed[at] ^= 0x40;
        assert!(verified(&changed).is_err(), "byte {at}");
        assert!(verified(&evidence[..at]).is_err(), "{at} bytes of it");
    }
    assert!(verified(&[&evidence[..], b"x"].concat()).is_err());
}

#[test]
fn what_is_not_there_or_damaged_is_no_evidence() {
    let all = records(&life().files);
    let end = first_of(&all[all.len() - 1]) + 100;
    let refused = taken(&life().files, 1..=end).unwrap_err();
    assert!(refused.what.contains("only 1.."), "{refused}");
    let refused = taken(&life().files, end..=end).unwrap_err();
    assert!(refused.what.contains("are not here"), "{refused}");
    let mut files = life().files.clone();
    let name = segments(&files)[1].clone();
    files.get_mut(&name).unwrap()[100] ^= 1;
    let refused = taken(&files, 1..=end - 100).unwrap_err();
    super::found_in(&refused, &name, "checksum");
    assert_eq!(refused.offset, Some(64));
}

/// Where the records of evidence begin.
fn records_at(evidence: &[u8]) -> usize {
    let named = u32::from_le_bytes(*evidence[160..].first_chunk().unwrap());
    (0..named).fold(164, |at, _| {
        let sku = at + 5 + usize::from(evidence[at + 4]);
        sku + 1 + usize::from(evidence[sku])
    })
}

#[test]
fn who_forges_an_event_needs_another_chain_at_the_end() {
    let all = records(&life().files);
    let range = first_of(&all[20])..=first_of(&all[40]);
    let (evidence, head) = taken(&life().files, range).unwrap();
    let mut forged = evidence.clone();
    let begin = records_at(&evidence);
    let mut reader = Reader::new(&evidence[begin..]);
    let len = EventRecord::take(&mut reader).unwrap().bytes().len();
    let record = changed(&evidence[begin..begin + len], ID_AT);
    forged[begin..begin + len].copy_from_slice(&record);
    let end = forged.len() - 32;
    let mend_digest = |forged: &mut Vec<u8>| {
        let digest = Sha256::digest(&forged[..end]);
        forged[end..].copy_from_slice(&digest);
    };
    mend_digest(&mut forged);
    let refused = verified(&forged).unwrap_err();
    assert!(refused.what.contains("the chain after the records"), "{refused}");

    // It can be made up as a whole, and then it ends with a chain that nobody has noted.
    let mut after = head.before;
    let mut reader = Reader::new(&forged[begin..end]);
    while let Ok(record) = EventRecord::take(&mut reader) {
        after.pass(record.bytes(), record.header().next());
    }
    forged[120..152].copy_from_slice(&after.chain);
    mend_digest(&mut forged);
    let proof = verified(&forged).unwrap();
    assert_ne!(proof.head.after, head.after);
}
