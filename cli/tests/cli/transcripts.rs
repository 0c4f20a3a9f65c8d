//! Transcripts: the output, word for word, of `tests/cmd`, and of every example of the README.

use std::path::Path;

use crate::sandbox::VELLUM;

/// Tools that transcripts use beside the command itself.
const SHELL: &str = "/bin/sh";
/// Words that follow a number and depend on it.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "s", "min", "h"];

fn cases() -> trycmd::TestCases {
    let cases = trycmd::TestCases::new();
    cases
        .register_bin("vellum", Path::new(VELLUM))
        .register_bin("sh", Path::new(SHELL));
    cases
        .env("VELLUM_STORE", "store")
        .env("VELLUM_UNITS", "")
        .env("VELLUM_COMPRESSION", "")
        .env("COLUMNS", "100")
        // Trees are drawn with letters that the locale has.
        .env("LC_ALL", "C.UTF-8");
    // Times are shown in the caller's zone, and tables name it.
    cases.env("TZ", "UTC0");
    // Files remembered of repositories go into the examples' own folder; their password is in a
    // file there.
    cases
        .env("VELLUM_CACHE_DIR", "cache")
        .env("XDG_STATE_HOME", "")
        .env("HOME", "")
        .env("VELLUM_PASSWORD_FILE", "password");
    cases
}

#[test]
fn transcripts() {
    cases().case("tests/cmd/*.trycmd");
}

#[test]
fn readme_examples_run_as_printed() {
    run_as_printed("README.md");
}

#[test]
fn no_page_of_the_book_has_a_command_that_does_not_run() {
    for page in [
        "virtualbox",
        "libvirt",
        "proxmox",
        "backup",
        "ci",
        "manager",
    ] {
        run_as_printed(&format!("docs/book/howto/{page}.md"));
    }
}

/// Runs a document of the project as printed, by a shell, in one folder. Numbers in what it shows
/// (sizes, times), ids and whole paths are examples; all words hold.
fn run_as_printed(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let document = std::fs::read_to_string(path).expect("the document is there");
    let commands = for_a_shell(&document);
    assert!(commands.contains("\n$ sh "), "{name} has no commands");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let case = dir.path().join("document.md");
    std::fs::create_dir(dir.path().join("document.out"))
        .expect("a folder that makes it run in a sandbox");
    std::fs::write(&case, commands).expect("room for the document");
    let folder = Path::new(VELLUM)
        .parent()
        .expect("the command is in a folder")
        .display();
    let path = std::env::var("PATH").unwrap_or_default();
    cases().env("PATH", format!("{folder}:{path}")).case(&case);
}

/// The console blocks of `markdown`: each command given to a shell, each line of output with its
/// numbers left open, and after the last of them the blank line that trycmd wants. A comment behind
/// a command says with which code it ends, if that is not zero.
fn for_a_shell(markdown: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let (mut in_block, mut after_output) = (false, false);
    for line in markdown.lines() {
        let is_fence = line.starts_with("```");
        if in_block && after_output && (is_fence || line.starts_with("$ ")) {
            lines.push(String::new());
        }
        after_output = in_block && !line.starts_with("$ ");
        match line.strip_prefix("$ ") {
            Some(command) if in_block => {
                lines.push(format!("$ sh -c '{}'", command.replace('\'', r"'\''")));
                lines.extend(exit_code(command).map(|code| format!("? {code}")));
            }
            _ if in_block && !is_fence => lines.push(numbers_open(line)),
            _ => lines.push(line.to_owned()),
        }
        in_block = if is_fence {
            line == "```console"
        } else {
            in_block
        };
    }
    lines.join("\n")
}

/// The code of `… # exit code 1: they differ`.
fn exit_code(command: &str) -> Option<&str> {
    let (_, rest) = command.split_once("# exit code ")?;
    Some(rest.split_once(':').map_or(rest, |(code, _)| code))
}

/// True if a word is of one machine and one moment: an id, or a whole path; or if it is a backslash,
/// for which trycmd has another.
fn is_of_here(word: &str) -> bool {
    let core = word.trim_matches(['(', ')', ',', ':']);
    let is_id = core.len() >= 8 && core.chars().all(|digit| digit.is_ascii_hexdigit());
    is_id
        || core == "\\"
        || core.starts_with('/')
        || ["=/", "\"/", "'/", "://1"]
            .iter()
            .any(|part| core.contains(part))
}

/// `line` with `[..]` for every number with its unit; exactly as it is if it has none.
fn numbers_open(line: &str) -> String {
    let is_number = |word: &str| {
        if is_of_here(word) {
            return true;
        }
        let core = word.trim_matches(['(', ')', ',', ':']);
        core.starts_with(|first: char| first.is_ascii_digit())
            && core
                .chars()
                .all(|character| !character.is_ascii_lowercase())
    };
    if !line.split_whitespace().any(is_number) {
        return line.to_owned();
    }
    let is_unit = |word: &str| UNITS.contains(&word.trim_matches([',', ':']));
    let words: Vec<&str> = line.split_whitespace().collect();
    let kept = words
        .split(|word| is_number(word) || is_unit(word))
        .filter(|words| !words.is_empty());
    format!(
        "[..]{}[..]",
        kept.map(|words| words.join("[..]"))
            .collect::<Vec<_>>()
            .join("[..]")
    )
}
