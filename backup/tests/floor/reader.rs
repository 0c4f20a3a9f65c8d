//! The independent reader (`tests/reader`, Python) against repositories that this program wrote: a
//! test of FORMAT.md alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vellum_backup::format::RepositoryFile;
use vellum_backup::objects::twice::copy_of;
use vellum_backup::objects::{Folder, ObjectName, Objects};
use vellum_backup::seal::{KeyFile, Opener, PasswordCost, Sealer, Secrets, create_key};

use crate::sample::{CHUNK_LEN, Sample, build};

/// Cheap, so that the test is: the rule is the same.
const COST: PasswordCost = PasswordCost {
    memory_kib: 256,
    passes: 2,
    lanes: 2,
};

/// The interpreter with the reader's packages, which `dev/install-python` installs beside this
/// test's own program.
fn python() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let target = own
        .ancestors()
        .find(|folder| folder.join("tools/python/bin/python").exists());
    let target = target.unwrap_or_else(|| {
        panic!(
            "run dev/install-python first: there is no tools/python above {}",
            own.display()
        )
    });
    target.join("tools/python/bin/python")
}

fn read(repository: &Path, words: &[&str], key: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/read_repository.py");
    let mut command = Command::new(python());
    command.arg(script).arg(repository).args(words).args(key);
    command.output().expect("the interpreter starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_stranger_reads_plain_and_encrypted_repositories_from_the_format_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (password, key_file) = (folder.path().join("password"), folder.path().join("key"));
    std::fs::write(&password, "pässword\n").expect("a file can be written");
    let key = KeyFile::generate().expect("random bytes");
    std::fs::write(&key_file, key.to_text().as_bytes()).expect("a file can be written");
    let openers = [
        Opener::Password("pässword".to_owned().into()),
        Opener::KeyFile(key),
    ];
    for is_encrypted in [false, true] {
        let path = folder.path().join(format!("repository-{is_encrypted}"));
        let sample = build_with_keys(&path, is_encrypted, &openers);
        let keys: &[&[&str]] = if is_encrypted {
            &[
                &["--password-file", password.to_str().expect("text")],
                &["--key-file", key_file.to_str().expect("text")],
            ]
        } else {
            &[&[]]
        };
        for key in keys {
            assert_all_is_read(&path, &sample.disks, key);
        }
        lose_what_has_copies(&path);
        assert_all_is_read(&path, &sample.disks, keys[0]);
        if is_encrypted {
            let wrong = folder.path().join("wrong");
            std::fs::write(&wrong, "password").expect("a file can be written");
            let key = ["--password-file", wrong.to_str().expect("text")];
            let refused = read(&path, &["list"], &key);
            assert!(
                !refused.status.success() && text(&refused.stderr).contains("no key opens"),
                "{}",
                text(&refused.stderr)
            );
        }
    }
}

/// Gives every object that leads to chunks its copy, and then loses the object: every other one is
/// deleted, the rest get other bytes.
fn lose_what_has_copies(path: &Path) {
    let objects = Folder::new(path.to_owned());
    let mut names = Vec::new();
    let listed = objects.list("", &mut |name, _| {
        names.extend(ObjectName::parse(name).filter(|name| copy_of(name).is_some()));
        Ok(())
    });
    listed.expect("a listing");
    assert!(names.len() > 5, "{names:?}");
    for (nth, name) in names.iter().enumerate() {
        let (text, copy) = (name.to_string(), copy_of(name).expect("it has one"));
        let stored = objects.get(&text).expect("it is there");
        objects.put(&copy, &stored).expect("a copy");
        if nth % 2 == 0 {
            objects.delete(&text).expect("deleted");
        } else {
            objects.replace(&text, b"\0rotten").expect("replaced");
        }
    }
}

/// Makes the repository of the sample, with a key for each opener if it is encrypted.
fn build_with_keys(path: &Path, is_encrypted: bool, openers: &[Opener]) -> Sample {
    let objects = Folder::new(path.to_owned());
    let file = RepositoryFile::new(is_encrypted, CHUNK_LEN as u32).expect("random bytes");
    let secrets = Secrets::generate().expect("random bytes");
    let sealer = if is_encrypted {
        Sealer::encrypted(file.id, &secrets)
    } else {
        Sealer::plain(file.id)
    };
    for opener in openers.iter().filter(|_| is_encrypted) {
        let key = create_key(
            &secrets,
            &file,
            opener,
            "Schlüssel 1",
            1_767_225_600_000,
            COST,
        )
        .expect("a key");
        objects
            .put(&ObjectName::Key(key.id).to_string(), &key.bytes)
            .expect("put");
    }
    build(&objects, &file, &sealer, &mut crate::random())
}

/// Asserts that the reader lists what is there and nothing else, and restores it.
fn assert_all_is_read(path: &Path, disks: &BTreeMap<String, Vec<u8>>, key: &[&str]) {
    let listed = read(path, &["list"], key);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let names: Vec<String> = text(&listed.stdout)
        .lines()
        .map(|line| line.split(' ').nth(1).unwrap_or("").to_owned())
        .collect();
    assert_eq!(
        names,
        ["web", "web@first"],
        "what was forgotten or came too late is not there"
    );
    let out = path.with_extension("out");
    for (name, disk) in disks {
        let restored = read(path, &["restore", name, out.to_str().expect("text")], key);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
        assert!(
            std::fs::read(&out).expect("a file") == *disk,
            "{name} is another disk"
        );
        std::fs::remove_file(&out).expect("a file");
    }
}
