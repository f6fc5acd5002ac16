//! Whether anybody has a file open for writing.

use std::os::fd::AsRawFd;

/// The signal that tells of a broken lease; its number is Linux's, which libc lacks.
const F_SETSIG: libc::c_int = 10;

/// Asks the kernel for a read lease, which it gives only while nobody can write, and gives it back at once.
/// `false` where leases are not to be had. Somebody who opens the file for writing in between waits those
/// microseconds.
pub(super) fn is_written(file: &impl AsRawFd) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: three calls on a descriptor that is open for as long as `file` is borrowed; none of them
    // touches memory. A lease that is being broken is told by a signal, and the default one would end
    // the agent: SIGURG is ignored unless somebody asks for it.
    unsafe {
        if libc::fcntl(fd, F_SETSIG, libc::SIGURG) != 0 {
            return false;
        }
        if libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn a_file_is_written_while_its_writer_has_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(is_written(&reader));
        drop(writer);
        assert!(!is_written(&reader));
        fs::write(&path, "not kept from writing").unwrap();
    }
}
