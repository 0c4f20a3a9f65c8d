//! Answers that go to a file of the caller's: whole, or not at all.

use std::io;
use std::path::Path;

use vellum_store::{Destination, NewFileMode, StoreError, write_whole_file};

use super::{ReportFileSummary, is_standard_output};
use crate::command_context::CommandContext;
use crate::failure::CommandFailure;

const ADVICE: &str = "add --force to replace it, or name another file";

/// Refuses before the work what would be refused after it.
pub(super) fn check_free(
    session: &CommandContext,
    file: &Path,
    overwrite: bool,
) -> Result<(), CommandFailure> {
    let path = session.caller.resolve_path(file);
    match Destination::resolve_path(&path) {
        Ok(Destination::File(place)) if place.is_taken() && !overwrite => {}
        // Other faults are reported by the part that writes.
        _ => return Ok(()),
    }
    Err(CommandFailure::io_error(
        format!("write {}", path.display()),
        io::ErrorKind::AlreadyExists.into(),
    )
    .replace_hint(ADVICE))
}

/// Writes `text` to `file` and confirms it, or to standard output.
pub(in crate::commands) fn write_report_file(
    session: &mut CommandContext,
    file: &Path,
    text: &str,
    overwrite: bool,
) -> Result<(), CommandFailure> {
    if is_standard_output(file) {
        return session.output.print_verbatim(text.as_bytes());
    }
    write_whole_file(
        &session.caller.resolve_path(file),
        text.as_bytes(),
        overwrite,
        NewFileMode::Usual,
    )
    .map_err(write_failure)?;
    session.output.print_summary(&ReportFileSummary {
        action: "report",
        file: file.display().to_string(),
        bytes: text.len() as u64,
    })
}

/// A file that is there is the one error with a remedy of our own.
fn write_failure(error: StoreError) -> CommandFailure {
    let exists = matches!(
        &error,
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists
    );
    let failure = CommandFailure::from(error);
    if exists {
        failure.replace_hint(ADVICE)
    } else {
        failure
    }
}
