//! A full disk: writes are refused, reads are answered, and when there is space again all goes on.
//!
//! The disk is a tmpfs of 48 MiB in a mount namespace of its own, which a holder process keeps and
//! which goes with it; the test reaches it through `/proc/PID/root`. That takes root or user
//! namespaces. Where there is neither, a second test always runs: it limits the size of files
//! (RLIMIT_FSIZE), so that the log gets no further segment. Each test says what it used.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use stockd_client::{Batch, CellRef, Client, Code, Consistency, Error, Options, Why};

use crate::buyers::{Buyers, Market, options, sku};
use crate::harness::Cluster;
use crate::node::Node;
use crate::until;

/// A small disk that exists as long as this does.
struct SmallDisk {
    holder: Child,
}

/// Where it is mounted, inside its namespace.
const MOUNT: &str = "/mnt";

impl SmallDisk {
    /// `None` if this machine does not allow it.
    async fn mount(mebibytes: u32) -> Option<Self> {
        for flags in ["--mount", "--mount --map-root-user"] {
            let script = format!(
                "mount -t tmpfs -o size={mebibytes}m stockd-test {MOUNT} && touch {MOUNT}/ready && \
                 exec sleep 600"
            );
            let mut command = Command::new("unshare");
            command.args(flags.split(' ')).args(["sh", "-c", &script]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let Ok(holder) = command.spawn() else { continue };
            let mut disk = Self { holder };
            let mut gone = false;
            until("a small disk, or none", async || {
                gone = disk.holder.try_wait().unwrap().is_some();
                gone || disk.path("ready").exists()
            })
            .await;
            if !gone {
                println!("a small disk: tmpfs of {mebibytes} MiB by unshare {flags}");
                return Some(disk);
            }
        }
        println!("no small disk: neither root nor user namespaces here");
        None
    }

    /// A file of the disk, as seen from outside.
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{MOUNT}/{name}", self.holder.id()))
    }

    /// Takes all space that is left.
    fn fill(&self) {
        let chunk = vec![1_u8; 1 << 20];
        let mut file = fs::File::create(self.path("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }

    /// Makes a node live on it.
    fn carry(&self, node: &mut Node) {
        let pid = self.holder.id().to_string();
        let user = if fs::read_link("/proc/self/ns/user").unwrap()
            == fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
        {
            vec![]
        } else {
            vec!["--user", "--preserve-credentials"]
        };
        let enter = [vec!["nsenter", "--target", &pid, "--mount"], user, vec!["--"]].concat();
        node.launcher = enter.into_iter().map(str::to_owned).collect();
        let name = format!("n{}", node.id);
        (node.data, node.data_here) = (PathBuf::from(MOUNT).join(&name), self.path(&name));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The smallest: its end is soon reached.
const SEGMENT: [&str; 2] = ["--segment-bytes", "2097152"];

/// Waits until the node says that its disk is full, and checks what clients are told.
async fn refused(cluster: &Cluster, buyers: &Buyers) {
    let impatient =
        Options { request_timeout: Duration::from_secs(1), ..options(&cluster.clients()) };
    let client = Client::connect(impatient).await.unwrap();
    until("the disk to be full", async || {
        // The buyers alone may take minutes to the end of a segment on a busy machine.
        let mut padding = Batch::new();
        (0..1_000).for_each(|_| padding.confirm(client.new_id()).unwrap());
        let _ = client.batch(padding).await; // refused when the disk is full
        cluster.node(1).status().await.is_some_and(|status| status.state == "disk full")
    })
    .await;
    // What came before the gate was shut still has its place.
    until("a write to be refused", async || {
        let refused = client.receive(client.new_op_id(), CellRef::name("W", "other"), 1).await;
        let full = |why: &Why| matches!(why, Why::Code { code, .. } if *code == Code::DISK_FULL);
        matches!(&refused, Err(Error::Retry(why)) if full(why))
    })
    .await;
    let name = sku(0);
    let read = client.read_cell(CellRef::name("W", &name), Consistency::Linearizable).await;
    assert!(read.unwrap().value.is_some(), "reads are answered");
    let refusals = async |count: u64| {
        until("buyers to be refused", async || buyers.answers("reserve: not done") >= count).await;
    };
    refusals(1).await;
    let full = buyers.acknowledged();
    refusals(4).await;
    assert_eq!(buyers.acknowledged(), full, "nothing is acknowledged that has no space");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_space_again() {
    let Some(disk) = SmallDisk::mount(48).await else {
        return println!("see files_that_cannot_grow_refuse_writes_until_they_can instead");
    };
    let mut cluster = Cluster::prepare(1, &SEGMENT);
    disk.carry(cluster.node_mut(1));
    cluster.form().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    disk.fill();
    refused(&cluster, &buyers).await;
    // A node that is full starts all the same.
    cluster.node_mut(1).kill();
    cluster.node_mut(1).start().await;
    disk.empty();
    buyers.progress(200).await;
    cluster.node_mut(1).kill();
    cluster.node_mut(1).start().await;
    buyers.progress(200).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn files_that_cannot_grow_refuse_writes_until_they_can() {
    println!("a full disk by RLIMIT_FSIZE, through prlimit");
    let mut cluster = Cluster::prepare(1, &SEGMENT);
    // The signal that comes with the limit would end the process; it must see the error instead.
    let launcher = ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""];
    cluster.node_mut(1).launcher = launcher.map(str::to_owned).to_vec();
    cluster.form().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    cluster.node(1).limit_file_bytes("65536:unlimited");
    refused(&cluster, &buyers).await;
    cluster.node(1).limit_file_bytes("unlimited:unlimited");
    buyers.progress(200).await;
    cluster.node_mut(1).kill();
    cluster.node_mut(1).start().await;
    buyers.progress(200).await;
    cluster.verify(buyers).await;
}
