//! `vellum tree` before and after deletions, in text, JSON and SVG; tables of long and wide names
//! on a terminal.

use std::collections::BTreeMap;

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::sandbox::{Sandbox, VELLUM, copy_folder};

/// What makes a tree of 31 nodes: servers on a golden image, one of them copied while it runs, and
/// a database that went back to an earlier state.
const GROWTH: [&str; 32] = [
    "create golden 64K",
    "snapshot take golden@v1",
    "create web -b golden@v1",
    "snapshot take web@s1",
    "create web2 -b web@s1",
    "snapshot take web@s2",
    "snapshot take web@s3",
    "create test -b web@s2",
    "snapshot take test@t1",
    "create test2 -b test@t1",
    "snapshot take test@t2",
    "create deep -b test2",
    "create deeper -b deep",
    "snapshot take web2@a",
    "snapshot take web2@b",
    "snapshot take golden@v2",
    "create build -b golden@v2",
    "create live -b golden",
    "create db 64K",
    "snapshot take db@d1",
    "snapshot take db@d2",
    "create db-copy -b db@d2",
    "snapshot restore db@d1 --discard",
    "snapshot take db@d3",
    "create report -b db@d3",
    "snapshot take db@d4",
    "snapshot take report@r1",
    "create alone 64K",
    "snapshot take alone@one",
    "snapshot take alone@two",
    "create last -b alone@one",
    "snapshot take last@z",
];

/// A line of the drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    depth: usize,
    sign: char,
    name: String,
    stands_on: String,
}

fn grown() -> Sandbox {
    let sandbox = Sandbox::new();
    for (seed, line) in (0..).zip(GROWTH) {
        if let Some(snapshot) = line.strip_prefix("snapshot take ") {
            // Of another state than the one before.
            let (image, snapshot) = snapshot.split_once('@').expect("a snapshot's name");
            sandbox.random_file("disk.raw", 64 << 10, seed);
            let update = ["import", "disk.raw", image, "--update", "-q", "--snapshot"];
            sandbox.succeed(update.into_iter().chain([snapshot]));
        } else {
            sandbox.succeed(line.split(' ').chain(["-q"]));
        }
    }
    sandbox
}

