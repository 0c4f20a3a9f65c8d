//! Folders as places for objects: what others planted there, what an interruption leaves, and what
//! a full or locked one says.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use vellum_backup::objects::{Folder, ObjectErrorKind, Objects};

fn names(objects: &dyn Objects, prefix: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    objects
        .list(prefix, &mut |name, len| {
            found.push((name.to_owned(), len));
            Ok(())
        })
        .expect("a listing");
    found.sort();
    found
}

fn files_in(path: &Path) -> usize {
    fs::read_dir(path).expect("a folder").count()
}

#[test]
fn objects_are_put_read_listed_and_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Folder::new(folder.path().join("deep/repository"));
    assert_eq!(
        objects
            .get("vellum.repository")
            .expect_err("nothing yet")
            .kind,
        ObjectErrorKind::Missing
    );
    objects.put("vellum.repository", b"what").expect("put");
    objects.put("packs/ab/one", b"0123456789").expect("put");
    objects.put("packs/cd/two", b"").expect("put");
    objects
        .put("packs/ab/one", b"0123456789")
        .expect("the same again");
    assert_eq!(objects.get("packs/ab/one").expect("there"), b"0123456789");
    assert_eq!(
        objects.get_range("packs/ab/one", 2..5).expect("there"),
        b"234"
    );
    assert!(
        objects.get_range("packs/ab/one", 2..11).is_err(),
        "exactly as many as asked for"
    );
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "a caller's mistake must not become a panic"
    )]
    let reversed = objects.get_range("packs/ab/one", 5..2);
    assert!(reversed.is_err());
    assert_eq!(
        names(&objects, "packs/"),
        [
            ("packs/ab/one".to_owned(), 10),
            ("packs/cd/two".to_owned(), 0)
        ]
    );
    assert_eq!(
        names(&objects, "packs/ab/"),
        [("packs/ab/one".to_owned(), 10)]
    );
    assert_eq!(names(&objects, "").len(), 3);
    assert_eq!(names(&objects, "journal/"), []);
    objects.delete("packs/ab/one").expect("gone");
    objects.delete("packs/ab/one").expect("gone already");
    assert_eq!(
        objects.get("packs/ab/one").expect_err("gone").kind,
        ObjectErrorKind::Missing
    );
}

#[test]
fn nothing_is_written_over_and_nothing_half_written_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Folder::new(folder.path().to_owned());
    objects.put("keys/one", b"first").expect("put");
    let refused = objects
        .put("keys/one", b"second")
        .expect_err("another object");
    assert!(refused.to_string().contains("keys/one"), "{refused}");
    assert_eq!(objects.get("keys/one").expect("there"), b"first");
    assert_eq!(
        files_in(&folder.path().join("keys")),
        1,
        "no partial file stays"
    );
}

#[test]
fn names_that_leave_the_folder_or_hide_are_no_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Folder::new(folder.path().join("repository"));
    objects.put("vellum.repository", b"what").expect("put");
    for name in [
        "../outside",
        "/etc/passwd",
        "keys/../../outside",
        "",
        "keys//x",
        "keys/.partial-0",
        "a/b/c/d",
        "keys/\0",
    ] {
        assert!(objects.put(name, b"x").is_err(), "{name:?}");
        assert!(objects.get(name).is_err(), "{name:?}");
        assert!(objects.delete(name).is_err(), "{name:?}");
    }
    assert_eq!(files_in(folder.path()), 1);
}

#[test]
fn links_pipes_and_folders_in_an_objects_place_are_not_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("repository");
    let objects = Folder::new(root.clone());
    objects.put("keys/one", b"first").expect("put");
    fs::write(folder.path().join("secret"), "outside").expect("a file");
    fs::create_dir(folder.path().join("elsewhere")).expect("a folder");
    symlink(folder.path().join("secret"), root.join("keys/link")).expect("a link");
    symlink(folder.path().join("elsewhere"), root.join("packs")).expect("a link");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        root.join("keys/pipe"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .expect("a pipe");
    fs::create_dir(root.join("keys/folder")).expect("a folder");
    let refused = objects.get("keys/link").expect_err("a link");
    assert!(refused.to_string().contains("link"), "{refused}");
    for name in ["keys/pipe", "keys/folder"] {
        assert!(objects.get(name).is_err(), "{name}");
    }
    assert!(objects.put("keys/link", b"x").is_err());
    assert!(
        objects
            .put("packs/ab/one", b"x")
            .expect_err("a linked folder")
            .to_string()
            .contains("link")
    );
    assert_eq!(
        fs::read(folder.path().join("secret")).expect("untouched"),
        b"outside"
    );
    assert_eq!(files_in(&folder.path().join("elsewhere")), 0);
    assert_eq!(names(&objects, "keys/"), [("keys/one".to_owned(), 5)]);
    assert!(
        objects.list("packs/", &mut |_, _| Ok(())).is_err(),
        "a listing through a link would be somebody else's"
    );
}

