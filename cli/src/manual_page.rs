//! One command's manual page: everything that its long help says, in the sections that manual pages
//! have.
//!
//! `clap_mangen` leaves out options that the short help leaves out, and puts the text behind the
//! options into one section of its own naming: here such options are shown, and that text is taken
//! apart.

use std::io;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Headings of the help's text behind the options, and the sections that they become, in the order
/// of a manual page. What has no heading comes first.
const SECTIONS: [(&str, &str); 3] = [
    ("", "NOTES"),
    ("Example:", "EXAMPLES"),
    ("Exit codes:", "EXIT STATUS"),
];

/// The name of `command`'s page, without its section: `vellum-backup-push`.
pub(crate) fn page_name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

/// The page of `command`, which must be built. `parent` is the page of the command that it belongs
/// to.
pub(crate) fn render_page(command: &Command, parent: Option<&str>) -> io::Result<Vec<u8>> {
    let after = command
        .get_after_long_help()
        .or_else(|| command.get_after_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut page = Vec::new();
    Man::new(shown_whole(command))
        // An empty one would be left out, and the source taken for it.
        .date(" ")
        .source(concat!("vellum ", env!("CARGO_PKG_VERSION")))
        .manual("Vellum")
        .render(&mut page)?;
    let mut rest = Roff::new();
    write_sections(&after, &mut rest);
    if let Some(parent) = parent {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([bold(parent), roman("(1)")]);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// `command` with the usage of its help, every option that the long help shows, and no text behind
/// them.
fn shown_whole(command: &Command) -> Command {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    command
        .clone()
        .override_usage(usage)
        .after_help(None::<&str>)
        .after_long_help(None::<&str>)
        .mut_args(|argument| with_aliases(argument.hide_short_help(false)))
}

/// `argument` with its visible aliases at the end of its help, as the help shows them.
fn with_aliases(argument: Arg) -> Arg {
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    if aliases.is_empty() {
        return argument;
    }
    let named = aliases
        .iter()
        .map(|alias| format!("--{alias}"))
        .collect::<Vec<_>>()
        .join(", ");
    let help = argument.get_help().map(ToString::to_string);
    let help = format!("{} [aliases: {named}]", help.unwrap_or_default());
    argument.help(help)
}

/// Writes the paragraphs of `after`, each to the section that its first line names.
fn write_sections(after: &str, page: &mut Roff) {
    let paragraphs: Vec<&str> = after
        .split("\n\n")
        .filter(|text| !text.is_empty())
        .collect();
    for (heading, section) in SECTIONS {
        let mut chosen = paragraphs
            .iter()
            .filter(|text| heading_of(text) == heading)
            .peekable();
        if chosen.peek().is_some() {
            page.control("SH", [section]);
        }
        for (index, text) in chosen.enumerate() {
            if index > 0 {
                page.control("PP", []);
            }
            write_paragraph(text.strip_prefix(heading).unwrap_or(text), page);
        }
    }
}

/// The heading in `SECTIONS` that `paragraph` begins with.
fn heading_of(paragraph: &str) -> &'static str {
    SECTIONS
        .iter()
        .map(|(heading, _)| *heading)
        .rfind(|heading| paragraph.starts_with(heading))
        .unwrap_or_default()
}

/// Writes `paragraph`: as it stands if its lines are laid out by spaces, else as flowing text.
fn write_paragraph(paragraph: &str, page: &mut Roff) {
    let lines = paragraph.lines().filter(|line| !line.is_empty());
    let is_laid_out = paragraph.contains("  ");
    if is_laid_out {
        page.control("nf", []);
    }
    for line in lines {
        page.text([roman(line)]);
    }
    if is_laid_out {
        page.control("fi", []);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::arguments::Arguments;

    /// Every command that the help lists, with its page as text.
    fn all_pages() -> Vec<(Command, String)> {
        let mut root = Arguments::command().disable_help_subcommand(true);
        root.build();
        let mut waiting = vec![root];
        let mut pages = Vec::new();
        while let Some(command) = waiting.pop() {
            let page = render_page(&command, None).expect("memory takes it");
            let page = String::from_utf8(page).expect("a page is text");
            waiting.extend(
                command
                    .get_subcommands()
                    .filter(|inner| !inner.is_hide_set())
                    .cloned(),
            );
            pages.push((command, without_roff(&page)));
        }
        pages
    }

    /// `page` as a reader has it: fonts and escapes gone, runs of white space one space.
    fn without_roff(page: &str) -> String {
        let plain = page
            .replace("\\fB", "")
            .replace("\\fI", "")
            .replace("\\fR", "")
            .replace("\\-", "-")
            .replace("\\*(Aq", "'")
            .replace("\\&", "")
            .replace("\\\\", "\\");
        one_line(&plain)
    }

    fn one_line(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The options that begin a line of `help`: `-p` and `--progress` of `  -p, --progress  Show`.
    fn options_shown(help: &str) -> Vec<String> {
        let words = |line: &str| -> Vec<String> {
            line.split_whitespace()
                .map(|word| word.trim_end_matches([',', '.']).to_owned())
                .take_while(|word| word.starts_with('-'))
                .collect()
        };
        help.lines()
            .filter(|line| line.trim_start().starts_with('-'))
            .flat_map(words)
            .collect()
    }

    #[test]
    fn no_page_misses_an_option_that_the_help_shows() {
        let mut seen = 0;
        for (mut command, page) in all_pages() {
            let help = command.render_long_help().to_string();
            for option in options_shown(&help) {
                assert!(
                    page.contains(&format!(" {option}")),
                    "{}: no {option} in its page",
                    page_name(&command)
                );
                seen += 1;
            }
        }
        assert!(seen > 500, "{seen} options are too few to be all");
    }

    #[test]
    fn no_option_of_a_page_is_without_its_words() {
        for (command, page) in all_pages() {
            let shown = command
                .get_arguments()
                .filter(|option| !option.is_hide_set());
            for option in shown {
                let help = option.get_long_help().or_else(|| option.get_help());
                let words = one_line(&help.map(ToString::to_string).unwrap_or_default());
                assert!(
                    !words.is_empty() && page.contains(&words),
                    "{}: nothing says what {} is",
                    page_name(&command),
                    option.get_id()
                );
            }
        }
    }

    #[test]
    fn what_stands_behind_the_options_is_in_sections_that_people_know() {
        for (command, page) in all_pages() {
            let name = page_name(&command);
            assert!(!page.contains(".SH EXTRA"), "{name}");
            let title = format!(".TH {name} 1 \" \" \"vellum ");
            assert!(page.contains(&title), "{name}: no title");
            let after = command.get_after_help().map(ToString::to_string);
            for line in after.unwrap_or_default().lines() {
                let words = line.strip_prefix(heading_of(line)).unwrap_or(line);
                let words = one_line(words);
                assert!(page.contains(&words), "{name}: no \"{words}\"");
            }
            let examples = page.contains(".SH EXAMPLES .nf");
            assert!(examples || command.has_subcommands(), "{name}: no example");
        }
    }
}