fn words(sandbox: &Sandbox, args: &[&str]) -> String {
    let mut command = sandbox.command(args);
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The lines of `vellum tree`, read by their columns.
fn drawn(sandbox: &Sandbox, args: &[&str]) -> Vec<Line> {
    let text = words(sandbox, &[&["tree"], args].concat());
    let head = text.lines().next().expect("a header");
    let column = head.find("STANDS ON");
    let line = |line: &str| {
        let letters: Vec<char> = line.chars().collect();
        let at = letters
            .iter()
            .position(|letter| "○●◌".contains(*letter))
            .expect("every line has a sign");
        let rest: String = letters[at + 2..].iter().collect();
        let cell = column.map(|column| letters[column.min(letters.len())..].iter().collect());
        Line {
            depth: at / 2,
            sign: letters[at],
            name: rest.split("  ").next().unwrap_or_default().to_owned(),
            stands_on: cell
                .map(|cell: String| cell.split("  ").next().unwrap_or_default().to_owned())
                .unwrap_or_default(),
        }
    };
    text.lines().skip(1).map(line).collect()
}

/// What each line stands on, as its place among the others says.
fn read_parents(lines: &[Line]) -> Vec<(String, Option<String>)> {
    let hangs = |nth: usize| {
        lines[..nth]
            .iter()
            .rposition(|line| line.depth < lines[nth].depth)
    };
    let is_member =
        |nth: usize| lines[nth].sign != '○' && hangs(nth).is_some_and(|at| lines[at].sign == '○');
    let parent = |nth: usize| {
        let line = &lines[nth];
        if line.stands_on == "nothing" {
            return None;
        }
        if !line.stands_on.is_empty() {
            return Some(line.stands_on.clone());
        }
        let head = if is_member(nth) {
            hangs(nth)
        } else {
            Some(nth)
        };
        let mut members =
            (0..lines.len()).filter(|other| is_member(*other) && hangs(*other) == head);
        let before = if is_member(nth) {
            members.rfind(|other| *other < nth)
        } else if line.sign == '○' {
            members.next_back()
        } else {
            None
        };
        before
            .or_else(|| hangs(head?))
            .map(|at| lines[at].name.clone())
    };
    (0..lines.len())
        .map(|nth| (lines[nth].name.clone(), parent(nth)))
        .collect()
}

/// The same from JSON.
fn json_parents(sandbox: &Sandbox) -> Vec<(String, Option<String>)> {
    let text = words(sandbox, &["tree", "--json"]);
    let nodes: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let title = |node: &Value| {
        let names: Option<Vec<&str>> = node["shared_by"]
            .as_array()
            .map(|names| names.iter().filter_map(Value::as_str).collect());
        match names {
            None => node["name"].as_str().expect("a name").to_owned(),
            Some(names) if names.len() > 3 => format!(
                "shared base of {} and {} more",
                names[..3].join(", "),
                names.len() - 3
            ),
            Some(names) => format!("shared base of {}", names.join(", ")),
        }
    };
    let key = |node: &Value| node.get("id").unwrap_or(&node["name"]).clone();
    let titles: BTreeMap<String, String> = nodes
        .iter()
        .map(|node| (key(node).to_string(), title(node)))
        .collect();
    let parent = |node: &Value| {
        let parent = &node["parent"];
        (!parent.is_null()).then(|| titles[&parent.to_string()].clone())
    };
    nodes
        .iter()
        .map(|node| (title(node), parent(node)))
        .collect()
}

/// Names and columns in the picture, from top to bottom.
fn pictured(sandbox: &Sandbox) -> Vec<(String, usize)> {
    let picture = words(sandbox, &["tree", "--svg", "-"]);
    let document = roxmltree::Document::parse(&picture).expect("XML");
    let circles = document
        .descendants()
        .filter(|node| node.has_tag_name("circle"));
    let number = |node: roxmltree::Node, name| -> f64 {
        node.attribute(name)
            .and_then(|text| text.parse().ok())
            .expect("a number")
    };
    let texts: Vec<_> = document
        .descendants()
        .filter(|node| node.has_tag_name("text") && node.attribute("y").is_some())
        .collect();
    let name_of = |circle: roxmltree::Node| {
        let (x, y) = (number(circle, "cx"), number(circle, "cy"));
        let text = texts.iter().find(|text| {
            (number(**text, "y") - y - 4.0).abs() < 0.5 && text.attribute("x") != Some("100%")
        });
        let text = text.expect("a name beside it");
        // The whole name of one that is shortened.
        let tip = text.children().find(|node| node.has_tag_name("title"));
        let name = tip.unwrap_or(*text).text().unwrap_or_default().to_owned();
        (name, ((x - 8.0) / 14.0) as usize)
    };
    circles.map(name_of).collect()
}

fn check_agreement(sandbox: &Sandbox) -> Vec<Line> {
    let lines = drawn(sandbox, &[]);
    assert_eq!(read_parents(&lines), json_parents(sandbox), "{lines:#?}");
    let shown = lines
        .iter()
        .map(|line| (line.name.clone(), line.depth.min(5)));
    assert_eq!(shown.collect::<Vec<_>>(), pictured(sandbox));
    lines
}

#[test]
fn what_stays_keeps_its_place_and_text_json_and_picture_agree() {
    let grown = grown();
    let before = check_agreement(&grown);
    assert!(
        before.iter().filter(|line| line.sign != '◌').count() == 31,
        "{before:#?}"
    );
    for (deleted, moves) in [
        // Snapshots: the newest, the oldest, one in the middle, one that carries images, one that
        // the image went back from, one that it went back to.
        (&["web@s3"][..], &[][..]),
        (&["golden@v1"], &[]),
        (&["web2@a"], &[]),
        (&["web@s2"], &[]),
        (&["test@t1", "test@t2", "web@s2", "web@s1"], &[]),
        (&["db@d1"], &[]),
        (&["db@d4", "db@d3"], &[]),
        // Images: one that carries nothing, one with snapshots, one that others were made from
        // while it had no snapshot.
        (&["build"], &[]),
        (&["web2", "--with-snapshots"], &[]),
        (&["deeper", "alone@two", "last", "--with-snapshots"], &[]),
        // What was made from something that goes as a whole hangs from what that stood on.
        (&["web", "--with-snapshots"], &["web2", "test", "deep"]),
        (
            &["golden", "--with-snapshots"],
            &["web", "build", "live", "test", "deep"],
        ),
        (&["alone", "--with-snapshots"], &["last"]),
    ] {
        let sandbox = Sandbox::empty();
        copy_folder(&grown.path("store"), &sandbox.path("store"));
        sandbox.succeed([&["rm", "-q"], deleted].concat());
        for step in ["deleted", "collected"] {
            let after = check_agreement(&sandbox);
            let names: Vec<&String> = after.iter().map(|line| &line.name).collect();
            let stays = |line: &&Line| line.sign != '◌' && names.contains(&&line.name);
            let kept: Vec<&Line> = before.iter().filter(stays).collect();
            let found: Vec<&Line> = after.iter().filter(|line| line.sign != '◌').collect();
            let order = |lines: &[&Line]| -> Vec<String> {
                lines.iter().map(|line| line.name.clone()).collect()
            };
            assert_eq!(
                order(&kept),
                order(&found),
                "{step} {deleted:?}: {after:#?}"
            );
            for (old, new) in kept.iter().zip(&found) {
                let may_move = moves.iter().any(|name| old.name.starts_with(name));
                assert!(
                    old.depth == new.depth || may_move,
                    "{step} {deleted:?}: {old:?} became {new:?}"
                );
            }
            sandbox.succeed(["gc", "-q"]);
        }
    }
}

#[test]
fn a_name_shows_its_own_tree_in_all_forms() {
    let sandbox = grown();
    let names = |args: &[&str]| -> Vec<String> {
        let lines = drawn(&sandbox, args).into_iter();
        lines.map(|line| line.name).collect()
    };
    let all = names(&[]);
    let start = all
        .iter()
        .position(|name| name == "db")
        .expect("it is there");
    for node in ["db", "db@d2", "db-copy", "report@r1"] {
        assert_eq!(names(&[node]), all[start..start + 8], "{node}");
        let picture = words(&sandbox, &["tree", node, "--svg", "-"]);
        assert!(
            picture.contains("db-copy") && !picture.contains("alone@one"),
            "{picture}"
        );
    }
    let json = words(&sandbox, &["tree", "alone@o", "--json"]);
    assert!(
        json.contains("last@z") && !json.contains("golden"),
        "{json}"
    );
    sandbox.run(["tree", "nothing"]).expect_error(1, "nothing");
}

#[test]
fn locales_without_utf8_get_letters_that_they_have() {
    let sandbox = grown();
    for (name, locale) in [("LC_ALL", "C"), ("LC_CTYPE", "POSIX"), ("LANG", "de_DE")] {
        let mut command = sandbox.command(["tree"]);
        for name in ["LC_ALL", "LC_CTYPE", "LANG"] {
            command.env_remove(name);
        }
        let output = command.env(name, locale).output().expect("it starts");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.is_ascii(), "{text}");
        assert!(
            text.contains("|-* web@s1 ") && text.contains("`-o web2 "),
            "{text}"
        );
    }
}

