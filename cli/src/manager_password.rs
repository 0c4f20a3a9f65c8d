//! The file with the hash of the manager's password: how it is written, and what is not taken for
//! one. The password itself is never in it, nor in a message.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vellum_backup::seal::{PasswordCost, PasswordHash, PasswordHashError};
use vellum_store::{NewFileMode, write_whole_file};

use crate::failure::CommandFailure;
use crate::invocation::Invocation;
use crate::output::escape::shell_word;
use crate::repository::password::Password;

/// More than the text of any hash has.
const FILE_LEN_MAX: u64 = 4096;
/// Permissions of users who are not the file's owner.
const OTHERS: u32 = 0o077;
/// The shortest new password: what is reached from other machines is guessed at.
const PASSWORD_LEN_MIN: usize = 8;

/// The hash in the file at `path`, which its owner alone may use.
pub(crate) fn read_password_file(
    path: &Path,
    caller: &Invocation,
) -> Result<PasswordHash, CommandFailure> {
    let shown = path.display();
    let fail = |error| CommandFailure::io_error(format!("read the password file {shown}"), error);
    let (mode, text) = read_private_text(&caller.resolve_path(path)).map_err(fail)?;
    let word = shell_word(&path.to_string_lossy());
    if mode & OTHERS != 0 {
        return Err(CommandFailure::with_hint(
            format!("other users may use the password file {shown} (mode {mode:04o})"),
            format!("`chmod 600 {word}` makes it its owner's alone"),
        ));
    }
    PasswordHash::parse(text.trim_end()).map_err(|error| {
        let hint = match error {
            // It may be a password, and is not repeated.
            PasswordHashError::Form => "a password file holds a hash, $argon2id$v=19$…: ",
            _ => "",
        };
        CommandFailure::with_hint(
            format!("the password file {shown} cannot be used: {error}"),
            format!("{hint}`vellum manager password {word}` asks for a password and writes it"),
        )
    })
}

/// The permissions and the beginning of a file. What others may use is not read.
fn read_private_text(path: &Path) -> io::Result<(u32, String)> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mode = found.mode() & 0o777;
    let mut text = Vec::new();
    if mode & OTHERS == 0 {
        file.take(FILE_LEN_MAX).read_to_end(&mut text)?;
    }
    Ok((mode, String::from_utf8_lossy(&text).into_owned()))
}

/// Writes the hash of `password` to the file at `path`, in place of another one.
pub(crate) fn write_password_file(
    path: &Path,
    password: &Password,
    caller: &Invocation,
) -> Result<(), CommandFailure> {
    check_length(password)?;
    let hash = PasswordHash::of_password(password, PasswordCost::default())
        .map_err(|error| CommandFailure::with_hint(error.to_string(), "run it again"))?;
    let text = format!("{hash}\n");
    let place = caller.resolve_path(path);
    Ok(write_whole_file(
        &place,
        text.as_bytes(),
        true,
        NewFileMode::Private,
    )?)
}

/// Refuses to write where something else is than a password file of its owner's alone, which the
/// new one would replace and be like.
pub(crate) fn check_place(path: &Path, caller: &Invocation) -> Result<(), CommandFailure> {
    let is_there = std::fs::symlink_metadata(caller.resolve_path(path)).is_ok();
    if !is_there {
        return Ok(());
    }
    let present = read_password_file(path, caller).map(drop);
    present.map_err(|failure| {
        let hint = "only a password file is replaced: choose another name, or remove what is there";
        CommandFailure::with_hint(failure.to_string(), hint)
    })
}

fn check_length(password: &Password) -> Result<(), CommandFailure> {
    if password.chars().count() >= PASSWORD_LEN_MIN {
        return Ok(());
    }
    Err(CommandFailure::with_hint(
        format!("a password has at least {PASSWORD_LEN_MIN} letters here"),
        "some words that have nothing to do with each other are good, and easy to keep in mind",
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.to_owned())
    }

    #[test]
    fn a_written_file_is_its_owners_and_knows_its_password() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let caller = Invocation::in_folder(dir.path());
        let path = Path::new("secret");
        for text in ["correct horse", "another one"] {
            check_place(path, &caller).expect("it is new, or a password file");
            write_password_file(path, &password(text), &caller).expect("room");
            let mode = std::fs::metadata(dir.path().join("secret")).expect("it is there");
            assert_eq!(mode.permissions().mode() & 0o777, 0o600);
            let hash = read_password_file(path, &caller).expect("it was written here");
            assert!(hash.is_of(text) && !hash.is_of("correct hors"));
        }
        let short = write_password_file(path, &password("1234567"), &caller);
        assert!(
            short
                .expect_err("too short")
                .to_string()
                .contains("at least 8")
        );
        let hash = read_password_file(path, &caller).expect("it is as it was");
        assert!(hash.is_of("another one"));
    }

    #[test]
    fn what_is_no_password_file_is_neither_taken_for_one_nor_repeated_nor_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let caller = Invocation::in_folder(dir.path());
        let rows: [(&str, &[u8], u32, &str); 5] = [
            (
                "plain",
                b"correct horse\n",
                0o600,
                "it is no hash of a password",
            ),
            ("empty", b"", 0o600, "it is no hash of a password"),
            ("bytes", b"\xff\xfe\0", 0o600, "it is no hash of a password"),
            ("group", b"correct horse\n", 0o640, "(mode 0640)"),
            ("all", b"correct horse\n", 0o604, "(mode 0604)"),
        ];
        for (name, content, mode, told) in rows {
            let path = dir.path().join(name);
            std::fs::write(&path, content).expect("room");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("it is ours");
            let failure = read_password_file(Path::new(name), &caller).expect_err(name);
            let text = format!("{failure} {:?}", failure.hint());
            assert!(text.contains(told) && !text.contains("horse"), "{text}");
            assert!(check_place(Path::new(name), &caller).is_err(), "{name}");
        }
        for name in ["missing", "."] {
            assert!(
                read_password_file(Path::new(name), &caller).is_err(),
                "{name}"
            );
        }
        assert!(check_place(Path::new("missing"), &caller).is_ok());
    }
}
