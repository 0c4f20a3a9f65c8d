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
    for page in ["virtualbox", "libvirt", "proxmox", "backup", "ci"] {
        run_as_printed(&format!("docs/book/howto/{page}.md"));
    }
}

/// Runs a document of the project as printed, by a shell, in one folder. Numbers in what it shows
/// (sizes, times) are examples; all words hold.
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
/// numbers left open, and after the last of them the blank line that trycmd wants.
fn for_a_shell(markdown: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let (mut in_block, mut after_output) = (false, false);
    for line in markdown.lines() {
        let is_fence = line.starts_with("```");
        if in_block && after_output && (is_fence || line.starts_with("$ ")) {
            lines.push(String::new());
        }
        after_output = in_block && !line.starts_with("$ ");
        lines.push(match line.strip_prefix("$ ") {
            Some(command) if in_block => format!("$ sh -c '{}'", command.replace('\'', r"'\''")),
            _ if in_block && !is_fence && !line.starts_with("? ") => numbers_open(line),
            _ => line.to_owned(),
        });
        in_block = if is_fence {
            line == "```console"
        } else {
            in_block
        };
    }
    lines.join("\n")
}

/// `line` with `[..]` for every number with its unit; exactly as it is if it has none.
fn numbers_open(line: &str) -> String {
    let is_number = |word: &str| {
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
