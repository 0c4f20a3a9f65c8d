//! The corrections that may be offered for a mistyped command line: none that destroys or
//! overwrites.
//!
//! clap offers verbs that are spelled alike, whatever they do: for `promote` it would offer
//! `remove`.

use clap::error::{ContextKind, ContextValue};

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

/// Takes out of `error` whatever would lead a person to lose something.
pub(crate) fn make_harmless(error: &mut clap::Error) {
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
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::arguments::Arguments;

    fn told(line: &str) -> String {
        let words = std::iter::once("vellum").chain(line.split_whitespace());
        let mut error = Arguments::try_parse_from(words).err().expect("a mistake");
        make_harmless(&mut error);
        error.render().to_string()
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
