//! Command lines that clap does not take: read in Vellum's words, they are run if that is the same
//! and harmless, else told. Of the corrections that clap offers, those that destroy or overwrite
//! are taken out.
//!
//! clap offers verbs that are spelled alike, whatever they do: for `promote` it would offer
//! `remove`. Nothing here leads to a verb of [`VERBS`] but a text that a person reads.

mod words;

use std::ffi::OsString;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};

use crate::arguments::Arguments;
use crate::failure::CommandFailure;
use crate::output::escape::shell_word;
use vellum_core::tree::LookupError;
use vellum_store::StoreError;
use words::ForeignReading;

/// Verbs that destroy or overwrite, by all their names.
const VERBS: [&str; 14] = [
    "rm",
    "remove",
    "delete",
    "remove-disk",
    "forget",
    "prune",
    "reset",
    "restore",
    "commit",
    "rebase",
    "resize",
    "gc",
    "rename",
    "mv",
];
/// Options that let something be destroyed, overwritten or believed.
const OPTIONS: [&str; 11] = [
    "--force",
    "--discard",
    "--shrink",
    "--with-snapshots",
    "--unsafe",
    "--prune",
    "--fence",
    "--none",
    "--yes",
    "--allow-rollback",
    "--accept-earlier-state",
];

/// A command line that was not understood, or help that was asked for.
#[derive(Debug)]
pub(crate) struct Misunderstanding {
    pub(crate) error: clap::Error,
    /// The line in Vellum's words.
    pub(crate) advice: Option<String>,
}

/// The arguments in `line`, the program's name first: in Vellum's words, or in others that mean the
/// same and destroy nothing.
pub(crate) fn parse_command_line(line: &[OsString]) -> Result<Arguments, Misunderstanding> {
    let mut error = match Arguments::try_parse_from(line) {
        Ok(arguments) => return Ok(arguments),
        Err(error) if !error.use_stderr() => return Err(error.into()),
        Err(error) => error,
    };
    let mut is_first = true;
    for reading in foreign_readings(line) {
        let advice = match reading {
            ForeignReading::Advice(advice) => advice,
            ForeignReading::Same(words) if words.iter().any(|word| !is_harmless(word)) => {
                let words: Vec<_> = words[1..].iter().map(|word| shell_word(word)).collect();
                format!("`vellum {}`", words.join(" "))
            }
            ForeignReading::Same(words) => match Arguments::try_parse_from(words) {
                Ok(arguments) => return Ok(arguments),
                Err(help) if !help.use_stderr() => return Err(help.into()),
                Err(nearer) => {
                    if std::mem::take(&mut is_first) {
                        error = nearer;
                    }
                    continue;
                }
            },
        };
        return Err(Misunderstanding {
            error,
            advice: Some(advice),
        });
    }
    make_harmless(&mut error);
    Err(error.into())
}

/// Adds to `failure` what `line` is in Vellum's words, if it named what is not there and other
/// tools have words for it.
pub(crate) fn explain_failure(failure: CommandFailure, line: &[OsString]) -> CommandFailure {
    let is_unknown = matches!(
        failure,
        CommandFailure::Store(StoreError::Lookup(
            LookupError::NoImage(_) | LookupError::NoSnapshot { .. } | LookupError::NoMachine(_)
        ))
    );
    let is_advice = |reading| match reading {
        ForeignReading::Advice(advice) => Some(advice),
        ForeignReading::Same(_) => None,
    };
    let mut readings = foreign_readings(line).into_iter().filter(|_| is_unknown);
    match readings.find_map(is_advice) {
        Some(advice) => failure.replace_hint(advice),
        None => failure,
    }
}

/// The readings of a line; none of one that is no text.
fn foreign_readings(line: &[OsString]) -> Vec<ForeignReading> {
    let words: Option<Vec<&str>> = line.iter().map(|word| word.to_str()).collect();
    words.map_or_else(Vec::new, |words| words::read_foreign(&words))
}

impl From<clap::Error> for Misunderstanding {
    fn from(error: clap::Error) -> Self {
        Self {
            error,
            advice: None,
        }
    }
}

/// Takes out of `error` whatever would lead a person to lose something.
fn make_harmless(error: &mut clap::Error) {
    for kind in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
        match error.remove(kind) {
            Some(ContextValue::Strings(words)) => {
                let words: Vec<String> =
                    words.into_iter().filter(|word| is_harmless(word)).collect();
                if !words.is_empty() {
                    error.insert(kind, ContextValue::Strings(words));
                }
            }
            Some(ContextValue::String(word)) if !is_harmless(&word) => {}
            Some(other) => drop(error.insert(kind, other)),
            None => {}
        }
    }
    if let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) {
        let tips: Vec<_> = tips
            .into_iter()
            .filter(|tip| tip.to_string().split('\'').all(is_harmless))
            .collect();
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}

fn is_harmless(word: &str) -> bool {
    // An option may come with the name of its value.
    let word = word.split([' ', '=']).next().unwrap_or_default();
    !VERBS.contains(&word) && !OPTIONS.contains(&word)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn told(line: &str) -> String {
        let words = std::iter::once("vellum").chain(line.split_whitespace());
        let words: Vec<OsString> = words.map(OsString::from).collect();
        let told = parse_command_line(&words).err().expect("a mistake");
        told.error.render().to_string()
    }

    #[test]
    fn no_mistake_leads_to_a_loss() {
        for line in [
            "promote",
            "release",
            "romove x",
            "delte x",
            "--rm",
            "restor",
            "snapshot restorr web@a",
            "machine delet vm",
            "backup forgett r",
            "backup key remov r k",
            "snapshot restore web@a --discart",
            "export web x --forc",
            "resize web --shrinkk 1",
            "rm web --with-snapshot",
        ] {
            let told = told(line);
            let tips = told.lines().filter(|line| line.contains("tip:"));
            for word in VERBS.iter().chain(&OPTIONS) {
                assert!(
                    tips.clone().all(|tip| !tip.contains(&format!("'{word}"))),
                    "{line}: {told}"
                );
            }
        }
    }

    #[test]
    fn other_mistakes_are_mended_as_before() {
        for (line, tip) in [
            ("lits", "'list'"),
            ("exprot web x", "'export'"),
            ("list --snapshot", "'--snapshots'"),
        ] {
            assert!(told(line).contains(tip), "{line}: {}", told(line));
        }
    }

    #[test]
    fn what_is_never_offered_is_there() {
        let mut verbs = vec![Arguments::command()];
        let (mut names, mut options) = (Vec::new(), Vec::new());
        while let Some(verb) = verbs.pop() {
            names.push(verb.get_name().to_owned());
            names.extend(verb.get_all_aliases().map(str::to_owned));
            options.extend(
                verb.get_arguments()
                    .filter_map(|option| option.get_long())
                    .map(|long| format!("--{long}")),
            );
            verbs.extend(verb.get_subcommands().cloned());
        }
        for verb in VERBS {
            assert!(names.iter().any(|name| name == verb), "{verb} is no verb");
        }
        for option in OPTIONS.iter().filter(|option| **option != "--yes") {
            assert!(
                options.iter().any(|found| found == option),
                "{option} is no option"
            );
        }
    }
}
