//! `vellum complete-names`: the names that a shell offers for the word at the cursor. Hidden: the
//! scripts of `vellum completions` call it.
//!
//! It is called while somebody types, so it is quick, and silent whatever is wrong.

use std::path::PathBuf;

use clap::{Arg, CommandFactory};
use vellum_core::tree::Tree;
use vellum_store::{Access, Store};

use crate::arguments::Arguments;
use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::output::escape::shell_word;
use crate::repository::{point_names, repo_args};

/// Names that are offered at once: a shell would ask before it showed more.
const NAMES_MAX: usize = 1000;

/// Print the names that the last word of a command line may become
#[derive(clap::Args)]
#[command(
    hide = true,
    after_help = "Example:\n  vellum complete-names -- export web@mo"
)]
pub(crate) struct Args {
    /// The line so far, without the program's name
    #[arg(last = true, value_name = "WORD")]
    words: Vec<String>,
}

/// The kind of name that a word of a command line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameKind {
    Image,
    Node,
    Machine,
    MachineNode,
    /// An image of a repository.
    PointImage,
    /// A point of a repository.
    Point,
}

/// The last word of a command line.
#[derive(Debug, PartialEq, Eq)]
struct WantedName<'w> {
    kind: NameKind,
    prefix: &'w str,
    /// The place that the line names: the store, or the repository whose points are meant.
    place: Option<&'w str>,
}

pub(super) fn run_complete_names(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let known = session.caller.variable(repo_args::VARIABLE);
    let known = known.and_then(|place| place.to_str()).map(str::to_owned);
    let Some(wanted) = wanted_name(&args.words, known.as_deref()) else {
        return Ok(Outcome::Done);
    };
    if let Some(owners) = owners_with_snapshots(&wanted, session) {
        let mut names = matching_names(owners, &wanted);
        names.truncate(NAMES_MAX);
        names.push(String::new());
        session.output.print_verbatim(names.join("\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// The name that the last of `words` is, if it is one. `known` is the repository that lines need
/// not name.
fn wanted_name<'w>(words: &'w [String], known: Option<&'w str>) -> Option<WantedName<'w>> {
    let (prefix, before) = words.split_last()?;
    let mut root = Arguments::command();
    root.build();
    let mut command = &root;
    let (mut placed, mut store) = (Vec::new(), None);
    // The option whose value comes next.
    let mut open: Option<&Arg> = None;
    for word in before {
        if let Some(option) = open.take() {
            store = Some(word.as_str())
                .filter(|_| option.get_id() == "store")
                .or(store);
        } else if word.len() > 1 && word.starts_with('-') {
            store = word.strip_prefix("--store=").or(store);
            open = option_of(command, word);
        } else if let Some(verb) = command.find_subcommand(word) {
            command = verb;
        } else {
            placed.push(word.as_str());
        }
    }
    let (kind, place) = match open {
        Some(option) => (kind_of(option, 0), store),
        None if prefix.starts_with('-') => return None,
        None => {
            let positionals: Vec<&Arg> = command.get_positionals().collect();
            let argument = positionals.get(placed.len()).or(positionals.last())?;
            match repository_words(command.get_name(), argument) {
                Some(names) => point_kind(&names, &placed, known)?,
                None => (kind_of(argument, placed.len()), store),
            }
        }
    };
    Some(WantedName {
        kind: kind?,
        prefix,
        place,
    })
}

/// The words that follow a repository's name and are about what is in it.
fn repository_words<'a>(verb: &str, argument: &'a Arg) -> Option<Vec<&'a str>> {
    let names = argument.get_value_names()?.iter();
    let names: Vec<&str> = names.flat_map(|name| name.split("] [")).collect();
    // A push takes names of the store.
    (names.len() > 1 && names[0] == "REPO" && verb != "push").then_some(names)
}

/// The kind of name behind `placed`, and the repository in which it is: the first word, unless
/// lines need not name one.
fn point_kind<'w>(
    names: &[&str],
    placed: &[&'w str],
    known: Option<&'w str>,
) -> Option<(Option<NameKind>, Option<&'w str>)> {
    let repository_word = placed
        .first()
        .filter(|word| known.is_none() || word.contains('/'));
    let (repository, further) = match repository_word {
        Some(word) => (*word, placed.len() - 1),
        None => (known?, placed.len()),
    };
    let name = names.get(further + 1).or(names.last())?;
    let kind = match *name {
        "IMAGE" => Some(NameKind::PointImage),
        "POINT" | "IMAGE[@SNAPSHOT]" => Some(NameKind::Point),
        _ => None,
    };
    Some((kind, Some(repository)))
}

/// The option that `word` is, if its value is the next word.
fn option_of<'c>(command: &'c clap::Command, word: &str) -> Option<&'c Arg> {
    let is_named = |option: &&Arg| match word.strip_prefix("--") {
        Some(long) => option.get_long() == Some(long),
        None => option
            .get_short()
            .is_some_and(|short| word == format!("-{short}")),
    };
    command.get_opts().find(is_named)
}

/// The kind of name that an argument takes at its `place`, by what its help calls it.
fn kind_of(argument: &Arg, place: usize) -> Option<NameKind> {
    let name = argument.get_value_names()?.first()?.as_str();
    let has_snapshot = name.contains('@') || ["A", "B"].contains(&name);
    let is_repository = name.starts_with("REPO") && place == 0;
    match (name.contains("MACHINE"), has_snapshot) {
        _ if is_repository => None,
        (true, true) => Some(NameKind::MachineNode),
        (true, false) => Some(NameKind::Machine),
        (false, true) => Some(NameKind::Node),
        (false, false) => name.contains("IMAGE").then_some(NameKind::Image),
    }
}

