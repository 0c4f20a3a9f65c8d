//! Other people's programs, and file systems that are mounted for a moment.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vellum_core::source::{Extent, ExtentKind, ImageSource, ReadAt, SourceError};

/// Runs a program and gives its end.
pub(crate) fn output(program: &str, arguments: &[&str], input: &str) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", format!("/usr/sbin:/sbin:{path}"))
        .env("LC_ALL", "C")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program} cannot be run ({error}); `make packages` installs it")
        });
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("the program reads");
    child.wait_with_output().expect("the program ends")
}

/// Runs a program, which must succeed, and gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    run_with(program, arguments, "")
}

/// Runs a program that reads `input`.
pub(crate) fn run_with(program: &str, arguments: &[&str], input: &str) -> String {
    let done = output(program, arguments, input);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// A file of `len` bytes of noise: what a disk has where nothing was written yet.
pub(crate) fn noise(path: &Path, len: u64, seed: u64) {
    let mut bytes = vec![0; len as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    std::fs::write(path, bytes).expect("room");
}

/// A file system that is mounted from a file until this is dropped.
pub(crate) struct Mounted {
    pub(crate) folder: PathBuf,
    is_fuse: bool,
}

impl Mounted {
    /// Mounts `disk`; `None` where that is not possible, and says so.
    pub(crate) fn new(disk: &Path, kind: &str, options: &str) -> Option<Self> {
        let folder = disk.with_extension("mounted");
        std::fs::create_dir_all(&folder).expect("room");
        let (disk_name, folder_name) = (text(disk), text(&folder));
        let looped = format!("loop,{options}");
        let (program, arguments) = match kind {
            "ntfs" => ("ntfs-3g", vec!["-o", options, disk_name, folder_name]),
            "exfat" => (
                "mount",
                vec!["-t", "exfat-fuse", "-o", &looped, disk_name, folder_name],
            ),
            _ => (
                "mount",
                vec!["-t", kind, "-o", options, disk_name, folder_name],
            ),
        };
        let done = output(program, &arguments, "");
        if done.status.success() {
            return Some(Self {
                folder,
                is_fuse: kind == "ntfs",
            });
        }
        println!(
            "left out: {kind} cannot be mounted here: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let program = if self.is_fuse {
            "fusermount3"
        } else {
            "umount"
        };
        let folder = text(&self.folder);
        let arguments: &[&str] = if self.is_fuse {
            &["-u", folder]
        } else {
            &[folder]
        };
        let done = output(program, arguments, "");
        assert!(
            done.status.success() || std::thread::panicking(),
            "{program}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

/// A file as a disk, all of it data.
pub(crate) struct FileDisk {
    file: File,
    len: u64,
}

impl FileDisk {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).expect("there");
        let len = file.metadata().expect("readable").len();
        Self { file, len }
    }
}

impl ReadAt for FileDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl ImageSource for FileDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn extent_at(&self, offset: u64) -> Result<Extent, SourceError> {
        Ok(Extent {
            start: offset,
            len: self.len - offset,
            kind: ExtentKind::Data,
        })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|source| SourceError::Io { offset, source })
    }
}
