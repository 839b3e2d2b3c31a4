//! What somebody or something has done to a backup is found.

use super::*;

/// A backup with some of everything.
async fn backed_up() -> Shop {
    let shop = Shop::start(1).await;
    let client = shop.client().await;
    trade(&client, 1_000).await;
    shop.node().admin("snapshot").await.unwrap();
    trade(&client, 10).await;
    shop.back_up(0, "backup").ok();
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_any_file_is_found() {
    let shop = backed_up().await;
    let directory = shop.path("backup");
    let verify = || stockd(&["backup", "--verify", &directory]);
    verify().ok();
    let names: Vec<String> = shop.manifest("backup").files.into_keys().collect();
    for kind in ["snapshot-", "segment-", "events-"] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{names:?}");
    }
    for name in &names {
        let path = Path::new(&directory).join(name);
        let whole = fs::read(&path).unwrap();
        for at in [0, 9, whole.len() / 3, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let said = verify();
            said.refused("restore from another copy");
            assert!(said.out.contains("WRONG") && said.out.contains(name.as_str()), "{}", said.out);
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(verify().out.contains("the manifest says"), "{name} is cut short");
        fs::remove_file(&path).unwrap();
        assert!(verify().out.contains(name.as_str()), "{name} is gone");
        fs::write(&path, &whole).unwrap();
    }
    let manifest = Path::new(&directory).join("MANIFEST");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("node 1", "node 2")).unwrap();
    verify().refused("its checksum is wrong");
    fs::write(&manifest, text).unwrap();
    fs::write(Path::new(&directory).join("notes.txt"), "mine").unwrap();
    let said = verify().ok();
    assert!(said.out.contains("notes.txt: the manifest does not know it"), "{}", said.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_restored_is_right_or_nothing() {
    let shop = backed_up().await;
    let directory = shop.path("backup");
    let digest = shop.restore("backup", "whole", &[]).ok().line("digest").to_owned();
    let names: Vec<String> = shop.manifest("backup").files.into_keys().collect();
    let segments: Vec<_> = names.iter().filter(|name| name.starts_with("segment-")).collect();
    assert!(segments.len() > 1 && names.iter().any(|name| name.starts_with("snapshot-")));
    for (number, name) in names.iter().enumerate() {
        let path = Path::new(&directory).join(name);
        let whole = fs::read(&path).unwrap();
        for at in [40, whole.len() / 2, whole.len() - 40] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let data = format!("from-{number}-{at}");
            let said = shop.restore("backup", &data, &[]);
            match said.code {
                // What is damaged was not needed: an older segment of the log, zeros behind the last frame.
                Some(0) => {
                    assert_eq!(said.line("digest"), digest, "{name} at {at}");
                    assert!(!name.starts_with("events-"), "{name} at {at} is copied");
                }
                _ => {
                    assert!(name != segments[0], "the snapshot is behind it: {}", said.err);
                    let left = fs::read_dir(shop.path(&data)).into_iter().flatten();
                    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
                    assert!(left.is_empty() || left == ["lock"], "{name} at {at}: {left:?}");
                }
            }
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_the_log_is_told() {
    let shop = Shop::start_with(1, &["--segment-bytes", "2097152", "--keep-log", "0s"]).await;
    let client = shop.client().await;
    receive(&client, "BER", "mug", 1).await;
    shop.node().admin("snapshot").await.unwrap();
    shop.back_up(0, "backup").ok();
    // Nothing is kept, and all that was in the first segments goes.
    trade(&client, 4_000).await;
    shop.node().admin("snapshot").await.unwrap();
    let first = shop.node().data.join("segment-0000000002.log");
    until("the log to be purged", async || !first.exists()).await;
    shop.back_up(0, "backup").ok();
    let verified = stockd(&["backup", "--verify", &shop.path("backup")]).ok();
    assert!(verified.out.contains("segments are missing"), "{}", verified.out);
    shop.restore("backup", "between", &["--to-seq", "500"]).refused("is missing");
    shop.restore("backup", "before", &["--to-seq", "2"]).ok();
    shop.restore("backup", "after", &[]).ok();
    stockd(&["audit", &shop.path("after")]).ok();
}
