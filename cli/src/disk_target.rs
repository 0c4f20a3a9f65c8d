//! The target of an export: a file, a block device, a pipe, or standard output.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::fs::OFlags;
use rustix::io::Errno;
use vellum_store::Destination;

use crate::failure::Failure;
use crate::patience::{PATIENCE, Patient};
use crate::session::Session;

/// The file formats that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// The disk's bytes as they are
    Raw,
}

/// Endings of names that promise another format than the disk's bytes as they are.
const OTHER_ENDINGS: [&str; 27] = [
    "vdi", "vmdk", "vhd", "vhdx", "avhd", "avhdx", "vpc", "qcow", "qcow2", "qcow3", "qed", "hdd",
    "hds", "ova", "ovf", "vma", "dmg", "gz", "tgz", "bz2", "xz", "zst", "lz4", "zip", "7z", "tar",
    "rar",
];

/// The meaning of a file argument, `-` included.
pub(crate) enum DiskTarget {
    /// Bytes in order, zeros and all.
    Stream(Box<dyn Write + Send>),
    /// A file or device, written at any place.
    Path(PathBuf),
}

impl DiskTarget {
    /// Finds the target that `file` names; without a `format` its name must not promise another
    /// than is written.
    pub(crate) fn of(
        file: &Path,
        format: Option<OutputFormat>,
        session: &mut Session,
    ) -> Result<Self, Failure> {
        if file.as_os_str() == "-" {
            return Ok(Self::Stream(Box::new(session.disk_output()?)));
        }
        let path = session.caller.path(file);
        let fail = |error| Failure::io(format!("write {}", path.display()), error);
        match Destination::of(&path).map_err(fail)? {
            Destination::Descriptor(1) => Ok(Self::Stream(Box::new(session.disk_output()?))),
            Destination::Stream(stream) if is_standard_output(&stream, session) => {
                Ok(Self::Stream(Box::new(session.disk_output()?)))
            }
            Destination::Stream(stream) if is_pipe(&stream) => {
                Ok(Self::Stream(Box::new(open_pipe(&stream, session)?)))
            }
            Destination::File(_) => {
                format.map_or_else(|| check_ending(file), |_| Ok(()))?;
                Ok(Self::Path(path))
            }
            _ => Ok(Self::Path(path)),
        }
    }
}

/// True if `stream` is the pipe or terminal that answers go to: then they must go elsewhere.
fn is_standard_output(stream: &Path, session: &Session) -> bool {
    let output = session.caller.streams.output.file().metadata();
    let stream = std::fs::metadata(stream);
    matches!(
        (stream, output),
        (Ok(stream), Ok(output)) if (stream.dev(), stream.ino()) == (output.dev(), output.ino())
    )
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

fn check_ending(file: &Path) -> Result<(), Failure> {
    let ending = file
        .extension()
        .and_then(|ending| ending.to_str())
        .map(str::to_ascii_lowercase)
        .filter(|ending| OTHER_ENDINGS.contains(&ending.as_str()));
    ending.map_or(Ok(()), |ending| {
        let file = file.display();
        Err(Failure::usage(
            format!("{file} would be a raw disk, and by its name it is {ending}"),
            "name it .raw, and `qemu-img convert` makes other formats of it; -O raw writes it as \
             it is under any name",
        ))
    })
}

/// A pipe with a name, once somebody reads it: its opening would wait for that, deaf to Ctrl-C.
fn open_pipe(path: &Path, session: &Session) -> Result<Patient<File>, Failure> {
    loop {
        match File::options()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
        {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                session.signals.await_stop(PATIENCE);
                session.signals.check()?;
            }
            Err(error) => return Err(Failure::io(format!("open {}", path.display()), error)),
            Ok(file) => return Ok(Patient::new(file, session.signals.clone())),
        }
    }
}

/// `failure` with the remedy of our own for what is there already, if that is what the system said.
pub(crate) fn with_remedy(failure: Failure, said: Option<io::ErrorKind>) -> Failure {
    if said == Some(io::ErrorKind::AlreadyExists) {
        failure.hinted("add --force to replace it, or name another file")
    } else {
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_promises_another_format_is_refused() {
        for name in ["x.vdi", "x.QCOW2", "a.b/x.raw.gz", "x.ova"] {
            assert!(check_ending(Path::new(name)).is_err(), "{name}");
        }
        for name in [
            "x",
            "x.raw",
            "x.img",
            "x.iso",
            "vdi",
            ".vdi",
            "x.vdi.raw",
            "x.vdi/y",
        ] {
            assert!(check_ending(Path::new(name)).is_ok(), "{name}");
        }
    }
}
