//! Completion by shells: the names of a store's images, snapshots and machines, and of a repository's
//! points, and nothing that a shell would run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::sandbox::{Run, Sandbox, VELLUM};

/// Images of which one has a name that a shell would run, snapshots and a machine.
fn sandbox_with_names() -> Sandbox {
    let sandbox = Sandbox::new();
    for line in [
        "create web 1M",
        "create web2 1M",
        "create db 1M",
        "snapshot take web2@monday",
        "snapshot take web2@tuesday",
        "machine create vm",
        "machine snapshot take vm@one",
    ] {
        sandbox.succeed(line.split(' '));
    }
    sandbox.succeed(["backup", "init", "./backup", "--no-encryption", "-q"]);
    sandbox.succeed(["backup", "push", "./backup", "--all", "-q"]);
    sandbox.succeed(["create", "$(touch made)", "1M"]);
    sandbox.succeed(["create", "two words", "1M"]);
    sandbox
}

/// Lines up to the cursor, and what a shell offers there.
const OFFERED: [(&str, &[&str]); 8] = [
    ("vellum rm we", &["web", "web2"]),
    ("vellum rm web2@m", &["web2@monday"]),
    ("vellum create x -b web2@t", &["web2@tuesday"]),
    ("vellum machine show ", &["vm", "vm@one"]),
    ("vellum machine start v", &["vm"]),
    ("vellum backup restore ./backup web2@t", &["web2@tuesday"]),
    ("vellum backup list ./backup w", &["web", "web2"]),
    (
        "vellum backup diff ./backup web web2@",
        &["web2@monday", "web2@tuesday"],
    ),
];

