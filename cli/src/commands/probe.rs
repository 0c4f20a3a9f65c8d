//! `vellum probe`: what a file looks like, with every doubt. Decides and opens nothing.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_core::source::ReadAt;
use vellum_formats::probe::{Verdict, probe};
use vellum_store::{FileSource, StoreError};

use crate::failure::{Failure, Outcome};
use crate::output::Answer;
use crate::output::page::Page;
use crate::session::Session;
use crate::source_format;

/// Tell what a file looks like, with every doubt; nothing that it names is opened
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum probe disk.img

Looks at signatures alone: `vellum info FILE` reads the headers. Exit code 1 says that no one \
format fits: it is something else, or several things at once.")]
pub(crate) struct Args {
    /// The file
    file: PathBuf,
}

#[derive(Serialize)]
struct Probed {
    file: String,
    file_bytes: u64,
    /// The format as which it would be read, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'static str>,
    /// Signatures of containers; of several, only a person can tell which counts.
    signatures: Vec<String>,
    /// Signs of a disk without a container.
    disk_signs: Vec<String>,
    #[serde(skip)]
    sentence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Outcome, Failure> {
    let path = session.caller.path(&args.file);
    let file = FileSource::open(&path)?;
    let name = args.file.display().to_string();
    let seen = probe(&file).map_err(|error| StoreError::of_source(&name, error))?;
    let verdict = seen.verdict();
    let format = verdict.input();
    let advice = match (verdict, format) {
        (Verdict::NotYet(container), None) => Some(source_format::advice(container)),
        (Verdict::Ambiguous, _) => Some("-f raw says that it is a guest's disk"),
        _ => None,
    };
    session.output.answer(&Probed {
        file: name,
        file_bytes: file.len(),
        format: format.map(vellum_formats::input::InputFormat::name),
        signatures: seen.containers.iter().map(ToString::to_string).collect(),
        disk_signs: seen.marks.iter().map(ToString::to_string).collect(),
        sentence: seen.to_string(),
        advice,
    })?;
    Ok(if format.is_some() {
        Outcome::Done
    } else {
        Outcome::Different
    })
}

impl Answer for Probed {
    fn show(&self, page: &mut Page) -> io::Result<()> {
        page.line(format!("{}: {}", self.file, self.sentence))?;
        for sign in &self.disk_signs {
            page.line(format!("it has {sign}, as a disk itself has"))?;
        }
        match (self.format, self.advice) {
            (Some(format), _) => page.line(format!("format: {format}")),
            (None, Some(advice)) => page.line(format!("hint: {advice}")),
            (None, None) => Ok(()),
        }
    }
}
