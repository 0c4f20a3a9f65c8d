//! Finds the repository among a command's words: it is the first, unless `VELLUM_REPOSITORY` names
//! it.

use crate::failure::CommandFailure;
use crate::invocation::Invocation;

/// Names the repository for commands that do not.
pub(crate) const VARIABLE: &str = "VELLUM_REPOSITORY";

/// The names on a command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RepositoryWords<'a> {
    /// The repository.
    pub(crate) place: String,
    /// The words behind it.
    pub(crate) rest: &'a [String],
}

/// The repository and exactly `what` (names of words, for the person who left some out).
pub(crate) fn repository_and_words<'a>(
    words: &'a [String],
    what: &[&str],
    caller: &Invocation,
) -> Result<RepositoryWords<'a>, CommandFailure> {
    if words.len() == what.len() + 1 {
        return Ok(RepositoryWords {
            place: words[0].clone(),
            rest: &words[1..],
        });
    }
    match given_repository(caller)? {
        Some(place) if words.len() == what.len() => Ok(RepositoryWords { place, rest: words }),
        _ => {
            let line = [&["REPO"], what].concat().join(" ");
            Err(CommandFailure::usage_error(
                "this takes other words",
                format!("write {line}; if {VARIABLE} is set, REPO may be left out"),
            ))
        }
    }
}

/// The repository and the words behind it. If the variable names one, a first word names another
/// only if it has a slash, as an address or a path like `./backup` does: no image's name has one.
pub(crate) fn at_least<'a>(
    words: &'a [String],
    caller: &Invocation,
) -> Result<RepositoryWords<'a>, CommandFailure> {
    let given = given_repository(caller)?;
    match (words.split_first(), given) {
        (Some((first, rest)), None) => Ok(RepositoryWords {
            place: first.clone(),
            rest,
        }),
        (Some((first, rest)), Some(_)) if first.contains('/') => Ok(RepositoryWords {
            place: first.clone(),
            rest,
        }),
        (_, Some(place)) => Ok(RepositoryWords { place, rest: words }),
        (None, None) => Err(CommandFailure::usage_error(
            "no repository is named",
            format!("name it first: a folder, or s3://BUCKET/PREFIX; or set {VARIABLE}"),
        )),
    }
}

fn given_repository(caller: &Invocation) -> Result<Option<String>, CommandFailure> {
    let Some(place) = caller.variable(VARIABLE) else {
        return Ok(None);
    };
    let text = place.to_str().map(|place| Some(place.to_owned()));
    text.ok_or_else(|| {
        CommandFailure::usage_error(
            format!("{VARIABLE} is \"{}\", which is no text", place.display()),
            "name a folder or an address",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn caller(place: Option<&str>) -> Invocation {
        let mut caller = Invocation::in_folder(Path::new("/"));
        caller.variables = place
            .map(|place| (VARIABLE.into(), place.into()))
            .into_iter()
            .collect();
        caller
    }

    #[test]
    fn the_first_word_is_the_repository_unless_the_environment_names_one() {
        for (text, variable, place, rest) in [
            ("backup web", None, "backup", "web"),
            ("backup", None, "backup", ""),
            ("web db", Some("/mnt/backup"), "/mnt/backup", "web db"),
            ("", Some("/mnt/backup"), "/mnt/backup", ""),
            ("./other web", Some("/mnt/backup"), "./other", "web"),
            ("s3://bucket web", Some("/mnt/backup"), "s3://bucket", "web"),
        ] {
            let (text, rest) = (words(text), words(rest));
            let named = at_least(&text, &caller(variable)).expect("it is named");
            assert_eq!(
                (named.place.as_str(), named.rest),
                (place, &rest[..]),
                "{text:?}"
            );
        }
        assert!(at_least(&[], &caller(None)).is_err());
    }

    #[test]
    fn a_count_of_words_leaves_no_doubt() {
        for (text, variable, place) in [
            ("backup web out.raw", None, Some("backup")),
            ("web ./out.raw", Some("b"), Some("b")),
            ("a web out", Some("b"), Some("a")),
        ] {
            let text = words(text);
            let named = repository_and_words(&text, &["POINT", "FILE"], &caller(variable)).ok();
            assert_eq!(named.map(|named| named.place).as_deref(), place, "{text:?}");
        }
        for (text, variable) in [
            ("web out.raw", None),
            ("web", Some("b")),
            ("a b c d", Some("b")),
        ] {
            assert!(
                repository_and_words(&words(text), &["POINT", "FILE"], &caller(variable)).is_err(),
                "{text:?}"
            );
        }
    }
}