fn names(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let line = ["complete-names", "--"].iter().chain(words);
    let run = sandbox.run(line);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{words:?}");
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn names_are_those_that_fit_the_word_at_the_cursor() {
    let sandbox = sandbox_with_names();
    for (words, expected) in [
        (&["rm", ""][..], &["db", "web", "web2"][..]),
        (&["rm", "we"], &["web", "web2"]),
        (&["rm", "web2"], &["web2", "web2@monday", "web2@tuesday"]),
        (&["export", "web2@"], &["web2@monday", "web2@tuesday"]),
        (&["snapshot", "restore", "web2@t"], &["web2@tuesday"]),
        (&["list", "web2"], &["web2"]),
        (&["machine", "show", "vm@"], &["vm@one"]),
        (&["machine", "start", ""], &["vm"]),
        (&["--store", "nowhere", "rm", ""], &[]),
        (&["create", "x"], &[]),
        (&["frobnicate", ""], &[]),
        (&[], &[]),
    ] {
        assert_eq!(names(&sandbox, words), expected, "{words:?}");
    }
}

#[test]
fn without_a_store_nothing_is_said_and_nobody_waits() {
    let sandbox = Sandbox::empty();
    let begun = Instant::now();
    assert_eq!(names(&sandbox, &["rm", ""]), Vec::<String>::new());
    assert!(begun.elapsed() < Duration::from_secs(5));
    std::fs::create_dir(sandbox.path("store")).expect("room");
    assert_eq!(names(&sandbox, &["rm", ""]), Vec::<String>::new());
    assert!(!sandbox.path("store/lock").exists());
}

#[test]
fn points_are_offered_without_a_question() {
    let sandbox = sandbox_with_names();
    for (words, expected) in [
        (
            &["backup", "restore", "./backup", "web2@"][..],
            &["web2@monday", "web2@tuesday"][..],
        ),
        (&["backup", "list", "./backup", ""], &["db", "web", "web2"]),
        (&["backup", "restore", "./backup", "web", ""], &[]),
        (&["backup", "restore", "./nowhere", "w"], &[]),
        (&["backup", "restore", "s3://bucket/x", "w"], &[]),
    ] {
        assert_eq!(names(&sandbox, words), expected, "{words:?}");
    }
    let with = |variables: &[(&str, &str)], words: &[&str]| {
        let mut command = sandbox.command(["complete-names", "--"].iter().chain(words));
        let run = Run::of(
            command
                .envs(variables.iter().copied())
                .output()
                .expect("it starts"),
        );
        (run.code, run.stdout, run.stderr)
    };
    let offered = |names: &str| (Some(0), names.to_owned(), String::new());
    let restore = ["backup", "restore", "db"];
    assert_eq!(
        with(&[("VELLUM_REPOSITORY", "backup")], &restore),
        offered("db\n")
    );
    let mut init = sandbox.command(["backup", "init", "./sealed", "-q"]);
    assert!(
        init.env("VELLUM_PASSWORD", "x")
            .status()
            .expect("it starts")
            .success()
    );
    let mut push = sandbox.command(["backup", "push", "./sealed", "db", "-q"]);
    assert!(
        push.env("VELLUM_PASSWORD", "x")
            .status()
            .expect("it starts")
            .success()
    );
    let restore = ["backup", "restore", "./sealed", "d"];
    assert_eq!(with(&[("VELLUM_PASSWORD", "x")], &restore), offered("db\n"));
    assert_eq!(with(&[], &restore), offered(""));
    // A command might ask somebody.
    let asking = [("VELLUM_PASSWORD_COMMAND", "touch made; echo x")];
    assert_eq!(with(&asking, &restore), offered(""));
    assert!(!sandbox.path("made").exists());
}

/// The name of `shell`'s script, written into the sandbox.
fn script_file(sandbox: &Sandbox, shell: &str) -> String {
    let file = format!("vellum.{shell}");
    let script = sandbox.succeed(["completions", shell]);
    std::fs::write(sandbox.path(&file), script).expect("room");
    file
}

/// What `program` prints, with the command where a shell finds it.
fn shell_output(sandbox: &Sandbox, program: &str, args: &[&str]) -> Run {
    let folder = Path::new(VELLUM).parent().expect("it is in a folder");
    let path = std::env::var("PATH").expect("there is a path");
    let output = Command::new(program)
        .args(args)
        .current_dir(sandbox.path(""))
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("HOME", sandbox.path(""))
        .env("VELLUM_STORE", "store")
        .stdin(Stdio::null())
        .output();
    Run::of(output.unwrap_or_else(|_| panic!("{program} is needed: make packages installs it")))
}

/// Bash's own function, called as bash would for the word behind the last `@`.
#[test]
fn bash_replaces_what_it_calls_a_word() {
    let sandbox = sandbox_with_names();
    script_file(&sandbox, "bash");
    let call = "source ./vellum.bash; COMP_LINE=$1; COMP_POINT=${#1}; read -ra COMP_WORDS <<< \
                \"$1\"; [[ $1 == *' ' ]] && COMP_WORDS+=(''); \
                COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); \
                _vellum_names vellum \"$2\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
                echo \"${COMPREPLY[@]}\"";
    let offered = OFFERED.map(|(line, names)| {
        let word = line.rsplit(' ').next().unwrap_or_default();
        (line, word, names.join(" "))
    });
    let parts = [
        ("vellum rm web2@m", "m", "monday"),
        ("vellum rm web2@m", "@m", "@monday"),
        ("vellum export --js", "--js", "--json"),
        ("vellum snapshot ta", "ta", "take"),
        ("vellum rm ", "", "db web web2"),
    ]
    .map(|(line, word, names)| (line, word, names.to_owned()));
    for (line, word, expected) in offered.into_iter().chain(parts) {
        let run = shell_output(&sandbox, "bash", &["-c", call, "bash", line, word]);
        assert_eq!(
            (run.stdout.trim(), run.stderr.as_str()),
            (expected.as_str(), ""),
            "{line:?} {word:?}"
        );
    }
    assert!(!sandbox.path("made").exists());
}

/// Fish itself, asked for what it would offer.
#[test]
fn fish_offers_names_and_what_clap_knows() {
    let sandbox = sandbox_with_names();
    script_file(&sandbox, "fish");
    for (line, names) in OFFERED.into_iter().chain([
        ("vellum export --js", &["--json"][..]),
        ("vellum snapshot ta", &["take"]),
    ]) {
        let call = "source ./vellum.fish; complete -C $argv[1]";
        let run = shell_output(&sandbox, "fish", &["--no-config", "-c", call, line]);
        // A description may stand behind a tab, and fish offers files as well.
        let offered = run
            .stdout
            .lines()
            .filter_map(|line| line.split('\t').next());
        let is_file = |name: &&str| *name == "vellum.fish" || name.ends_with('/');
        let offered: Vec<&str> = offered.filter(|name| !is_file(name)).collect();
        assert_eq!(
            (offered, run.stderr.as_str()),
            (names.to_vec(), ""),
            "{line:?}"
        );
    }
    assert!(!sandbox.path("made").exists());
}

/// Zsh's own function, with a line as its editor has it.
#[test]
fn zsh_offers_names() {
    let sandbox = sandbox_with_names();
    script_file(&sandbox, "zsh");
    for (line, names) in OFFERED {
        let call = "compdef() { : }; _default() { : }; compadd() { print -l -- ${(P)2} }; \
                    source ./vellum.zsh; LBUFFER=$1; _vellum_names";
        let run = shell_output(&sandbox, "zsh", &["-f", "-c", call, "zsh", line]);
        let word = line.rsplit(' ').next().unwrap_or_default();
        let offered: Vec<&str> = run
            .stdout
            .lines()
            .filter(|name| name.starts_with(word))
            .collect();
        assert_eq!(
            (offered, run.stderr.as_str()),
            (names.to_vec(), ""),
            "{line:?}"
        );
    }
    assert!(!sandbox.path("made").exists());
}

/// The scripts have the names where clap leaves a place for them.
#[test]
fn every_script_asks_for_names() {
    let sandbox = Sandbox::empty();
    for (shell, words) in [
        ("bash", "complete -F _vellum_names -o nosort"),
        ("zsh", ":_vellum_names'"),
        ("fish", "complete -c vellum -a \"(__fish_vellum_names)\""),
    ] {
        let script = sandbox.succeed(["completions", shell]);
        assert!(script.contains(words), "{shell}");
        assert!(script.contains("complete-names -- "), "{shell}");
    }
}
