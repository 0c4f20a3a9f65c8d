//! `vellum probe`: what a file looks like, with every doubt. Decides and opens nothing.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use vellum_core::source::ReadAt;
use vellum_formats::probe::{FormatVerdict, probe_file};
use vellum_store::{FileSource, StoreError};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::Render;
use crate::output::page::TextPage;
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
struct ProbeSummary {
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

pub(super) fn run_probe(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let path = session.caller.resolve_path(&args.file);
    let file = FileSource::open_file(&path)?;
    let name = args.file.display().to_string();
    let seen = probe_file(&file).map_err(|error| StoreError::of_source(&name, error))?;
    let verdict = seen.verdict();
    let format = verdict.input_format();
    let advice = match (verdict, format) {
        (FormatVerdict::NotYet(container), None) => {
            Some(source_format::container_advice(container))
        }
        (FormatVerdict::Ambiguous, _) => Some("-f raw says that it is a guest's disk"),
        _ => None,
    };
    session.output.print_answer(&ProbeSummary {
        file: name,
        file_bytes: file.len(),
        format: format.map(vellum_formats::input::InputFormat::format_name),
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

impl Render for ProbeSummary {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        page.write_line(format!("{}: {}", self.file, self.sentence))?;
        for sign in &self.disk_signs {
            page.write_line(format!("it has {sign}, as a disk itself has"))?;
        }
        match (self.format, self.advice) {
            (Some(format), _) => page.write_line(format!("format: {format}")),
            (None, Some(advice)) => page.write_line(format!("hint: {advice}")),
            (None, None) => Ok(()),
        }
    }
}