/// The names that begin as `wanted` does. Snapshots come once their image is clear. What a shell
/// would not take for one plain word is left out.
fn matching_names(owners: Vec<(String, Vec<String>)>, wanted: &WantedName<'_>) -> Vec<String> {
    let with_snapshots = !matches!(
        wanted.kind,
        NameKind::Image | NameKind::Machine | NameKind::PointImage
    );
    let begins = |name: &str| name.starts_with(wanted.prefix);
    let matching = owners.iter().filter(|(owner, _)| begins(owner)).count();
    let mut names = Vec::new();
    for (owner, snapshots) in owners {
        let is_clear = wanted.prefix.contains('@') || begins(&owner) && matching == 1;
        let all = snapshots
            .iter()
            .map(|snapshot| format!("{owner}@{snapshot}"));
        let snapshots = all.filter(|_| with_snapshots && is_clear);
        let new = std::iter::once(owner.clone()).chain(snapshots);
        names.extend(new.filter(|name| begins(name) && shell_word(name) == *name));
    }
    names
}

/// All images, or machines, with the names of the snapshots of each; none if nobody can tell.
fn owners_with_snapshots(
    wanted: &WantedName<'_>,
    session: &CommandContext,
) -> Option<Vec<(String, Vec<String>)>> {
    if matches!(wanted.kind, NameKind::Point | NameKind::PointImage) {
        return point_names::images_with_snapshots(wanted.place?, &session.caller);
    }
    let given = wanted.place.map(PathBuf::from);
    let dir = given.map_or_else(|| session.store_dir().map(PathBuf::from), Ok);
    let store = Store::open_dir(&dir.ok()?, Access::ReadOnly, "").ok()?;
    let tree = store.tree();
    Some(if matches!(wanted.kind, NameKind::Image | NameKind::Node) {
        images_with_snapshots(&tree)
    } else {
        machines_with_snapshots(&tree)
    })
}

fn images_with_snapshots(tree: &Tree) -> Vec<(String, Vec<String>)> {
    let images = tree.images().map(|image| {
        let snapshots = tree.snapshots_of(image.id);
        let names = snapshots.map(|snapshot| snapshot.name.to_string());
        (image.name.to_string(), names.collect())
    });
    images.collect()
}

fn machines_with_snapshots(tree: &Tree) -> Vec<(String, Vec<String>)> {
    let machines = tree.machines().iter().map(|machine| {
        let snapshots = tree.machines().snapshots_of(machine.id);
        let names = snapshots.map(|snapshot| snapshot.name.to_string());
        (machine.name.to_string(), names.collect())
    });
    machines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_at_the_cursor_is_what_its_verb_takes_there() {
        for (line, kind) in [
            ("rm |", Some(NameKind::Node)),
            ("rm web we|", Some(NameKind::Node)),
            ("--json export we|", Some(NameKind::Node)),
            ("export web out|", None),
            ("create new -b |", Some(NameKind::Node)),
            ("create new|", None),
            ("list |", Some(NameKind::Image)),
            ("snapshot restore web@|", Some(NameKind::Node)),
            ("machine show v|", Some(NameKind::MachineNode)),
            ("machine start v|", Some(NameKind::Machine)),
            ("machine add-disk vm |", Some(NameKind::Image)),
            ("backup push repo |", Some(NameKind::Image)),
            ("backup push |", None),
            ("backup restore repo |", Some(NameKind::Point)),
            ("backup restore repo web |", None),
            ("backup restore |", None),
            ("backup diff repo web |", Some(NameKind::Point)),
            ("backup info repo |", Some(NameKind::Point)),
            ("backup list repo |", Some(NameKind::PointImage)),
            ("backup forget repo we|", Some(NameKind::Point)),
            ("backup pull repo web d|", Some(NameKind::Point)),
            ("backup copy repo |", None),
            ("backup copy repo other |", Some(NameKind::Point)),
            ("backup push repo --machine |", Some(NameKind::Machine)),
            ("diff web |", Some(NameKind::Node)),
            ("rm --wi|", None),
            ("--store |", None),
            ("", None),
            ("li|", None),
            ("frobnicate |", None),
        ] {
            let words: Vec<String> = line
                .trim_end_matches('|')
                .split(' ')
                .map(str::to_owned)
                .collect();
            let found = wanted_name(&words, None).map(|wanted| wanted.kind);
            assert_eq!(found, kind, "{line}");
        }
    }

    #[test]
    fn the_store_of_the_line_is_asked() {
        for (line, store) in [
            ("--store /a rm w", Some("/a")),
            ("rm --store=/b w", Some("/b")),
            ("rm w", None),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let wanted = wanted_name(&words, None).expect("a name");
            assert_eq!((wanted.prefix, wanted.place), ("w", store), "{line}");
        }
    }

    #[test]
    fn the_repository_of_the_line_or_of_the_environment_is_asked() {
        for (line, known, place) in [
            ("backup restore repo w", None, Some("repo")),
            ("backup restore w", Some("/mnt/b"), Some("/mnt/b")),
            ("backup restore ./repo w", Some("/mnt/b"), Some("./repo")),
            ("backup diff w", Some("/mnt/b"), Some("/mnt/b")),
            ("backup push repo w", None, None),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let wanted = wanted_name(&words, known).expect("a name");
            assert_eq!((wanted.prefix, wanted.place), ("w", place), "{line}");
        }
    }
}
