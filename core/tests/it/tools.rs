//! Other people's programs, and file systems that are mounted for a moment.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use vellum_core::source::{Extent, ExtentKind, ImageSource, ReadAt, SourceError};

/// A program, found where root finds it, that speaks English.
fn command(program: &str, arguments: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("PATH", format!("/usr/sbin:/sbin:{path}"))
        .env("LC_ALL", "C")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .env("MTOOLS_SKIP_CHECK", "1");
    command
}

/// Runs a program and gives its end.
pub(crate) fn output(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = command(program, arguments)
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
    /// The process that has it, where it is not the kernel: once it has ended, all is written.
    server: Option<Child>,
}

/// How often something is tried that others may hold up for a moment.
const TRIES: usize = 500;

fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

impl Mounted {
    /// Mounts `disk`; `None` where that is not possible, and says so.
    pub(crate) fn new(disk: &Path, kind: &str, options: &str) -> Option<Self> {
        let folder = disk.with_extension("mounted");
        std::fs::create_dir_all(&folder).expect("room");
        let found = if kind == "ntfs" {
            Self::served(disk, folder, options)
        } else {
            Self::by_kernel(disk, folder, kind, options)
        };
        found
            .map_err(|reason| println!("left out: {kind} cannot be mounted here: {reason}"))
            .ok()
    }

    fn by_kernel(disk: &Path, folder: PathBuf, kind: &str, options: &str) -> Result<Self, String> {
        let kind = if kind == "exfat" { "exfat-fuse" } else { kind };
        let options = format!("loop,{options}");
        let words = ["-t", kind, "-o", &options, text(disk), text(&folder)];
        let done = output("mount", &words, "");
        let server = None;
        if done.status.success() {
            Ok(Self { folder, server })
        } else {
            Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
        }
    }

    /// ntfs-3g, which writes behind the back of whoever unmounts it.
    fn served(disk: &Path, folder: PathBuf, options: &str) -> Result<Self, String> {
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
        let before = device(&folder).expect("made");
        let options = format!("no_detach,{options}");
        let mut server = command("ntfs-3g", &["-o", &options, text(disk), text(&folder)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`make packages` installs it");
        for _ in 0..TRIES {
            if let Some(status) = server.try_wait().expect("a child") {
                return Err(status.to_string());
            }
            if device(&folder).is_ok_and(|device| device != before) {
                let server = Some(server);
                return Ok(Self { folder, server });
            }
            pause();
        }
        let _ = server.kill();
        Err("it takes too long".to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let folder = text(&self.folder);
        let (program, words): (_, &[&str]) = match self.server {
            Some(_) => ("fusermount3", &["-u", folder]),
            None => ("umount", &[folder]),
        };
        // A program that another test starts has its files open for a moment.
        let is_unmounted = (0..TRIES).any(|_| {
            let done = output(program, words, "").status.success();
            if !done {
                pause();
            }
            done
        });
        assert!(
            is_unmounted || std::thread::panicking(),
            "{folder} cannot be unmounted"
        );
        if let Some(server) = &mut self.server {
            server.wait().expect("a child");
        }
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
