//! The command line, beside the arguments of each verb.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, ValueEnum};

use crate::caller::Caller;
use crate::commands::Command;
use crate::failure::Failure;
use crate::output::{Layout, Units};

const AFTER_HELP: &str = "\
Images are named by their whole name; what just looks also takes a beginning that only one has.
NAME@SNAPSHOT is a snapshot, NAME@latest the newest.
Times are those of this machine's clock (TZ), --utc shows UTC; JSON and reports have UTC.
Sizes are bytes, or take k, M, G, T, P (powers of 1024; KiB, MiB … mean the same).

Example:
  vellum init
  vellum import disk.raw web --snapshot monday
  vellum tree

Exit codes:
  0 done, 1 failed (compare, diff: different), 2 wrong usage (compare, diff: not compared), \
3 losses (check: leaks only),
  4 damage (check, verify, copy), 10 no store or repository, 11 in use, 12 wrong key, \
130 stopped by Ctrl-C";

/// Keeps disk images: every distinct piece once, every state of every disk
#[derive(Parser)]
#[command(name = "vellum", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all verbs.
#[derive(Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Global {
    /// The store's folder [env: VELLUM_STORE] [default: vellum in the user's data folder]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Answer in JSON: one document, or lines with a `message_type` for long work
    #[arg(long, global = true)]
    json: bool,
    /// The form of answers
    #[arg(
        long,
        hide_short_help = true,
        alias = "output-format",
        global = true,
        value_name = "FORM",
        value_enum,
        conflicts_with = "json"
    )]
    output: Option<Layout>,
    /// Show progress even if standard error is no terminal
    #[arg(short, long, hide_short_help = true, global = true)]
    pub(crate) progress: bool,
    /// Say nothing but what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: what caused an error
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Show times, and count days, in UTC, not as the clock on the wall has them (TZ)
    #[arg(long, hide_short_help = true, global = true)]
    pub(crate) utc: bool,
    /// How to show sizes [env: VELLUM_UNITS] [default: iec]
    #[arg(
        long,
        hide_short_help = true,
        global = true,
        value_name = "UNITS",
        value_enum
    )]
    units: Option<Units>,
}

impl Global {
    pub(crate) fn layout(&self) -> Layout {
        if self.json {
            Layout::Json
        } else {
            self.output.unwrap_or(Layout::Human)
        }
    }

    pub(crate) fn wants_json(&self) -> bool {
        self.layout() != Layout::Human
    }

    /// Sizes as the option says, else the environment, else in powers of 1024.
    pub(crate) fn units(&self, caller: &Caller) -> Result<Units, Failure> {
        if let Some(units) = self.units {
            return Ok(units);
        }
        let Some(text) = caller.variable("VELLUM_UNITS") else {
            return Ok(Units::Iec);
        };
        let known = text
            .to_str()
            .and_then(|text| Units::from_str(text, false).ok());
        known.ok_or_else(|| {
            Failure::usage(
                format!("VELLUM_UNITS is \"{}\"", text.display()),
                "it can be si, iec or raw",
            )
        })
    }

    /// The store's folder as the option says, else the environment, else in the user's data folder.
    pub(crate) fn store(&self, caller: &Caller) -> Option<PathBuf> {
        let named = self
            .store
            .clone()
            .or_else(|| caller.variable("VELLUM_STORE").map(PathBuf::from));
        named.or_else(|| data_folder(caller))
    }
}

/// True if a command line asks for JSON; for a command line that could not be parsed.
pub(crate) fn asks_for_json(words: &[OsString]) -> bool {
    let line = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    [
        "--json",
        "--output json",
        "--output=json",
        "--output-format json",
        "--output-format=json",
    ]
    .iter()
    .any(|asked| line.contains(asked))
}

/// `$XDG_DATA_HOME/vellum`, else `~/.local/share/vellum`. The XDG rule says that a relative path is
/// to be ignored.
fn data_folder(caller: &Caller) -> Option<PathBuf> {
    let data = caller
        .variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let data = data.or_else(|| {
        caller
            .variable("HOME")
            .map(|home| PathBuf::from(home).join(".local/share"))
    });
    Some(data?.join("vellum"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        let mut verbs: Vec<clap::Command> = super::Arguments::command()
            .get_subcommands()
            .cloned()
            .collect();
        while let Some(verb) = verbs.pop() {
            let help = verb
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let example = help.contains("Example:\n  vellum ");
            assert!(
                example || verb.has_subcommands(),
                "{} has no example",
                verb.get_name()
            );
            assert!(
                verb.get_about().is_some(),
                "{} does not say what it does",
                verb.get_name()
            );
            verbs.extend(verb.get_subcommands().cloned());
        }
    }
}
