//! The command line, beside the arguments of each verb.

pub(crate) mod global;

use std::ffi::OsString;

use clap::Parser;

use crate::commands::Command;
use global::GlobalArgs;

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
  4 damage (check, verify, copy), 10 no store or repository, 11 in use \
(--wait waits), 12 wrong key, 130 stopped by Ctrl-C";

/// Keeps disk images: every distinct piece once, every state of every disk
#[derive(Parser)]
#[command(name = "vellum", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
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