/// Runs `line` on a terminal of so many columns.
fn recorded(sandbox: &Sandbox, columns: usize, line: &str) -> String {
    let script = format!("stty cols {columns} rows 24; exec '{VELLUM}' {line}");
    let mut command = sandbox.command_line("script", ["-qec", &script, "/dev/null"]);
    command
        .env("LC_ALL", "C.UTF-8")
        .env("VELLUM_PROGRESS_FPS", "0")
        .env("VELLUM_PASSWORD", "secret");
    let output = command.output().expect("every system has it");
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .replace('\r', "")
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    let long = "a-name-that-says-all-there-is-to-say-about-the-machine-and-its-disk".repeat(2);
    for name in [
        &*long,
        "日本のサーバー日本のサーバー日本のサーバー日本",
        "🦀🦀 crab",
        "e\u{301}te\u{301}",
    ] {
        sandbox.succeed([
            "import",
            "disk.raw",
            name,
            "--snapshot",
            "before the upgrade",
            "-q",
        ]);
        sandbox.succeed([
            "create",
            &format!("{name} 2"),
            "-b",
            &format!("{name}@before the upgrade"),
        ]);
        for tag in [
            "production",
            "second-floor",
            "日本",
            "backed-up-every-night",
        ] {
            sandbox.succeed(["tag", name, &format!("+{tag}"), "-q"]);
        }
    }
    let mut init = sandbox.command(["backup", "init", "backup"]);
    init.env("VELLUM_PASSWORD", "secret");
    assert!(init.output().expect("it starts").status.success());
    let mut push = sandbox.command(["backup", "push", "backup", "--all"]);
    push.env("VELLUM_PASSWORD", "secret");
    assert!(push.output().expect("it starts").status.success());
    let info = format!("info '{long}'");
    for line in [
        "list",
        "list --snapshots",
        "tree",
        &info,
        "report",
        "report --keep-last 1",
        "measure disk.raw",
        "measure disk.raw --against-store",
        "backup list backup",
        "backup tree backup",
    ] {
        for columns in [80, 60] {
            let shown = recorded(&sandbox, columns, line);
            assert!(shown.lines().count() > 3, "{line}: {shown}");
            for shown in shown
                .lines()
                .filter(|shown| !shown.contains("vellum init ") && !shown.starts_with("next: "))
            {
                assert!(shown.width() <= columns, "{line} at {columns}: {shown:?}");
            }
        }
    }
}

