//! The binary as a person uses it: exit codes, messages, and what survives a kill.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use stockd::protocol::{Header, Hello, Kind, MAGIC, ShardId, begin_frame, finish_frame, limits};
use tempfile::TempDir;

/// What a command printed, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn stockd(arguments: &[&str]) -> Said {
    let stdio = Command::new(env!("CARGO_BIN_EXE_stockd"));
    said(with(stdio, arguments).output().unwrap())
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).stdin(Stdio::null());
    command
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().expect("it exits by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A node's addresses and directory, and its process while it runs.
struct Node {
    client: String,
    admin: String,
    peer: String,
    data: PathBuf,
    process: Option<Child>,
    _directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            client: free_address(),
            admin: free_address(),
            peer: free_address(),
            data: directory.path().join("data"),
            process: None,
            _directory: directory,
        }
    }

    fn serve_arguments(&self) -> [&str; 11] {
        let data = self.data();
        [
            "serve",
            "--listen",
            &self.client,
            "--admin",
            &self.admin,
            "--peer",
            &self.peer,
            "--data",
            data,
            "--segment-bytes",
            "2097152",
        ]
    }

    fn data(&self) -> &str {
        self.data.to_str().unwrap()
    }

    /// Starts it and waits until it takes writes.
    fn start(&mut self) {
        let command = Command::new(env!("CARGO_BIN_EXE_stockd"));
        let mut command = with(command, &self.serve_arguments());
        self.process = Some(command.stderr(Stdio::null()).spawn().unwrap());
        while !self.admin("status").out.contains("role            leader") {
            let over = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(over.is_none(), "the node has stopped: {over:?}");
            self.pause();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a pause between two looks at another process")]
    fn pause(&self) {
        std::thread::sleep(Duration::from_millis(10));
    }

    fn admin(&self, verb: &str) -> Said {
        stockd(&["admin", "--admin", &self.admin, verb])
    }

    fn ask(&self, request: &[&str]) -> Said {
        stockd(&[&["client", "--node", &self.client], request].concat())
    }

    /// What it says to a request that is granted.
    fn ok(&self, request: &[&str]) -> Said {
        let said = self.ask(request);
        assert_eq!(said.code, 0, "{request:?}: {}", said.err);
        said
    }

    /// It refuses a request, and says why.
    fn refused(&self, request: &[&str], why: &str) {
        let said = self.ask(request);
        assert_eq!(said.code, 1, "{request:?}");
        assert!(said.err.contains(why), "{request:?}: {}", said.err);
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// SIGTERM; gives the exit code.
    fn leave(&mut self) -> Option<i32> {
        let mut process = self.process.take().unwrap();
        let pid = process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        process.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

#[test]
fn help_is_no_error_and_wrong_usage_is_two() {
    let help = stockd(&["--help"]);
    assert_eq!(help.code, 0);
    for word in ["serve", "cluster", "admin", "client", "log", "Exit codes"] {
        assert!(help.out.contains(word), "{word}");
    }
    let cases: &[&[&str]] = &[
        &[],
        &["frob"],
        &["serve", "--frob"],
        &["serve", "--node-id", "0"],
        &["serve", "--retention", "0s"],
        &["serve", "--retention", "18446744073709551615ms"],
        &["serve", "--archive", "400d"],
        &["serve", "--grace-ms", "18446744073709551615"],
        &["serve", "--segment-bytes", "1048576"],
        &["load", "stock.csv", "--rate", "0"],
        &["client", "reserve", "BER"],
        &["client", "reserve", "BER", "mug", "1", "--line", "HAM", "mug"],
        &["client", "reserve-from", "mug", "1", "BER", "--mode", "some"],
        &["client", "confirm", "no-id"],
        &["client", "set", "BER", "mug", "8"],
        &["client", "set", "BER", "mug", "8", "--expected", "8", "--feed", "1"],
        &["client", "policy", "BER", "mug"],
        &["client", "policy", "BER", "mug", "--buffer", "-1"],
        &["client", "policy", "BER", "mug", "--reorder-point", "-1"],
        &["client", "reserve", "BER", "mug", "1", "--commit", "--ttl", "5m"],
        &["client", "fulfil", "018bcfe5-687b-7c1d-9a01-42434445464f", "--reacquire"],
        &["client", "fulfil", "018bcfe5-687b-7c1d-9a01-42434445464f", "--part", "0:1"],
        &["client", "fulfil", "018bcfe5-687b-7c1d-9a01-42434445464f", "--step", "1"],
        &["cluster", "remove"],
    ];
    for case in cases {
        let wrong = stockd(case);
        assert_eq!(wrong.code, 2, "{case:?}: {}", wrong.err);
        assert!(wrong.err.contains("--help") || wrong.err.contains("Usage"), "{}", wrong.err);
    }
}

#[test]
fn what_cannot_be_done_is_one_and_says_what_to_do() {
    let nobody = free_address();
    let open = stockd(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.code, 1);
    assert!(open.err.contains("--insecure-bind"), "{}", open.err);
    let ping = stockd(&["client", "--node", &nobody, "ping"]);
    assert_eq!(ping.code, 1);
    assert!(ping.err.contains("is --node right?"), "{}", ping.err);
    let status = stockd(&["cluster", "--admin", &nobody, "status"]);
    assert_eq!(status.code, 1);
    assert!(status.err.contains("is --admin right?"), "{}", status.err);
    let directory = tempfile::tempdir().unwrap();
    let check = stockd(&["log", "check", directory.path().to_str().unwrap()]);
    assert_eq!(check.code, 1);
    assert!(check.err.contains("is it a data directory?"), "{}", check.err);
}

/// The word after `name` at the beginning of a line.
fn field<'a>(said: &'a Said, name: &str) -> &'a str {
    let mut lines = said.out.lines().filter_map(|line| line.strip_prefix(name));
    let line = lines.find(|rest| rest.starts_with(' '));
    line.unwrap_or_else(|| panic!("no {name} in {:?}", said.out)).trim()
}

#[test]
fn a_day_of_a_warehouse() {
    let mut node = Node::new();
    node.start();
    let ok = |request: &[&str]| node.ok(request);
    let refused = |request: &[&str], why: &str| node.refused(request, why);
    ok(&["receive", "BER", "mug", "5", "--reason", "1", "--ref", "PO-77"]);
    ok(&["receive", "HAM", "mug", "7"]);
    ok(&["adjust", "BER", "mug", "-2", "--reason", "3", "--ref", "INC-12"]);
    refused(&["adjust", "BER", "mug", "-9"], "WOULD_SHORT");
    refused(&["set", "BER", "mug", "8", "--expected", "5"], "it is 3");
    assert_eq!(field(&ok(&["set", "BER", "mug", "8", "--feed", "2"]), "on_hand"), "8");
    refused(&["set", "BER", "mug", "9", "--feed", "2"], "STALE_FEED");

    // A sale during the count is not taken for a loss.
    let count = ok(&["count", "BER", "mug"]);
    let sold = ok(&["reserve", "BER", "mug", "1", "--commit"]);
    assert_eq!(field(&sold, "state"), "CONFIRMED");
    assert!(!sold.out.contains("left_ms"), "it has no deadline: {}", sold.out);
    let counted = ok(&["counted", field(&count, "token"), "6"]);
    assert_eq!((field(&counted, "on_hand"), field(&counted, "available")), ("6", "5"));

    ok(&["move", "BER", "mug", "sellable", "damaged", "1"]);
    refused(&["move", "BER", "mug", "damaged", "damaged", "1"], "name another bucket");
    ok(&["policy", "BER", "mug", "--buffer", "2", "--reorder-point", "none"]);
    ok(&["announce", "BER", "mug", "4"]);
    ok(&["arrive", "BER", "mug", "3"]);
    ok(&["return", "BER", "mug", "1", "--bucket", "quality"]);
    let details = ok(&["details", "BER", "mug"]);
    for (name, units) in [("on_hand", "10"), ("damaged", "1"), ("quality", "1"), ("incoming", "1")]
    {
        assert_eq!(field(&details, name), units, "{name}");
    }
    assert_eq!(field(&details, "available"), "5");

    let shipped = ok(&["ship", "mug", "HAM", "BER", "3"]);
    let shipment = field(&shipped, "shipment");
    ok(&["land", shipment, "1", "--damaged", "1"]);
    let recalled = ok(&["recall", shipment, "--reason", "4", "--ref", "never left"]);
    assert_eq!(field(&recalled, "state"), "CANCELLED");
    refused(&["close", shipment], "it is CANCELLED");
    let shipment = ok(&["shipment", shipment]);
    assert_eq!((field(&shipment, "from"), field(&shipment, "to")), ("HAM mug", "BER mug"));
    assert_eq!(field(&shipment, "rest"), "1");

    // HAM has 5, BER 6 of which one is what was shipped to it.
    let held = ok(&["reserve-from", "mug", "9", "BER,HAM", "--splits", "1"]);
    let id = field(&held, "id");
    assert_eq!(field(&held, "units"), "9");
    assert!(held.out.contains("6 from BER mug\n"), "{}", held.out);
    assert!(held.out.contains("3 from HAM mug\n"), "{}", held.out);
    refused(&["reserve-from", "mug", "9", "BER,HAM"], "NO_STOCK");
    ok(&["extend", id, "--ttl", "20m", "--ref", "asked for time"]);
    ok(&["pin", id, "--ttl", "48h", "--reason", "5"]);
    ok(&["confirm", id, "--part", "0:4", "--step", "1"]);
    let again = ok(&["confirm", id, "--part", "0:4", "--step", "1"]);
    assert!(again.out.contains("it was done before"), "{}", again.out);
    ok(&["release", id, "--part", "1:3", "--step", "1"]);
    ok(&["fulfil", id, "--part", "0:6", "--step", "1", "--ship"]);
    refused(&["cancel", id], "QTY_EXCEEDS");
    let lines = ok(&["hold", id]);
    assert_eq!(field(&lines, "state"), "FULFILLED");
    assert_eq!(field(&lines, "line 0"), "BER mug, 6 fulfilled");
    assert_eq!(field(&lines, "line 1"), "HAM mug, 3 released");

    let held = ok(&["reserve", "HAM", "mug", "2"]);
    let id = field(&held, "id");
    ok(&["amend", id, "--step", "1", "--line", "HAM", "mug", "5"]);
    refused(&["amend", id, "--step", "2", "--line", "HAM", "mug", "6"], "NO_STOCK");
    ok(&["confirm", id]);
    assert_eq!(field(&ok(&["cancel", id, "--ref", "order 17"]), "state"), "CANCELLED");
}

#[test]
fn a_cart_may_have_several_lines() {
    let mut node = Node::new();
    node.start();
    let ok = |request: &[&str]| node.ok(request);
    let refused = |request: &[&str], why: &str| node.refused(request, why);
    for (warehouse, sku, units) in [("BER", "mug", "5"), ("BER", "cup", "2"), ("HAM", "cup", "2")] {
        ok(&["receive", warehouse, sku, units]);
    }
    let more = ["--line", "BER", "cup", "1", "--line", "BER", "mug", "1"];
    let held = ok(&[&["reserve", "BER", "mug", "2"], &more[..]].concat());
    let lines = ok(&["hold", field(&held, "id")]);
    for (line, units) in [("line 0", "mug, 2"), ("line 1", "cup, 1"), ("line 2", "mug, 1")] {
        assert_eq!(field(&lines, line), format!("BER {units} reserved"));
    }
    refused(&["reserve", "BER", "mug", "1", "--line", "BER", "cup", "9"], "line 1 asks for 9 of 1");
    refused(&["reserve", "BER", "mug", "1", "--line", "BER", "cup", "x"], "no number of units");

    // There are 2 mugs left and 3 cups.
    let cart = ["reserve-from", "mug", "2", "BER,HAM", "--line", "cup", "5", "--splits", "1"];
    let cart = |more: &[&'static str]| [&cart[..], more].concat();
    refused(&cart(&[]), "line 1 asks for 5 of 3");
    refused(&cart(&["--mode", "lines", "--at-least", "1"]), "--mode upto");
    refused(&cart(&["--at-least", "6"]), "not sent");
    let lines = ok(&cart(&["--mode", "lines"]));
    assert_eq!(field(&lines, "units"), "2 (fewer than asked for)");
    assert_eq!(field(&lines, "part"), "2 from BER mug");
    let up_to = ok(&cart(&["--mode", "upto"]));
    assert_eq!(field(&up_to, "units"), "3 (fewer than asked for)");
    assert!(up_to.out.contains("1 from BER cup\n"), "{}", up_to.out);
    assert!(up_to.out.contains("2 from HAM cup\n"), "{}", up_to.out);
}

#[test]
fn what_else_a_client_may_ask() {
    let mut node = Node::new();
    node.start();
    let handle = |warehouse: &str| {
        let said = node.ask(&["define", warehouse, "mug"]);
        field(&said, "handle").to_owned()
    };
    assert_eq!([handle("BER"), handle("HAM"), handle("BER")], ["0", "1", "0"]);
    assert_eq!(field(&node.ask(&["read", "BER", "mug"]), "on_hand"), "0");
    let now = node.ask(&["ping"]);
    let now: u64 = field(&now, "server_now_ms").parse().unwrap();
    let receive = |not_after: u64| {
        node.ask(&["receive", "BER", "mug", "1", "--not-after", &not_after.to_string()])
    };
    let late = receive(now - 1);
    assert!(late.code == 1 && late.err.contains("DEADLINE_PASSED"), "{}", late.err);
    assert_eq!(field(&receive(now + 3_600_000), "on_hand"), "1");
    let status = node.ask(&["status"]).out;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["stock"]["cells"], 2, "{status}");
}

#[test]
fn a_day_of_a_node() {
    let mut node = Node::new();
    node.start();
    let received = node.ask(&["receive", "BER", "shirt", "5"]);
    assert_eq!((received.code, &*received.out), (0, "on_hand    5\navailable  5\n"));
    let reserved = node.ask(&["reserve", "BER", "shirt", "3"]);
    assert_eq!(reserved.code, 0, "{}", reserved.err);
    let id = reserved.out.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    let again = node.ask(&["reserve", "BER", "shirt", "3", "--id", &id]);
    assert!(again.out.contains("ACTIVE (it was done before)"), "{}", again.out);
    let refused = node.ask(&["reserve", "BER", "shirt", "3"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("NO_STOCK (100), line 0 asks for 3 of 2"), "{}", refused.err);

    let op_id = "018bcfe5-687b-7c1d-9a01-42434445464f";
    let old = node.ask(&["receive", "BER", "shirt", "5", "--id", op_id]);
    assert!(old.err.contains("ID_TOO_OLD"), "the given id is the one that is sent: {}", old.err);

    let second = stockd(&node.serve_arguments());
    assert_eq!(second.code, 1);
    assert!(second.err.contains("is in use"), "{}", second.err);
    let elsewhere = Node::new();
    let mut arguments = elsewhere.serve_arguments();
    arguments[8] = node.data();
    let same_data = stockd(&arguments);
    assert_eq!(same_data.code, 1);
    assert!(same_data.err.contains("another stockd runs"), "{}", same_data.err);
    let check = stockd(&["log", "check", node.data()]);
    assert_eq!(check.code, 0, "on a running node: {}", check.err);

    node.kill();
    node.start();
    let read = node.ask(&["read", "BER", "shirt"]);
    assert!(read.out.contains("reserved   3\n"), "{}", read.out);
    assert_eq!(node.ask(&["confirm", &id]).out, "state  CONFIRMED\n");
    assert_eq!(node.leave(), Some(0));

    let check = stockd(&["log", "check", node.data()]);
    assert!(check.out.contains("the log is sound"), "{}", check.out);
    let file = damage(&node.data);
    for refused in [stockd(&["log", "check", node.data()]), stockd(&node.serve_arguments())] {
        assert_eq!(refused.code, 1);
        assert!(refused.err.contains(&file), "{}", refused.err);
        assert!(refused.err.contains("offset"), "{}", refused.err);
        assert!(refused.err.contains("rejoin"), "{}", refused.err);
    }
}

#[test]
fn an_auditor_needs_no_node() {
    let mut node = Node::new();
    node.start();
    node.ok(&["receive", "BER", "mug", "5"]);
    node.ok(&["reserve", "BER", "mug", "2", "--commit"]);
    let audit = || stockd(&["audit", node.data()]);
    // The cell, the receipt and the sale; nobody waits for them to be written.
    while !audit().out.contains("AUDIT OK: 3 events 1..3, ") {
        assert_eq!(audit().code, 0, "beside the running node: {}", audit().out);
        node.pause();
    }
    assert_eq!(node.leave(), Some(0));
    let sound = stockd(&["audit", node.data()]);
    assert_eq!(sound.code, 0, "{}{}", sound.out, sound.err);
    let verdict = sound.out.lines().last().unwrap();
    assert!(verdict.contains("1 cells, on_hand 5 reserved 0 committed 2"), "{verdict}");

    let file = node.data.join("../case.evidence");
    let file = file.to_str().unwrap();
    let take = |from: &str, to: &str| {
        stockd(&["events", "evidence", node.data(), "--from", from, "--to", to, "--out", file])
    };
    let gone = take("1", "9");
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("of events 1..9 only 1..3 are here"), "{}", gone.err);
    assert!(take("2", "1").err.contains("before --from"));
    // The range is widened: the cell is defined by the entry that receives its units.
    let taken = take("2", "2");
    assert_eq!(taken.code, 0, "{}", taken.err);
    assert!(taken.out.contains("1..2"), "{}", taken.out);
    assert_eq!(take("2", "2").code, 1, "it is there already");
    let proof = stockd(&["audit", file]);
    assert_eq!(proof.code, 0, "{}", proof.err);
    assert!(proof.out.contains("AUDIT OK: evidence of 2 events 1..2, 1 cells, chain "));
    assert!(proof.out.contains("It does not prove"), "{}", proof.out);

    let events = node.data.join(format!("events-{:020}", 1));
    for (path, audited) in [(Path::new(file), file), (events.as_path(), node.data())] {
        let mut content = std::fs::read(path).unwrap();
        content[200] ^= 1;
        std::fs::write(path, content).unwrap();
        let failed = stockd(&["audit", audited]);
        assert_eq!(failed.code, 1);
        let verdict = failed.out.lines().last().unwrap();
        assert!(verdict.starts_with(&format!("AUDIT FAILED: {}", path.display())), "{verdict}");
        assert!(verdict.contains(" at byte "), "{verdict}");
        assert!(!failed.err.is_empty(), "it says what to do");
    }
    let empty = tempfile::tempdir().unwrap();
    let nothing = stockd(&["audit", empty.path().to_str().unwrap()]);
    assert!(nothing.code == 1 && nothing.out.contains("is it a data directory?"));
}

/// The sum of a SKU over all warehouses.
fn on_hand(node: &Node, sku: &str) -> u64 {
    let said = node.ask(&["sku", sku, "--total"]);
    let all = field(&said, "(all)");
    all.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_load_that_is_killed_goes_on_and_counts_no_row_twice() {
    const ROWS: u64 = 120_000;
    let mut node = Node::new();
    node.start();
    let file = node.data.join("stock.csv");
    let mut text = String::from("quantity,warehouse,sku\n5000000001,W0,mug\n");
    for row in 0..ROWS {
        text += &format!("1,W{},mug\n", row % 50);
    }
    text += "many,W0,mug\n1,,mug\n5000000000,W0,mug\n1,W0,mug\r1,W0,mug\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let load = ["load", &file, "--node", &node.client];
    let journal = format!("{file}.load");
    let chunks_done = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("done ")).count()
    };
    let bad_lines = || std::fs::read_to_string(format!("{file}.bad")).unwrap();
    // Killed as soon as something is done, again and again.
    for killed in 1..=3 {
        let command = Command::new(env!("CARGO_BIN_EXE_stockd"));
        let mut command = with(command, &load);
        let mut loader = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let before = chunks_done();
        while chunks_done() == before && loader.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        loader.kill().unwrap();
        loader.wait().unwrap();
        assert!(chunks_done() < 2_400, "kill {killed} came too late to prove anything");
    }
    // A crash may have cut the last line short.
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, format!("{text}beg")).unwrap();
    let said = stockd(&load);
    assert_eq!(said.code, 1, "{}", said.err);
    let bad = [
        "line 2: ",
        "line 120003: \"many\" is no number",
        "line 120004:",
        "line 120005:",
        "line 120006:",
    ];
    for line in bad {
        assert!(said.err.contains(line) && bad_lines().contains(line), "{line}: {}", said.err);
    }
    assert!(said.err.contains("5 rows were not loaded"), "{}", said.err);
    let (loaded, before) = (field(&said, "loaded"), field(&said, "before"));
    let before = before.split_whitespace().next().unwrap();
    let number = |text: &str| text.parse::<u64>().unwrap();
    assert_eq!(number(loaded) + number(before), ROWS);
    assert_eq!(on_hand(&node, "mug"), ROWS);
    // All of it again does nothing, and says the same of its bad lines.
    let again = stockd(&load);
    assert_eq!((again.code, field(&again, "loaded"), field(&again, "bad")), (1, "0", "5"));
    assert_eq!(
        bad_lines(),
        said.err.lines().take(5).map(|line| format!("{line}\n")).collect::<String>()
    );
    // Nobody else loads this file meanwhile, nor is it loaded to another cluster, nor another file under the
    // journal of this one.
    let held = std::fs::File::open(&journal).unwrap();
    held.lock().unwrap();
    let second = stockd(&load);
    assert!(second.code == 1 && second.err.contains("another process is at it"), "{}", second.err);
    drop(held);
    let mut twin = Node::new();
    twin.start();
    let elsewhere = stockd(&["load", &file, "--node", &twin.client]);
    assert!(elsewhere.code == 1 && elsewhere.err.contains("another cluster"), "{}", elsewhere.err);
    std::fs::write(&file, "quantity,warehouse,sku\n1,W0,mug\n").unwrap();
    let other = stockd(&load);
    assert!(other.code == 1 && other.err.contains("remove it"), "{}", other.err);
    assert_eq!(on_hand(&node, "mug"), ROWS);
}

