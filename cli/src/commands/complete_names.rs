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
}

/// The last word of a command line.
#[derive(Debug, PartialEq, Eq)]
struct WantedName<'w> {
    kind: NameKind,
    prefix: &'w str,
    /// The store that the line names.
    store: Option<&'w str>,
}

pub(super) fn run_complete_names(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let Some(wanted) = wanted_name(&args.words) else {
        return Ok(Outcome::Done);
    };
    let given = wanted.store.map(PathBuf::from);
    let dir = given.map_or_else(|| session.store_dir().map(PathBuf::from), Ok);
    let store = dir
        .ok()
        .and_then(|dir| Store::open_dir(&dir, Access::ReadOnly, "").ok());
    if let Some(store) = store {
        let mut names = matching_names(&store.tree(), &wanted);
        names.truncate(NAMES_MAX);
        names.push(String::new());
        session.output.print_verbatim(names.join("\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// The name that the last of `words` is, if it is one.
fn wanted_name(words: &[String]) -> Option<WantedName<'_>> {
    let (prefix, before) = words.split_last()?;
    let mut root = Arguments::command();
    root.build();
    let mut command = &root;
    let (mut place, mut store) = (0, None);
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
            place += 1;
        }
    }
    let kind = match open {
        Some(option) => kind_of(option, 0),
        None if prefix.starts_with('-') => None,
        None => {
            let positionals: Vec<&Arg> = command.get_positionals().collect();
            let argument = positionals.get(place).or(positionals.last())?;
            kind_of(argument, place)
        }
    };
    Some(WantedName {
        kind: kind?,
        prefix,
        store,
    })
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
fn matching_names(tree: &Tree, wanted: &WantedName<'_>) -> Vec<String> {
    let owners = owners_with_snapshots(tree, wanted.kind);
    let with_snapshots = matches!(wanted.kind, NameKind::Node | NameKind::MachineNode);
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

/// All images, or machines, with the names of the snapshots of each.
fn owners_with_snapshots(tree: &Tree, kind: NameKind) -> Vec<(String, Vec<String>)> {
    match kind {
        NameKind::Image | NameKind::Node => {
            let images = tree.images().map(|image| {
                let snapshots = tree.snapshots_of(image.id);
                let names = snapshots.map(|snapshot| snapshot.name.to_string());
                (image.name.to_string(), names.collect())
            });
            images.collect()
        }
        NameKind::Machine | NameKind::MachineNode => {
            let machines = tree.machines().iter().map(|machine| {
                let snapshots = tree.machines().snapshots_of(machine.id);
                let names = snapshots.map(|snapshot| snapshot.name.to_string());
                (machine.name.to_string(), names.collect())
            });
            machines.collect()
        }
    }
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
            let found = wanted_name(&words).map(|wanted| wanted.kind);
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
            let wanted = wanted_name(&words).expect("a name");
            assert_eq!((wanted.prefix, wanted.store), ("w", store), "{line}");
        }
    }
}