#[test]
fn wide_and_combining_letters_do_not_move_columns() {
    let sandbox = Sandbox::new();
    for name in ["web", "日本", "🦀", "e\u{301}te\u{301}", "한국어"] {
        sandbox.succeed(["create", name, "1M", "-q"]);
    }
    for command in ["list", "tree"] {
        let shown = words(&sandbox, &[command]);
        let starts: Vec<usize> = shown
            .lines()
            .skip(1)
            .map(|line| line.split("1 MiB").next().expect("a size").width())
            .collect();
        assert!(starts.iter().all(|start| *start == starts[0]), "{shown}");
    }
}

/// The zone stands once, above the times, so that an 80-column terminal has room for all columns.
#[test]
fn a_table_names_the_zone_of_its_times_once() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.succeed([
        "import",
        "disk.raw",
        "vm-100-disk-0",
        "--snapshot",
        "monday",
        "-q",
    ]);
    for (zone, args, heading) in [
        ("UTC0", &["list"][..], "CREATED (UTC)"),
        ("<+0545>-5:45", &["list"], "CREATED (+05:45)"),
        ("<-0330>3:30", &["list"], "CREATED (-03:30)"),
        ("<+0545>-5:45", &["list", "--utc"], "CREATED (UTC)"),
        ("<+0545>-5:45", &["tree"], "CREATED (+05:45)"),
        (
            "<+0545>-5:45",
            &["snapshot", "list", "vm-100-disk-0"],
            "CREATED (+05:45)",
        ),
        ("<+0545>-5:45", &["report", "growth"], "WHEN (+05:45)"),
        (
            "<+0545>-5:45",
            &["report", "--keep-last", "1"],
            "TAKEN (+05:45)",
        ),
        (
            "<+0545>-5:45",
            &["list", "-o", "name,created"],
            "CREATED (+05:45)",
        ),
    ] {
        let mut command = sandbox.command(args);
        let output = command.env("TZ", zone).env("COLUMNS", "80").output();
        let shown = String::from_utf8(output.expect("it starts").stdout).expect("text");
        assert!(shown.contains(heading), "{args:?}: {shown}");
        assert!(!shown.contains("+05:45 "), "{args:?}: {shown}");
        if args[0] == "list" && args.len() < 3 {
            assert!(shown.contains("SNAPSHOTS"), "{args:?}: {shown}");
        }
    }
}
