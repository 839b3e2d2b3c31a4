//! Two requests to the kernel that no library has as a safe function.
#![expect(unsafe_code, reason = "an ioctl is untyped; each one here has the type its header says")]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Setter, Updater, ioctl, opcode};

/// `_IOR('X', 125, __u32)` of `fs/ext4/ext4.h`.
const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
/// Neither data nor journal is written any more: what a power cut does.
const NO_LOG_FLUSH: u32 = 2;

/// `_IOW('T', 202, int)` of `linux/if_tun.h`; it takes a `struct ifreq` in truth.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;
/// `struct ifreq`: 16 bytes of name, a union of 24 that begins with the flags.
const IFREQ_BYTES: usize = 40;
const NAME_BYTES: usize = 16;

/// Ends all writing to the mounted ext4 at `mount`, as if its machine had lost power: what was not
/// synced is gone. It has to be unmounted and mounted again before it is of any use.
///
/// # Errors
/// It is no ext4, or the caller may not.
pub fn cut_power(mount: &Path) -> io::Result<()> {
    let directory = rustix::fs::open(mount, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    // SAFETY: EXT4_IOC_SHUTDOWN reads a __u32 through its argument, which Setter<_, u32> points to.
    let request = unsafe { Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH) };
    // SAFETY: as above; it changes no memory of this process.
    unsafe { ioctl(directory, request) }?;
    Ok(())
}

/// Makes a network interface whose packets are read from and written to the returned file. It goes
/// with the file.
///
/// # Errors
/// There is no `/dev/net/tun`, the caller may not, or the name is taken.
pub fn open_tun(name: &str) -> io::Result<File> {
    assert!(name.len() < NAME_BYTES, "an interface's name is short");
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0_u8; IFREQ_BYTES];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[NAME_BYTES..NAME_BYTES + 2].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq through its argument, whose size the array has;
    // any bytes are a valid array.
    let request = unsafe { Updater::<TUNSETIFF, [u8; IFREQ_BYTES]>::new(&mut request) };
    // SAFETY: as above.
    unsafe { ioctl(&file, request) }?;
    rustix::io::ioctl_fionbio(&file, true)?;
    Ok(file)
}