/// Which leftovers go: those of processes of this running system that are over at once, others when
/// nobody else is at work, and none that somebody holds a lock on.
#[test]
fn leftovers_of_the_dead_are_hidden_and_removed_and_those_of_the_living_stay() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = Folder::new(folder.path().to_owned());
    objects.put("packs/ab/one", b"first").expect("put");
    let mut child = std::process::Command::new("true").spawn().expect("a child");
    let (dead, own) = (child.id(), std::process::id());
    child.wait().expect("it ends");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    let path = |name: &str| folder.path().join("packs/ab").join(name);
    let of_the_dead = path(&format!(".partial-{}-{dead}-0123456789abcdef", &boot[..8]));
    let of_this = path(&format!(".partial-{}-{own}-0123456789abcdef", &boot[..8]));
    let (elsewhere, locked) = (
        path(&format!(".partial-00000000-{dead}-0")),
        path(".partial-1"),
    );
    for left in [&of_the_dead, &of_this, &elsewhere, &locked] {
        fs::write(left, "half").expect("a file");
    }
    let file = fs::File::open(&locked).expect("a file");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    assert_eq!(names(&objects, "").len(), 1);
    let remove = |is_alone| {
        let left = objects.leftovers().expect("a look");
        let gone = left.iter().filter(|name| {
            objects
                .remove_leftover(name, is_alone)
                .expect("it can be removed")
        });
        (left.len(), gone.count())
    };
    assert_eq!(remove(false), (4, 1));
    assert!(!of_the_dead.exists() && elsewhere.exists());
    assert_eq!(remove(true), (3, 2));
    assert!(locked.exists());
    // Not only closed: what another test is just starting may have it open.
    rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock).expect("it is ours");
    drop(file);
    assert_eq!(remove(true), (1, 1));
    assert_eq!(names(&objects, "").len(), 1);
}

/// A file system of 64 KiB, mounted where the machine lets us; elsewhere the test says that it was
/// not run.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let options = c"size=64k";
        match rustix::mount::mount(
            "tmpfs",
            folder.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options,
        ) {
            Ok(()) => Some(Self(folder)),
            Err(errno) => {
                println!("not run: no small file system can be mounted here: {errno}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH)
            .expect("what was mounted can be unmounted");
    }
}

#[test]
fn a_full_folder_is_told_as_full_and_keeps_no_partial_file() {
    let Some(small) = Small::mount() else { return };
    let objects = Folder::new(small.0.path().to_owned());
    objects.put("keys/one", b"first").expect("put");
    let refused = objects
        .put("keys/two", &vec![7; 200_000])
        .expect_err("no room");
    assert_eq!(refused.kind, ObjectErrorKind::Full, "{refused}");
    assert_eq!(files_in(&small.0.path().join("keys")), 1);
    objects.delete("keys/one").expect("deleting needs no room");
}

/// Names the folder for the process below.
const DENIED: &str = "VELLUM_TEST_DENIED";
const NOBODY: u32 = 65_534;

/// Root may write anywhere, so root has somebody else try it, with a copy of this test that
/// everybody may run. Another process makes the copy: a file that this one has written cannot be
/// run as long as what another test is just starting has it open.
#[test]
fn a_folder_that_may_not_be_written_is_told_as_denied() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("repository");
    Folder::new(root.clone())
        .put("keys/one", b"first")
        .expect("put");
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    // Others may read what they were allowed to.
    allow(&root.join("keys/one"), 0o644);
    allow(&root.join("keys"), 0o555);
    if rustix::process::geteuid().is_root() {
        [folder.path(), &root]
            .iter()
            .for_each(|path| allow(path, 0o755));
        let copy = folder.path().join("test");
        let own = std::env::current_exe().expect("a test has a path");
        assert!(
            Command::new("cp")
                .arg(own)
                .arg(&copy)
                .status()
                .expect("every system has it")
                .success()
        );
        let mut other = Command::new(&copy);
        other
            .args(["--exact", "folder::denied", "--ignored", "--nocapture"])
            .env(DENIED, &root)
            .current_dir("/");
        let done = other
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap_or_else(|error| panic!("nobody can run {}: {error}", copy.display()));
        assert!(
            done.status.success(),
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(
            String::from_utf8_lossy(&done.stdout).contains("was denied"),
            "it was not tried"
        );
    } else {
        assert_denied(&root);
    }
    allow(&root.join("keys"), 0o755);
}

fn assert_denied(root: &Path) {
    let objects = Folder::new(root.to_owned());
    assert_eq!(
        objects
            .put("keys/two", b"second")
            .expect_err("not allowed")
            .kind,
        ObjectErrorKind::Denied
    );
    assert_eq!(
        objects.delete("keys/one").expect_err("not allowed").kind,
        ObjectErrorKind::Denied
    );
    assert_eq!(objects.get("keys/one").expect("it may be read"), b"first");
    assert_eq!(files_in(&root.join("keys")), 1);
    println!("{} was denied", root.display());
}

#[test]
#[ignore = "started as another user by the test of a folder that may not be written"]
fn denied() {
    if let Some(root) = std::env::var_os(DENIED) {
        assert_denied(Path::new(&root));
    }
}
