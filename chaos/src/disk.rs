//! The disk of one node: a small ext4 of its own, whose power can be cut.
//!
//! ```text
//! work/n1.img ── loop device ── work/n1/    ext4, mounted in this sandbox only
//!                                 data/     the node's directory
//!                                 kept/     hard links to each of its segments, purged or not
//!                                 gone-1/   what a wiped node had
//! ```
//!
//! `kill -9` loses nothing, because the kernel still has what was written. A power cut does, and
//! `EXT4_IOC_SHUTDOWN` makes one without a second machine: from then on nothing reaches the disk, and
//! after mounting again only what was synced is there. Delayed allocation's kindness to programs that
//! rename without a sync is off, and the journal is committed only when somebody asks for it.
//!
//! Without loop devices the disk is a directory, which neither loses power nor fills up.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FallocateFlags;

use crate::host::run;
use crate::kernel;

/// Sparse: only what is written takes space.
const IMAGE_BYTES: u64 = 6 << 30;
const MOUNT_OPTIONS: &str = "loop,noatime,noauto_da_alloc,commit=300";

/// A disk that is mounted.
pub struct Disk {
    image: Option<PathBuf>,
    mount: PathBuf,
    wiped: u32,
}

impl Disk {
    /// Makes node `id` an ext4 in `work`, or a directory.
    ///
    /// # Errors
    /// The machine does not allow it; says what was tried.
    pub fn make(work: &Path, id: u64, ext4: bool) -> Result<Self, String> {
        let mount = work.join(format!("n{id}"));
        fs::create_dir_all(&mount).map_err(|error| format!("{}: {error}", mount.display()))?;
        let image = ext4.then(|| work.join(format!("n{id}.img")));
        if let Some(image) = &image {
            let sized = fs::File::create(image).and_then(|file| file.set_len(IMAGE_BYTES));
            sized.map_err(|error| format!("{}: {error}", image.display()))?;
            // Root's reserve would be space that a full disk still has.
            run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))?;
        }
        let disk = Self { image, mount, wiped: 0 };
        disk.mount()?;
        fs::create_dir_all(disk.kept()).map_err(|error| error.to_string())?;
        Ok(disk)
    }

    /// Gives it up for good.
    ///
    /// # Errors
    /// What `umount` says.
    pub fn discard(self) -> Result<(), String> {
        let Some(image) = &self.image else { return Ok(()) };
        run(Command::new("umount").arg(&self.mount))?;
        fs::remove_file(image).map_err(|error| error.to_string())
    }

    /// The node's directory.
    pub fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    fn kept(&self) -> PathBuf {
        self.mount.join("kept")
    }

    fn mount(&self) -> Result<(), String> {
        let Some(image) = &self.image else { return Ok(()) };
        run(Command::new("mount").args(["-o", MOUNT_OPTIONS]).arg(image).arg(&self.mount))
    }

    /// Loses what is not synced; everything fails until [`restore_power`](Self::restore_power).
    ///
    /// # Errors
    /// See [`kernel::cut_power`].
    pub fn cut_power(&self) -> io::Result<()> {
        kernel::cut_power(&self.mount)
    }

    /// Mounts what is left. No process may have a file open.
    ///
    /// # Errors
    /// What `umount` or `mount` says.
    pub fn restore_power(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.mount))?;
        self.mount()
    }

    /// Takes all space.
    ///
    /// # Errors
    /// The disk does not work.
    pub fn fill(&self) -> io::Result<()> {
        let file = fs::File::create(self.balloon())?;
        let (mut at, mut piece) = (0, 1 << 30);
        while piece >= 4096 {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), at, piece) {
                Ok(()) => at += piece,
                Err(rustix::io::Errno::NOSPC | rustix::io::Errno::FBIG) => piece /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives the space back, also if power is cut right after.
    ///
    /// # Errors
    /// The disk does not work.
    pub fn free(&self) -> io::Result<()> {
        fs::remove_file(self.balloon())?;
        fs::File::open(&self.mount)?.sync_all()
    }

    fn balloon(&self) -> PathBuf {
        self.mount.join("balloon")
    }

    /// Gives each segment a second name, so that a purge keeps the bytes for the check afterwards.
    ///
    /// # Errors
    /// The disk does not work, or has no power.
    pub fn keep_segments(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.data())? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            if !(text.starts_with("segment-") && text.ends_with(".log")) {
                continue;
            }
            match keep(&self.data().join(&name), &self.kept().join(&name)) {
                // Purged between the listing and now: it was kept before.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Empties the node's directory; what was in it stays for the check.
    ///
    /// # Errors
    /// The disk does not work.
    pub fn wipe(&mut self) -> io::Result<()> {
        self.keep_segments()?;
        self.wiped += 1;
        fs::rename(self.kept(), self.mount.join(format!("gone-{}", self.wiped)))?;
        fs::remove_dir_all(self.data())?;
        fs::create_dir(self.kept())
    }

    /// Directories with segments of all logs that this disk ever had.
    pub fn logs(&self) -> Vec<PathBuf> {
        let gone = (1..=self.wiped).map(|number| self.mount.join(format!("gone-{number}")));
        gone.chain([self.kept()]).collect()
    }
}

/// Makes `kept` a name of the file `name`. A spare that was never used may have been made anew.
fn keep(name: &Path, kept: &Path) -> io::Result<()> {
    let inode = fs::metadata(name)?.ino();
    match fs::metadata(kept) {
        Ok(found) if found.ino() == inode => return Ok(()),
        Ok(_) => fs::remove_file(kept)?,
        Err(_) => {}
    }
    fs::hard_link(name, kept)
}