#[test]
fn a_load_can_say_what_is_there() {
    let mut node = Node::new();
    node.start();
    node.ask(&["receive", "BER", "mug", "9"]);
    node.ask(&["reserve", "BER", "mug", "2"]);
    let file = node.data.join("stock.ndjson");
    let rows = [("BER", 5), ("HAM", 7), ("BER", 6)];
    let rows = rows.map(|(warehouse, units)| {
        format!("{{\"warehouse\":\"{warehouse}\",\"sku\":\"mug\",\"quantity\":{units}}}\n")
    });
    std::fs::write(&file, rows.concat()).unwrap();
    let file = file.to_str().unwrap();
    let said = stockd(&["load", file, "--node", &node.client, "--as", "set", "--feed", "3"]);
    assert_eq!((said.code, field(&said, "loaded")), (1, "2"), "{}", said.err);
    assert!(said.err.contains("line 3: STALE_FEED"), "a cell is there twice: {}", said.err);
    assert_eq!(on_hand(&node, "mug"), 12);
    let read = node.ask(&["read", "BER", "mug"]);
    assert_eq!((field(&read, "reserved"), field(&read, "available")), ("2", "3"));
    let without = stockd(&["load", file, "--node", &node.client, "--as", "set"]);
    assert_eq!(without.code, 2, "{}", without.err);
    let added = stockd(&["load", file, "--node", &node.client, "--feed", "4"]);
    assert!(added.code == 1 && added.err.contains("--as set"), "{}", added.err);
    assert_eq!(on_hand(&node, "mug"), 12);
}

