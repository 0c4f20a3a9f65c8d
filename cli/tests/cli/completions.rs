//! Completion by shells: the names of a store's images, snapshots and machines, and nothing that a
//! shell would run.

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
    sandbox.succeed(["create", "$(touch made)", "1M"]);
    sandbox.succeed(["create", "two words", "1M"]);
    sandbox
}

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

/// Bash's own function, called as bash would for the word behind the last `@`.
#[test]
fn bash_replaces_what_it_calls_a_word() {
    let sandbox = sandbox_with_names();
    let script = sandbox.succeed(["completions", "bash"]);
    std::fs::write(sandbox.path("vellum.bash"), script).expect("room");
    for (line, word, expected) in [
        ("vellum rm we", "we", "web web2"),
        ("vellum rm web2@m", "web2@m", "web2@monday"),
        ("vellum rm web2@m", "m", "monday"),
        ("vellum rm web2@m", "@m", "@monday"),
        ("vellum export --js", "--js", "--json"),
        ("vellum snapshot ta", "ta", "take"),
        ("vellum rm ", "", "db web web2"),
    ] {
        let call = "source ./vellum.bash; COMP_LINE=$1; COMP_POINT=${#1}; read -ra COMP_WORDS <<< \
                    \"$1\"; [[ $1 == *' ' ]] && COMP_WORDS+=(''); \
                    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMP_WORDS[0]=$3; \
                    COMP_LINE=${COMP_LINE/vellum/$3}; COMP_POINT=${#COMP_LINE}; \
                    _vellum_names \"$3\" \"$2\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
                    echo \"${COMPREPLY[@]}\"";
        let output = Command::new("bash")
            .args(["-c", call, "bash", line, word, VELLUM])
            .current_dir(sandbox.path(""))
            .env("VELLUM_STORE", "store")
            .stdin(Stdio::null())
            .output()
            .expect("bash is there");
        let run = Run::of(output);
        assert_eq!(
            (run.stdout.trim(), run.stderr.as_str()),
            (expected, ""),
            "{line:?} {word:?}"
        );
    }
    assert!(!sandbox.path("made").exists());
}

/// The other shells' scripts have the names where clap leaves a place for them.
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
