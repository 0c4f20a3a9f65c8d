//! Answers that go to a file of the caller's: whole, or not at all.

use std::io;
use std::path::Path;

use vellum_store::{Destination, NewFileMode, StoreError, write_whole_file};

use super::{Written, is_standard_output};
use crate::failure::Failure;
use crate::session::Session;

const ADVICE: &str = "add --force to replace it, or name another file";

/// Refuses before the work what would be refused after it.
pub(super) fn check_free(session: &Session, file: &Path, overwrite: bool) -> Result<(), Failure> {
    let path = session.caller.path(file);
    match Destination::of(&path) {
        Ok(Destination::File(place)) if place.is_taken() && !overwrite => {}
        // Other faults are reported by the part that writes.
        _ => return Ok(()),
    }
    Err(Failure::io(
        format!("write {}", path.display()),
        io::ErrorKind::AlreadyExists.into(),
    )
    .hinted(ADVICE))
}

/// Writes `text` to `file` and confirms it, or to standard output.
pub(super) fn write(
    session: &mut Session,
    file: &Path,
    text: &str,
    overwrite: bool,
) -> Result<(), Failure> {
    if is_standard_output(file) {
        return session.output.verbatim(text.as_bytes());
    }
    write_whole_file(
        &session.caller.path(file),
        text.as_bytes(),
        overwrite,
        NewFileMode::Usual,
    )
    .map_err(explain)?;
    session.output.summary(&Written {
        action: "report",
        file: file.display().to_string(),
        bytes: text.len() as u64,
    })
}

/// A file that is there is the one error with a remedy of our own.
fn explain(error: StoreError) -> Failure {
    let exists = matches!(
        &error,
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists
    );
    let failure = Failure::from(error);
    if exists {
        failure.hinted(ADVICE)
    } else {
        failure
    }
}
