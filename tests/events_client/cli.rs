//! `stockd tail` and `stockd events export`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use crate::outside::{ended, spawn, stockd};
use crate::{Cluster, receive, sell, until};

/// A node whose first cells are sold from.
async fn shop() -> Cluster {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    receive(&client, "BER", "mug", 10).await;
    receive(&client, "HAM", "cup", 20).await;
    sell(&client, "BER", "mug", 2).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_prints_what_has_happened() {
    let cluster = shop().await;
    let node = cluster.nodes[0].client.clone();
    let tail = |more: &[&str]| stockd(&[&["tail", "--node", &node], more].concat());
    let said = tail(&["--from", "oldest", "--count", "6"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(lines.len(), 6, "{}", said.out);
    let places: Vec<usize> =
        lines.iter().map(|line| line.find("BER").or(line.find("HAM")).unwrap()).collect();
    assert!(places.iter().all(|place| *place == places[0]), "a column each:\n{}", said.out);
    assert!(lines[0].contains("Z         1  CELL_DEFINED       BER mug"), "{}", lines[0]);
    assert!(lines[4].contains("RESERVED           BER mug"), "{}", lines[4]);
    assert!(lines[4].contains("cell=0 on_hand=10 reserved=2(+2)"), "{}", lines[4]);
    assert!(lines[4].contains("  id=") && lines[4].contains("  deadline=20"), "{}", lines[4]);
    assert!(said.err.contains("go on with --from 7"), "{}", said.err);

    // In the middle of what comes at once, it says where it stopped.
    let said = tail(&["--from", "2", "--count", "3", "--format", "ndjson"]);
    let objects: Vec<Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> =
        objects.iter().map(|object| object["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 3, 4]);
    assert_eq!((&objects[0]["kind"], &objects[0]["sku"]), (&"RECEIVED".into(), &"mug".into()));
    assert_eq!(objects[0]["delta"], serde_json::json!({"on_hand": 10}));
    assert!(said.err.contains("go on with --from 5"), "{}", said.err);

    let said =
        tail(&["--from", "oldest", "--cell", "HAM", "cup", "--kind", "received", "--count", "1"]);
    assert!(said.out.contains("         4  RECEIVED           HAM cup"), "{}", said.out);
    let said = tail(&["--since", "1h", "--sku", "cup", "--warehouse", "BER", "--count", "5"]);
    let sequences: Vec<&str> =
        said.out.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(sequences, ["1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_ways_to_ask_are_told() {
    for wrong in [
        &["tail", "--from", "yesterday"][..],
        &["tail", "--from", "1", "--since", "5m"],
        &["tail", "--since", "x"],
        &["tail", "--kind", "SOLD"],
        &["tail", "--cell", "BER"],
        &["tail", "--count", "0"],
        &["events", "export", "--out", "x.ndjson"],
        &["events", "export", "--from", "oldest"],
        &["events", "export", "--from", "now", "--out", "x.ndjson"],
        &["events", "export", "--from", "1", "--format", "ndjson", "--out", "-"],
        &["events", "export", "--from", "1", "--to", "oldest", "--out", "x.ndjson"],
    ] {
        let said = stockd(wrong);
        assert_eq!(said.code, Some(2), "{wrong:?}: {}", said.err);
    }
    let nobody = crate::node::free_address();
    let said = stockd(&["tail", "--node", &nobody]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("is --node right?"), "{}", said.err);
    let said = stockd(&["tail", "--node", &nobody, "--sku", ""]);
    assert!(said.code == Some(1) && !said.err.contains("--node"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_follows_until_it_is_interrupted() {
    let mut cluster = shop().await;
    let client = cluster.client().await;
    let node = cluster.nodes[0].client.clone();
    let mut tail = spawn(&["tail", "--node", &node, "--from", "5", "--format", "ndjson"]);
    let mut events = events_of(&mut tail);
    let mut next = move || events()["sequence"].as_u64().unwrap();
    assert_eq!([next(), next()], [5, 6]);
    // Its node is killed; it goes on when that is back.
    cluster.nodes[0].kill();
    cluster.nodes[0].start().await;
    sell(&client, "BER", "mug", 1).await;
    assert_eq!([next(), next()], [7, 8]);
    let pid = tail.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let said = ended(tail);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.ends_with("stockd: go on with --from 9\n"), "{}", said.err);
}

/// The events that a `tail --format ndjson` prints, one after the other.
fn events_of(tail: &mut std::process::Child) -> impl FnMut() -> Value + use<> {
    let mut out = BufReader::new(tail.stdout.take().unwrap());
    move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

#[test]
fn tail_is_interrupted_while_it_connects() {
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tail = spawn(&["tail", "--node", &silent.local_addr().unwrap().to_string()]);
    let _kept = silent.accept().unwrap();
    let pid = tail.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let said = ended(tail);
    assert_eq!((said.code, &*said.err), (Some(0), ""), "it would say that no answer came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_goes_on_at_nodes_that_nobody_has_named() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    receive(&client, "BER", "mug", 10).await;
    let mut end = 3;
    // A follower, and then the leader: node 1 has started the cluster.
    for victim in [2, 0] {
        let (node, from) = (cluster.nodes[victim].client.clone(), end.to_string());
        let mut tail = spawn(&["tail", "--node", &node, "--from", &from, "--format", "ndjson"]);
        let mut events = events_of(&mut tail);
        let mut next = move || {
            let event = events();
            (event["sequence"].as_u64().unwrap(), event["sku"].clone())
        };
        sell(&client, "BER", "mug", 1).await;
        assert_eq!([next(), next()], [(end, "mug".into()), (end + 1, "mug".into())]);
        cluster.nodes[victim].kill();
        sell(&client, "BER", "mug", 1).await;
        assert_eq!([next(), next()], [(end + 2, "mug".into()), (end + 3, "mug".into())]);
        end += 4;
        cluster.nodes[victim].start().await;
        tail.kill().unwrap();
        tail.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_leaves_a_node_that_was_removed() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    receive(&client, "BER", "mug", 10).await;
    let node = &cluster.nodes[2].client;
    let mut tail = spawn(&["tail", "--node", node, "--from", "1", "--format", "ndjson"]);
    let mut events = events_of(&mut tail);
    let mut next = move || events()["sequence"].as_u64().unwrap();
    assert_eq!([next(), next()], [1, 2]);
    // Node 1 has started the cluster. The other one goes on running, and is told of nothing any more.
    cluster.nodes[0].admin("remove 3").await.unwrap();
    sell(&client, "BER", "mug", 1).await;
    assert_eq!([next(), next()], [3, 4]);
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_ends_when_nobody_reads_it() {
    let cluster = shop().await;
    let node = cluster.nodes[0].client.clone();
    let mut tail = spawn(&["tail", "--node", &node, "--from", "1"]);
    let mut out = BufReader::new(tail.stdout.take().unwrap());
    for _ in 0..6 {
        out.read_line(&mut String::new()).unwrap();
    }
    drop(out);
    until("it to notice, though nothing comes", async || tail.try_wait().unwrap().is_some()).await;
    let mut err = String::new();
    tail.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(tail.wait().unwrap().code(), Some(0), "{err}");
    assert!(err.contains("go on with --from 7"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_nowhere_are_told() {
    let mut cluster = shop().await;
    let client = cluster.client().await;
    let node = &mut cluster.nodes[0];
    let address = node.client.clone();
    node.admin("snapshot").await.unwrap();
    node.kill();
    for file in fs::read_dir(&node.data).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("events-") {
            fs::remove_file(path).unwrap();
        }
    }
    node.start().await;
    sell(&client, "HAM", "cup", 1).await;
    let tail = |more: &[&str]| stockd(&[&["tail", "--node", &address], more].concat());

    // Since a moment before, of which nobody knows whether something has happened after it.
    let said = tail(&["--since", "1h", "--count", "1"]);
    assert!(said.out.contains("         7  RESERVED           HAM cup"), "{}", said.out);
    let told = "stockd: events before 7 are nowhere any more; this begins with it\n";
    assert!(said.err.contains(told), "{}", said.err);
    let said = tail(&["--from", "oldest", "--count", "1"]);
    assert!(said.out.contains("         7  RESERVED"), "{}", said.out);
    assert!(said.err.contains(&format!("the oldest event on {address} is 7")), "{}", said.err);
    // Since a moment after, before which nothing is missing.
    let out = cluster.path("late.ndjson");
    let said = stockd(&["events", "export", "--node", &address, "--out", &out, "--since", "0s"]);
    assert!(said.out.contains("from    9\n") && !said.err.contains("nowhere"), "{}", said.err);

    let said = tail(&["--from", "3", "--count", "1"]);
    assert_eq!((said.code, &*said.out), (Some(1), ""));
    let told = "go on with --from 7\nstockd: events 3..6 are nowhere any more; go on with 7\n";
    assert!(said.err.ends_with(told), "{}", said.err);
    let out = cluster.path("gone.ndjson");
    let said = stockd(&["events", "export", "--node", &address, "--out", &out, "--from", "3"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("events 3..6 are nowhere any more; go on with 7"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_goes_into_a_file() {
    let cluster = shop().await;
    let client = cluster.client().await;
    let node = cluster.nodes[0].client.clone();
    let id = format!("{:016x}", client.cluster_id().unwrap());
    let export = |out: &str, more: &[&str]| {
        stockd(&[&["events", "export", "--node", &node, "--out", out], more].concat())
    };
    let numbers = |file: &str| -> Vec<u64> {
        let text = fs::read_to_string(file).unwrap();
        let objects = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        objects.map(|object| object["sequence"].as_u64().unwrap()).collect()
    };
    let all = cluster.path("all.ndjson");
    // What a killed export has left is no hindrance.
    fs::write(format!("{all}.part"), "{half of a line").unwrap();
    let said = export(&all, &["--from", "oldest"]);
    assert_eq!(
        (said.code, &*said.out),
        (Some(0), &*format!("events  6\nfrom    1\nnext    7\ncluster {id}\nfile    {all}\n")),
        "{}",
        said.err
    );
    assert_eq!(numbers(&all), [1, 2, 3, 4, 5, 6]);
    let again = export(&all, &["--from", "oldest"]);
    assert!(again.code == Some(1) && again.err.contains("is there already"), "{}", again.err);
    assert!(!fs::exists(format!("{all}.part")).unwrap());

    sell(&client, "HAM", "cup", 1).await;
    let rest = cluster.path("rest.jsonl");
    export(&rest, &["--from", "7", "--to", "now"]);
    assert_eq!(numbers(&rest), [7, 8]);
    let some = cluster.path("some.txt");
    let said = export(&some, &["--from", "2", "--to", "6", "--warehouse", "BER"]);
    assert!(said.err.contains("--format"), "{}", said.err);
    let said =
        export(&some, &["--from", "2", "--to", "6", "--warehouse", "BER", "--format", "ndjson"]);
    assert!(said.out.contains("events  2\n"), "{}{}", said.out, said.err);
    assert_eq!(numbers(&some), [2, 5]);
    let none = cluster.path("none.ndjson");
    let said = export(&none, &["--from", "9"]);
    assert!(said.out.contains("events  0\n"), "{}{}", said.out, said.err);
    let said = export(&cluster.path("future.ndjson"), &["--from", "10", "--cluster", &id]);
    let told = format!("event 10 has not happened; the next on {node} is 9\n");
    assert!(said.code == Some(1) && said.err.ends_with(&told), "{}", said.err);
    let said = export(&cluster.path("other.ndjson"), &["--from", "9", "--cluster", "7"]);
    let told = format!("{node} is of cluster {id}, not of 0000000000000007");
    assert!(said.code == Some(1) && said.err.contains(&told), "{}", said.err);
    assert!(export(&cluster.path("x.ndjson"), &["--from", "9", "--to", "3"]).code == Some(1));

    // The same as rows: what they say is compared with lines next to the code.
    let rows = cluster.path("some.parquet");
    let said = export(&rows, &["--from", "2", "--to", "6", "--warehouse", "BER"]);
    assert!(said.out.contains("events  2\n"), "{}{}", said.out, said.err);
    let reader = SerializedFileReader::new(fs::File::open(&rows).unwrap()).unwrap();
    let told = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let told = |key: &str| told.iter().find(|kv| kv.key == key).unwrap().value.clone().unwrap();
    assert_eq!((&*told("stockd.from"), &*told("stockd.next")), ("2", "6"));
    assert_eq!(told("stockd.cluster").len(), 16);
    let row_of = |row: parquet::record::Row| {
        let of =
            |name: &str| row.get_column_iter().find(|(key, _)| *key == name).unwrap().1.clone();
        (of("sequence"), of("kind"), of("sku"))
    };
    let found: Vec<_> =
        reader.get_row_iter(None).unwrap().map(|row| row_of(row.unwrap())).collect();
    let row = |sequence, kind: &str| {
        (Field::Long(sequence), Field::Str(kind.to_owned()), Field::Str("mug".to_owned()))
    };
    assert_eq!(found, [row(2, "RECEIVED"), row(5, "RESERVED")]);
    assert!(!fs::exists(format!("{rows}.part")).unwrap());

    // What has not happened yet is waited for.
    let later = cluster.path("later.ndjson");
    let waits =
        spawn(&["events", "export", "--node", &node, "--out", &later, "--from", "9", "--to", "11"]);
    until("the export to have begun", async || fs::exists(format!("{later}.part")).unwrap()).await;
    sell(&client, "HAM", "cup", 1).await;
    assert_eq!(ended(waits).code, Some(0));
    assert_eq!(numbers(&later), [9, 10]);
}