#[test]
fn an_export_goes_on_after_a_kill_and_loads_into_another_cluster() {
    const CELLS: u64 = 60_000;
    let mut node = Node::new();
    node.start();
    let path = |name: &str| node.data.join(name).to_str().unwrap().to_owned();
    let (stock, killed, whole) = (path("stock.csv"), path("killed.csv"), path("whole.csv"));
    let rows =
        (0..CELLS).map(|row| format!("W{},\"a \"\"mug\"\", {row}\",{}\n", row % 3, 1 + row % 7));
    let text = String::from("warehouse,sku,quantity\n") + &rows.collect::<String>();
    std::fs::write(&stock, text).unwrap();
    assert_eq!(stockd(&["load", &stock, "--node", &node.client]).code, 0);
    // Killed when a part of it is vouched for.
    let state = format!("{killed}.export");
    let command = Command::new(env!("CARGO_BIN_EXE_stockd"));
    let mut command = with(command, &["export", &killed, "--node", &node.client]);
    let mut exporter = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let is_begun = || {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        text.contains("rows") && !text.contains("\"rows\":0")
    };
    while !is_begun() {
        assert!(exporter.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    exporter.kill().unwrap();
    exporter.wait().unwrap();
    assert!(!Path::new(&killed).exists(), "a file that has its name is whole");
    // Under this name nothing else is exported meanwhile.
    let other = stockd(&["export", &killed, "--node", &node.client, "--low"]);
    assert!(other.code == 1 && other.err.contains("remove it"), "{}", other.err);
    // What is behind that part may be anything.
    let part = format!("{killed}.part");
    let text = std::fs::read_to_string(&part).unwrap();
    std::fs::write(&part, text + "W0,half a r").unwrap();
    for file in [&killed, &whole] {
        let said = stockd(&["export", file, "--node", &node.client]);
        assert_eq!((said.code, field(&said, "cells")), (0, "60000"), "{}", said.err);
    }
    assert!(std::fs::read(&killed).unwrap() == std::fs::read(&whole).unwrap());
    assert!(!Path::new(&state).exists() && !Path::new(&part).exists());
    let again = stockd(&["export", &whole, "--node", &node.client]);
    assert!(again.code == 1 && again.err.contains("another name"), "{}", again.err);
    // Another cluster that loads it has the same stock.
    let mut twin = Node::new();
    twin.start();
    let load = ["load", &whole, "--node", &twin.client, "--as", "set", "--feed", "1"];
    let said = stockd(&load);
    assert_eq!((said.code, field(&said, "loaded")), (0, "60000"), "{}", said.err);
    let there = twin.data.join("there.csv");
    let there = there.to_str().unwrap();
    assert_eq!(stockd(&["export", there, "--node", &twin.client]).code, 0);
    assert!(std::fs::read(there).unwrap() == std::fs::read(&whole).unwrap());
}

#[test]
fn an_export_that_cannot_go_on_says_what_to_do() {
    let mut node = Node::new();
    node.start();
    let path = |name: &str| node.data.join(name).to_str().unwrap().to_owned();
    let stock = path("stock.csv");
    std::fs::write(&stock, b"warehouse,sku,quantity\nBER,\xff,1\n").unwrap();
    assert_eq!(stockd(&["load", &stock, "--node", &node.client]).code, 0);
    let export = |file: &str| stockd(&["export", file, "--node", &node.client]);
    let fails = |file: &str, with: &str| {
        let said = export(file);
        assert!(said.code == 1 && said.err.contains(with), "{file}: {}", said.err);
    };
    fails(&path("stock.ndjson"), "export as csv");
    fails(&path("stock.txt"), "--format");
    fails(&path("nowhere/stock.csv"), "No such file");
    let file = path("other.csv");
    std::fs::write(format!("{file}.export"), "{").unwrap();
    fails(&file, "remove it to begin anew");
    let begun = |cluster: u64| {
        let of = format!(
            r#"{{"cluster":{cluster},"format":"Csv","warehouse":"","sku":"","low":false}}"#
        );
        let state = format!(r#"{{"asked":{of},"next":1,"bytes":99,"rows":1}}"#);
        std::fs::write(format!("{file}.export"), state).unwrap();
    };
    let journal = std::fs::read_to_string(format!("{stock}.load")).unwrap();
    let cluster = journal.split_whitespace().find_map(|word| word.strip_prefix("cluster="));
    let cluster = u64::from_str_radix(cluster.unwrap(), 16).unwrap();
    begun(cluster);
    fails(&file, "remove both");
    begun(cluster ^ 1);
    fails(&file, "of something else");
    std::fs::remove_file(format!("{file}.export")).unwrap();
    assert_eq!(export(&file).code, 0);
}

#[test]
fn a_list_is_by_the_beginning_of_names_or_of_what_is_low() {
    let mut node = Node::new();
    node.start();
    for (warehouse, sku) in [("BER", "mug"), ("BER", "mug-xl"), ("HAM", "mug"), ("HAM", "cup")] {
        node.ask(&["receive", warehouse, sku, "9"]);
    }
    let skus = |arguments: &[&str]| {
        let said = node.ask(&[&["list"], arguments].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        let rows = said.out.lines().skip(1).map(|row| row.split_whitespace().take(2));
        rows.map(|names| names.collect::<Vec<_>>().join("/")).collect::<Vec<_>>()
    };
    assert_eq!(skus(&["mug"]), ["BER/mug", "BER/mug-xl", "HAM/mug"]);
    assert_eq!(skus(&["mug", "--warehouse", "H"]), ["HAM/mug"]);
    assert_eq!(skus(&["--low"]), [""; 0]);
    node.ask(&["policy", "HAM", "cup", "--reorder-point", "7"]);
    assert_eq!(skus(&["--low"]), [""; 0]);
    let note = ["--reason", "7", "--ref", "order 5"];
    // What is only held may come back; what is sold does not.
    let held = node.ask(&[&["reserve", "HAM", "cup", "2"], &note[..]].concat());
    assert_eq!(held.code, 0, "{}", held.err);
    assert_eq!(skus(&["--low"]), [""; 0]);
    assert_eq!(node.ask(&["confirm", field(&held, "id")]).code, 0);
    assert_eq!(skus(&["--low"]), ["HAM/cup"]);
    let file = node.data.join("low.ndjson");
    let said = stockd(&["export", file.to_str().unwrap(), "--node", &node.client, "--low"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let text = std::fs::read_to_string(&file).unwrap();
    let row: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    let numbers = ["quantity", "available", "reorder_point"].map(|name| row[name].as_i64());
    assert_eq!(numbers, [Some(9), Some(7), Some(7)], "{row}");
}

#[test]
fn an_owner_gets_no_more_than_its_share() {
    let mut node = Node::new();
    node.start();
    node.ask(&["receive", "BER", "ticket", "100"]);
    let limits = ["limit-owners", "--holds", "2", "--units", "9", "--cool-down", "5m"];
    assert_eq!(node.ask(&limits).code, 0);
    let reserve = |owner: &str, units: &str| {
        node.ask(&["reserve-from", "ticket", units, "BER", "--owner", owner])
    };
    assert_eq!(reserve("ann", "4").code, 0);
    let too_many = reserve("ann", "6");
    assert!(too_many.code == 1 && too_many.err.contains("take 5 units"), "{}", too_many.err);
    assert_eq!(reserve("ann", "5").code, 0);
    let third = reserve("ann", "1");
    assert!(third.code == 1 && third.err.contains("OWNER_LIMIT"), "{}", third.err);
    assert_eq!(reserve("bob", "1").code, 0, "another one is not concerned");
    let ann = node.ask(&["owner", "ann"]);
    assert_eq!((field(&ann, "holds"), field(&ann, "units")), ("2 of 2", "9 of 9"));
    // Of this cell, and then of it only to somebody.
    assert_eq!(node.ask(&["policy", "BER", "ticket", "--owner-max", "3"]).code, 0);
    assert_eq!(field(&node.ask(&["details", "BER", "ticket"]), "owner_max"), "3");
    let more = reserve("cyd", "4");
    assert!(more.code == 1 && more.err.contains("one owner"), "{}", more.err);
    assert_eq!(reserve("cyd", "3").code, 0);
    let nobody = node.ask(&["reserve", "BER", "ticket", "1"]);
    assert!(nobody.code == 1 && nobody.err.contains("name one"), "{}", nobody.err);
    // What cannot be said.
    let too_long = node.ask(&["limit-owners", "--cool-down", "2h"]);
    assert!(too_long.code == 1 && too_long.err.contains("retention"), "{}", too_long.err);
    let no_name = node.ask(&["owner", &"x".repeat(33)]);
    assert!(no_name.code == 1 && no_name.err.contains("1 to 32"), "{}", no_name.err);
    let no_name = stockd(&["admin", "--admin", &node.admin, "owner", &"x".repeat(33)]);
    assert!(no_name.out.contains("1 to 32") || no_name.err.contains("1 to 32"), "{}", no_name.out);
    // As the node has it.
    let said = stockd(&["admin", "--admin", &node.admin, "owner", "bob"]);
    assert_eq!((field(&said, "holds"), field(&said, "holds_max")), ("1", "2"), "{}", said.err);
}

#[test]
fn a_sku_is_found_under_all_its_names() {
    let mut node = Node::new();
    node.start();
    node.ask(&["receive", "BER", "mug", "9"]);
    assert_eq!(node.ask(&["describe", "mug", "A mug", "--scale", "2"]).code, 0);
    assert_eq!(node.ask(&["alias", "mug", "becher"]).code, 0);
    assert_eq!(node.ask(&["rename", "becher", "tasse"]).code, 0);
    let held = node.ask(&["reserve", "BER", "becher", "2"]);
    assert_eq!(held.code, 0, "{}", held.err);
    assert_eq!(field(&node.ask(&["read", "BER", "tasse"]), "reserved"), "2");
    let found = node.ask(&["catalogue", "mug"]);
    assert_eq!((field(&found, "title"), field(&found, "scale")), ("A mug", "2"));
    let names: Vec<_> = found.out.lines().filter_map(|line| line.strip_prefix("name   ")).collect();
    assert_eq!(names, ["tasse", "mug", "becher"]);
    assert!(node.ask(&["list", "ta"]).out.contains("tasse"), "lists show the new name");
    node.ask(&["receive", "BER", "cup", "1"]);
    let taken = node.ask(&["alias", "cup", "mug"]);
    assert!(taken.code == 1 && taken.err.contains("CONFLICT"), "{}", taken.err);
    let none = node.ask(&["catalogue", "nothing"]);
    assert!(none.code == 1 && none.err.contains("no SKU"), "{}", none.err);
    let long = node.ask(&["describe", "mug", &"x".repeat(65)]);
    assert!(long.code == 1 && long.err.contains("65 bytes"), "{}", long.err);
    let said = stockd(&["admin", "--admin", &node.admin, "catalogue", "becher"]);
    assert_eq!(field(&said, "title"), "A mug", "{}", said.err);
}

#[test]
fn whoever_crosses_a_reorder_point_is_told_of() {
    let mut node = Node::new();
    node.start();
    node.ask(&["receive", "BER", "mug", "9"]);
    node.ask(&["receive", "HAM", "mug", "9"]);
    assert_eq!(node.ask(&["policy", "BER", "mug", "--reorder-point", "5"]).code, 0);
    assert_eq!(node.ask(&["reorder", "mug", "12"]).code, 0);
    assert_eq!(node.ask(&["crossings"]).out, "");
    assert_eq!(node.ask(&["reserve", "BER", "mug", "7", "--commit"]).code, 0);
    assert_eq!(node.ask(&["receive", "HAM", "mug", "2"]).code, 0);
    let said = node.ask(&["crossings"]);
    let words: Vec<Vec<&str>> =
        said.out.lines().map(|line| line.split(' ').skip(2).collect()).collect();
    let [cell, sku, enough] = &words[..] else { panic!("{}", said.out) };
    assert_eq!(cell[..], ["low", "BER", "mug", "2", "of", "5"]);
    assert_eq!(sku[..], ["low", "(all)", "mug", "11", "of", "12"]);
    assert_eq!(enough[..], ["enough", "(all)", "mug", "13", "of", "12"]);
    assert!(node.ask(&["crossings", "--from", "2"]).out.starts_with("2 "));
    assert!(node.ask(&["skus"]).out.contains("mug"), "{}", node.ask(&["skus"]).out);
    assert!(!node.ask(&["skus", "--low"]).out.contains("mug"));
    assert_eq!(field(&node.ask(&["catalogue", "mug"]), "point"), "12");
}

/// Turns over a bit in the middle of the first segment's records; gives the file's name.
fn damage(data: &Path) -> String {
    let name = "segment-0000000001.log";
    let path = data.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // Behind the header, before the last records.
    bytes[(4096 + end) / 2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    name.to_owned()
}

/// What the process has allocated, resident or not.
fn allocated_kib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmData:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn frames_that_are_only_announced_cost_no_memory() {
    const CONNECTIONS: u64 = 200;
    let mut node = Node::new();
    node.start();
    let mut announcement = bytes::BytesMut::new();
    let hello = Header { request_id: 0, kind: Kind::Hello, shard: ShardId(0) };
    let start = begin_frame(&mut announcement, hello);
    Hello { magic: MAGIC, version_min: 1, version_max: 1, client_name: b"" }
        .encode(&mut announcement);
    finish_frame(&mut announcement, start);
    announcement.extend_from_slice(&(limits::FRAME_BYTES_MAX - 4).to_le_bytes());
    announcement.extend_from_slice(&[0; Header::BYTES - 4]);
    let before = allocated_kib(node.process.as_ref().unwrap());
    let mut connections: Vec<TcpStream> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&node.client).unwrap();
        stream.write_all(&announcement).unwrap();
        // The answer to the hello: all of the announcement was read with it.
        stream.read_exact(&mut [0; Header::BYTES]).unwrap();
        connections.push(stream);
    }
    let growth = allocated_kib(node.process.as_ref().unwrap()) - before;
    let announced = CONNECTIONS * u64::from(limits::FRAME_BYTES_MAX) / 1024;
    assert!(growth < announced / 8, "{growth} KiB for {announced} KiB that never came");
    assert_eq!(node.leave(), Some(0));
}
