//! `vellum report` and the picture of `vellum tree`: figures that hold, files that are whole or not
//! there, and the words of `vellum rm` where that would refuse.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::sandbox::{Run, Sandbox};
use crate::server::Served;

/// A store with image `web` of two states that share most, `child` on the first of them, and
/// `other`, which is apart.
fn small() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    sandbox.succeed(["import", "disk.raw", "web", "--snapshot", "a"]);
    let mut bytes = fs::read(sandbox.path("disk.raw")).expect("it is there");
    bytes[..64 << 10].fill(7);
    bytes[512 << 10..576 << 10].reverse();
    fs::write(sandbox.path("disk.raw"), bytes).expect("room");
    sandbox.succeed(["import", "disk.raw", "web", "--update", "--snapshot", "b"]);
    sandbox.succeed(["create", "child", "-b", "web@a"]);
    sandbox.random_file("other.raw", 1 << 20, 2);
    sandbox.succeed(["import", "other.raw", "other"]);
    sandbox
}

/// A store with image `web` of four states that have nothing in common, and `child` on the first.
fn days() -> Sandbox {
    let sandbox = Sandbox::new();
    let states: [&[&str]; 4] = [
        &["--snapshot", "a"],
        &["--update", "--snapshot", "b"],
        &["--update", "--snapshot", "c"],
        &["--update"],
    ];
    for (seed, words) in (0..).zip(states) {
        sandbox.random_file("disk.raw", 1 << 20, seed);
        sandbox.succeed(["import", "disk.raw", "web", "-q"].iter().chain(words));
    }
    sandbox.succeed(["create", "child", "-b", "web@a", "-q"]);
    sandbox.succeed(["snapshot", "take", "child@still", "-q"]);
    sandbox
}

fn json(sandbox: &Sandbox, args: &[&str]) -> Value {
    let out = sandbox.succeed(args.iter().chain(&["--json"]));
    let last = out.lines().last().expect("an answer");
    serde_json::from_str(last).expect("JSON")
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count"))
}

/// Names in `folder` that nobody asked for.
fn leftovers(sandbox: &Sandbox) -> Vec<String> {
    let names = fs::read_dir(sandbox.path(""))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.contains(".partial"))
        .collect()
}

#[test]
fn every_stored_byte_is_in_one_row() {
    let sandbox = small();
    let report = json(&sandbox, &["report"]);
    let rows = report["attribution"].as_array().expect("a list");
    let sum: u64 = rows.iter().map(|row| number(&row["bytes"])).sum();
    assert_eq!(sum, number(&report["totals"]["disk_bytes"]), "{report}");
    let names: Vec<&str> = report["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|node| node["name"].as_str())
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        ["child", "other", "web", "web@a", "web@b"],
        "{report}"
    );
}

#[test]
fn what_a_deletion_is_said_to_free_is_what_a_collection_drops() {
    for set in [
        &["other"][..],
        &["web@a", "web@b", "web"],
        &["child", "web@a"],
        &["web", "--with-snapshots"],
        &["child"],
    ] {
        let sandbox = small();
        sandbox.succeed(["gc", "-q"]);
        let said = json(&sandbox, &[&["report", "--reclaim"], set].concat());
        sandbox.succeed([&["rm", "-q"], set].concat());
        let dropped = json(&sandbox, &["gc"]);
        assert_eq!(
            number(&said["chunks"]),
            number(&dropped["chunks_dropped"]),
            "{set:?}: {said} and {dropped}"
        );
        assert_eq!(
            number(&said["plain_bytes"]),
            number(&dropped["plain_bytes_dropped"]),
            "{set:?}: {said} and {dropped}"
        );
    }
}

/// What a guest wrote last is in the log and in no table yet.
#[test]
fn what_a_guest_wrote_a_moment_ago_counts_in_a_forecast() {
    let sandbox = small();
    sandbox.random_file("written.raw", 16 << 20, 3);
    sandbox.succeed(["create", "guest", "64M", "-q"]);
    let server = Served::start(&sandbox);
    let socket = sandbox.path("store/nbd.sock");
    let write = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write -q -s written.raw 1M 16M"])
        .arg(format!("nbd+unix:///guest?socket={}", socket.display()))
        .current_dir(sandbox.path(""))
        .status();
    assert!(write.expect("qemu-io starts").success());
    server.stop();
    let said = json(&sandbox, &["rm", "-n", "guest"]);
    sandbox.succeed(["rm", "guest", "-q"]);
    let collected = json(&sandbox, &["gc"]);
    let freed = number(&collected["disk_bytes_before"]) - number(&collected["disk_bytes_after"]);
    let foretold = number(&said["freed_bytes"]);
    assert!(
        foretold > 15 << 20 && freed + (1 << 20) > foretold,
        "{said} and {collected}"
    );
}

#[test]
fn what_rm_refuses_is_refused_in_the_same_words() {
    let sandbox = small();
    sandbox.succeed(["pin", "web@b"]);
    for set in [
        &["nothing"][..],
        &["web@nothing"],
        &["web"],
        &["web@b"],
        &["web", "--with-snapshots"],
        &["other", "nothing"],
    ] {
        let of = |verb: &[&str]| sandbox.run([verb, set].concat());
        let (asked, deleted): (Run, Run) = (of(&["report", "--reclaim"]), of(&["rm"]));
        assert_eq!(
            (asked.code, asked.stderr),
            (deleted.code, deleted.stderr),
            "{set:?}"
        );
        assert_eq!(asked.code, Some(1), "{set:?}");
    }
    assert_eq!(sandbox.names().len(), 5);
}

#[test]
fn a_target_is_reached_or_said_to_be_out_of_reach() {
    let sandbox = small();
    let said = json(&sandbox, &["report", "--target", "900K"]);
    assert!(number(&said["freed_bytes"]) >= 900 << 10, "{said}");
    sandbox
        .run(["report", "--target", "1T"])
        .expect_error(1, "no deletion frees 1 TiB");
    for name in ["other", "web@a", "web@b"] {
        sandbox.succeed(["pin", name]);
    }
    sandbox
        .run(["report", "--target", "900K"])
        .expect_error(1, "no deletion frees");
}

#[test]
fn a_policy_says_which_snapshots_go_and_why_the_others_stay() {
    let sandbox = small();
    let said = json(&sandbox, &["report", "--keep-last", "1"]);
    let kept = |name: &str| {
        said["snapshots"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|snapshot| snapshot["name"] == name)
            .map(|found| &found["kept"])
    };
    assert_eq!(
        (kept("web@a"), kept("web@b")),
        (Some(&Value::Bool(false)), Some(&Value::Bool(true))),
        "{said}"
    );
    assert_eq!(said["deleted"][0]["name"], "web@a", "{said}");
    // Chunks below `child` are held by `child` too.
    assert_eq!(said["freed_bytes"], 0, "{said}");
    sandbox
        .run(["report", "--keep-last", "0"])
        .expect_error(2, "keeps nothing");
}

/// Flips a bit in a table that holds maps of `web`, and not the one of `other`, that of layer 10:
/// which maps the database puts into one table is up to it.
fn damage_a_map(sandbox: &Sandbox) {
    const MARK: &[u8] = b"namepages";
    let files = fs::read_dir(sandbox.path("store/database"))
        .expect("a store")
        .map(|entry| entry.expect("an entry").path());
    let is_table = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sst");
    for path in files.filter(is_table) {
        let whole = fs::read(&path).expect("readable");
        if !whole.windows(MARK.len()).any(|found| found == MARK) {
            continue;
        }
        let mut damaged = whole.clone();
        damaged[30] ^= 4;
        fs::write(&path, damaged).expect("it is ours");
        let run = sandbox.run(["report"]);
        if run.code == Some(3) && !run.stderr.contains("page 0 of layer 10 ") {
            return;
        }
        fs::write(&path, whole).expect("it is ours");
    }
    panic!("no table holds maps of one image alone");
}

#[test]
fn a_damaged_layer_in_the_middle_is_told_in_every_form_and_the_rest_counted() {
    let sandbox = small();
    let exclusive = |text: &str| -> Value {
        let report: Value = serde_json::from_str(text).expect("JSON");
        report["nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|node| node["name"] == "other")
            .expect("it is there")
            .clone()
    };
    let before = exclusive(&sandbox.succeed(["report", "--json"]));
    damage_a_map(&sandbox);
    let questions: &[&[&str]] = &[
        &[],
        &["nodes"],
        &["--csv", "nodes"],
        &["--html", "page.html"],
        &["--prometheus"],
        &["--reclaim", "other"],
        &["--target", "100K"],
        &["--keep-last", "1"],
    ];
    for question in questions {
        let run = sandbox.run([&["report"], *question].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(
            run.stderr.contains("page 0 of layer") && run.stderr.contains("is not counted"),
            "{run:?}"
        );
        assert!(
            !run.stdout.is_empty(),
            "what can be counted is told: {run:?}"
        );
    }
    let page = fs::read_to_string(sandbox.path("page.html")).expect("it was written");
    assert!(
        page.contains("could not be read") && page.contains("page 0 of layer"),
        "{page}"
    );
    assert_eq!(
        exclusive(&sandbox.run(["report", "--json"]).stdout),
        before,
        "it has no part in the damage"
    );
    for question in [&["--reclaim", "other"], &["--target", "100K"]] {
        let said: Value = serde_json::from_str(
            &sandbox
                .run([&["report", "--json"], &question[..]].concat())
                .stdout,
        )
        .expect("JSON");
        assert!(
            said["uncounted"][0]["subject"]
                .as_str()
                .is_some_and(|subject| subject.starts_with("page 0 of layer")),
            "{said}"
        );
    }
    let told = sandbox.run(["report", "--target", "1T"]);
    assert!(
        told.code == Some(1)
            && told.stderr.contains("is not counted")
            && told.stderr.contains("no deletion frees 1 TiB"),
        "{told:?}"
    );
    let refused = sandbox.run(["gc"]);
    assert_eq!(refused.code, Some(1), "as the answer said: {refused:?}");
}

/// In a zone whose midnight lies between two snapshots they are of two days; in Greenwich, as a
/// rule, of one.
#[test]
fn days_are_those_of_the_callers_clock() {
    let sandbox = Sandbox::new();
    sandbox.succeed(["create", "web", "1M"]);
    sandbox.succeed(["snapshot", "take", "web@evening"]);
    // Snapshots have their time to the second.
    std::thread::sleep(Duration::from_millis(1001));
    sandbox.succeed(["snapshot", "take", "web@morning"]);
    sandbox.succeed(["backup", "init", "./repository", "--no-encryption", "-q"]);
    sandbox.succeed(["backup", "push", "./repository", "web", "-q"]);
    let of = |zone: &str, words: &[&str]| {
        let out = sandbox
            .command([words, &["--keep-daily", "2", "--json"]].concat())
            .env("TZ", zone)
            .output()
            .expect("it starts");
        serde_json::from_slice::<Value>(&out.stdout).expect("JSON")
    };
    let greenwich = of("UTC0", &["report"]);
    let taken = |nth: usize| {
        greenwich["snapshots"][nth]["taken"]
            .as_str()
            .expect("a moment")
    };
    let (evening, morning) = (taken(0), taken(1));
    let midnight = zone_whose_day_begins(morning);
    for (zone, is_one_day) in [("UTC0", evening[..10] == morning[..10]), (&midnight, false)] {
        let why = if is_one_day {
            "oldest daily snapshot"
        } else {
            "daily snapshot"
        };
        let report = of(zone, &["report"]);
        assert_eq!(
            report["snapshots"][0]["reasons"][0], why,
            "{zone}, {evening}, {morning}: {report}"
        );
        let forget = of(zone, &["backup", "forget", "./repository", "-n"]);
        let points = forget["points"].as_array().expect("a list");
        let point = points
            .iter()
            .find(|point| point["name"] == "web@evening")
            .expect("it was pushed");
        assert_eq!(
            point["reasons"][0], why,
            "{zone}, {evening}, {morning}: {forget}"
        );
    }
    for (zone, ending) in [("UTC0", "+00:00"), ("<+1345>-13:45", "+13:45")] {
        let said = of(zone, &["report"]);
        let shown = said["snapshots"][0]["local_time"].as_str().expect("a time");
        assert!(shown.ends_with(ending), "{said}");
    }
}

/// The time zone in which it is midnight at `moment`, which is given in UTC: as POSIX writes it,
/// with its hours the other way round.
fn zone_whose_day_begins(moment: &str) -> String {
    let (hours, rest) = moment[11..19].split_once(':').expect("a time of day");
    let number = |text: &str| text.parse::<u32>().expect("a number");
    let (minutes, seconds) = rest.split_once(':').expect("a time of day");
    let west_s = number(hours) * 3600 + number(minutes) * 60 + number(seconds);
    let (sign, s) = if west_s <= 43_200 {
        ('+', west_s)
    } else {
        ('-', 86_400 - west_s)
    };
    format!("<here>{sign}{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

#[test]
fn a_file_that_is_there_stays_unless_it_may_be_replaced() {
    let sandbox = small();
    for (command, file, beginning) in [
        (&["report", "--html"][..], "page.html", "<!DOCTYPE html>"),
        (&["tree", "--svg"], "tree.svg", "<?xml"),
    ] {
        fs::write(sandbox.path(file), "mine").expect("room");
        let command = [command, &[file]].concat();
        let refused = sandbox.run(&command);
        refused.expect_error(1, file);
        assert!(refused.stderr.contains("--force"), "{refused:?}");
        assert_eq!(
            fs::read_to_string(sandbox.path(file)).expect("it is there"),
            "mine"
        );
        sandbox.succeed([&command[..], &["--force"]].concat());
        let page = fs::read_to_string(sandbox.path(file)).expect("it is there");
        assert!(
            page.starts_with(beginning) && page.contains("web@a"),
            "{page}"
        );
        let missing = format!("missing/{file}");
        sandbox
            .run([&command[..2], &[&missing]].concat())
            .expect_error(1, &missing);
        sandbox
            .run([&command[..2], &["store", "--force"]].concat())
            .expect_error(1, "store");
    }
    assert_eq!(leftovers(&sandbox), [""; 0]);
}

#[test]
fn prometheus_text_is_replaced_whole_and_the_same_as_on_standard_output() {
    let sandbox = small();
    let steady = |text: &str| {
        text.lines()
            .filter(|line| !line.contains("timestamp"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let printed = sandbox.succeed(["report", "--prometheus"]);
    fs::write(sandbox.path("vellum.prom"), "old").expect("room");
    sandbox.succeed(["report", "--prometheus=vellum.prom", "-q"]);
    let written = fs::read_to_string(sandbox.path("vellum.prom")).expect("it is there");
    assert_eq!(steady(&printed), steady(&written));
    assert!(
        printed.contains("\nvellum_image_snapshots{image=\"web\"} 2\n"),
        "{printed}"
    );
    assert_eq!(leftovers(&sandbox), [""; 0]);
}

#[test]
fn a_server_writes_the_page_where_its_client_is() {
    let sandbox = small();
    fs::create_dir(sandbox.path("below")).expect("room");
    let server = Served::start(&sandbox);
    let mut command = sandbox.command(["report", "--html", "page.html"]);
    let run = Run::of(
        command
            .current_dir(sandbox.path("below"))
            .env("VELLUM_STORE", "../store")
            .output()
            .expect("it starts"),
    );
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        fs::read_to_string(sandbox.path("below/page.html"))
            .expect("it is there")
            .ends_with("</html>\n")
    );
    server.stop();
}

/// The page as XML, which our HTML is.
fn page_xml(sandbox: &Sandbox, args: &[&str]) -> String {
    let page = sandbox.succeed([&["report", "--html", "-"], args].concat());
    let xml = page.strip_prefix("<!DOCTYPE html>\n").expect("HTML");
    xml.to_owned()
}

/// The first element called `tag` whose attribute `key` is `value`.
fn element<'a>(
    document: &'a roxmltree::Document,
    tag: &str,
    (key, value): (&str, &str),
) -> roxmltree::Node<'a, 'a> {
    document
        .descendants()
        .find(|node| node.has_tag_name(tag) && node.attribute(key) == Some(value))
        .unwrap_or_else(|| panic!("no {tag} with {key}={value}"))
}

#[test]
fn the_page_begins_with_figures_tree_and_advice_and_folds_the_rest() {
    let sandbox = small();
    let xml = page_xml(&sandbox, &[]);
    let document = roxmltree::Document::parse(&xml).expect("XML");
    let is_part =
        |node: &roxmltree::Node| ["section", "svg", "details"].contains(&node.tag_name().name());
    let order: Vec<&str> = document
        .descendants()
        .filter(is_part)
        .map(|node| node.attribute("id").unwrap_or(node.tag_name().name()))
        .collect();
    assert_eq!(
        order[..5],
        ["figures", "tree", "svg", "next", "details"],
        "{order:?}"
    );
    let parts = document
        .descendants()
        .filter(|node| node.has_tag_name("details"));
    let parts: Vec<&str> = parts
        .map(|part| {
            assert_eq!(part.attribute("open"), None, "folded until it is asked for");
            let content = part.children().find(|node| node.has_tag_name("div"));
            content
                .and_then(|content| content.attribute("id"))
                .expect("an id")
        })
        .collect();
    assert_eq!(
        parts,
        [
            "totals",
            "nodes",
            "attribution",
            "overlap",
            "histograms",
            "shared",
            "growth",
            "changes",
            "droppable"
        ]
    );
    // Scripts add what needs them, so that nothing is there in vain without.
    for tag in ["input", "button", "form", "noscript", "link", "img"] {
        let found = document.descendants().find(|node| node.has_tag_name(tag));
        assert!(found.is_none(), "a {tag}");
    }
}

#[test]
fn every_figure_of_the_page_is_the_one_that_json_has() {
    let sandbox = days();
    let json = json(&sandbox, &["report"]);
    let xml = page_xml(&sandbox, &[]);
    let document = roxmltree::Document::parse(&xml).expect("XML");
    let figures = element(&document, "section", ("id", "figures"));
    let shown: Vec<f64> = figures
        .descendants()
        .filter_map(|node| node.attribute("value")?.parse().ok())
        .collect();
    let totals = [
        "disk_bytes",
        "nonzero_bytes",
        "dedup_ratio",
        "compression_ratio",
        "dead_bytes",
    ];
    let wanted = totals.map(|key| json["totals"][key].as_f64().expect("a number"));
    assert_eq!(shown, wanted);
    check_node_cells(&document, &json);
    let advice = element(&document, "li", ("data-key", "snapshots"));
    let shown_bytes = advice
        .descendants()
        .filter_map(|node| node.attribute("value")?.parse::<u64>().ok());
    let nodes = json["nodes"].as_array().expect("a list");
    let mut alone: Vec<u64> = nodes
        .iter()
        .filter(|node| node["kind"] == "snapshot")
        .map(|node| number(&node["exclusive_bytes"]))
        .filter(|bytes| *bytes > number(&json["totals"]["disk_bytes"]) / 100)
        .collect();
    alone.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
    let sum: u64 = alone.iter().sum();
    assert_eq!(
        shown_bytes.collect::<Vec<_>>(),
        [&[sum][..], &alone].concat(),
        "{json}"
    );
}

/// Every exact figure of the table of nodes is that of the document.
fn check_node_cells(document: &roxmltree::Document, json: &Value) {
    let table = element(document, "div", ("id", "nodes"));
    let keys: Vec<&str> = table
        .descendants()
        .filter_map(|node| node.attribute("data-key"))
        .collect();
    let rows = table.descendants().filter(|node| {
        node.has_tag_name("tr") && node.children().any(|cell| cell.has_tag_name("td"))
    });
    let mut seen = 0;
    for row in rows {
        let cells: Vec<_> = row
            .children()
            .filter(|node| node.has_tag_name("td"))
            .collect();
        let name = cells[0].descendants().find_map(|node| node.text());
        let nodes = json["nodes"].as_array().expect("a list");
        let Some(node) = nodes.iter().find(|node| node["name"].as_str() == name) else {
            continue;
        };
        for (key, cell) in keys.iter().zip(&cells) {
            let exact = cell.attribute("data-sort").map(str::to_owned);
            let wanted = node[*key].as_u64().map(|figure| figure.to_string());
            assert_eq!(exact, wanted, "{key} of {name:?}");
        }
        seen += 1;
    }
    let all = json["nodes"].as_array().map(Vec::len);
    assert_eq!(Some(seen), all, "every image and snapshot has a row");
}

/// Names that a store takes and that HTML, a shell or a reader might stumble over.
#[test]
fn names_with_markup_are_text_on_the_page() {
    let sandbox = Sandbox::new();
    sandbox.random_file("disk.raw", 1 << 20, 1);
    let name = "<script>alert(1)<!--script> & 'x' \"y\"";
    sandbox.succeed([
        "import",
        "disk.raw",
        name,
        "--snapshot",
        "<b>one<!--b>",
        "-q",
    ]);
    sandbox.random_file("disk.raw", 1 << 20, 2);
    sandbox.succeed(["import", "disk.raw", name, "--update", "-q"]);
    let xml = page_xml(&sandbox, &[]);
    let document = roxmltree::Document::parse(&xml).expect("nothing breaks out");
    let scripts = document
        .descendants()
        .filter(|node| node.has_tag_name("script"));
    assert_eq!(scripts.count(), 1, "only ours");
    let snapshot = format!("{name}@<b>one<!--b>");
    let advice = element(&document, "li", ("data-key", "snapshots"));
    let texts: Vec<&str> = advice
        .descendants()
        .filter_map(|node| node.text())
        .collect();
    assert!(texts.contains(&&*snapshot), "{texts:?}");
    let quoted = format!("vellum rm -n '{}'", snapshot.replace('\'', r"'\''"));
    assert!(texts.contains(&&*quoted), "{texts:?}");
}

#[test]
fn pinned_snapshots_are_not_proposed() {
    let sandbox = days();
    let proposed = |sandbox: &Sandbox| {
        let xml = page_xml(sandbox, &[]);
        let document = roxmltree::Document::parse(&xml).expect("XML");
        let advice = document
            .descendants()
            .find(|node| node.attribute("data-key") == Some("snapshots"));
        advice.is_some()
    };
    assert!(proposed(&sandbox));
    sandbox.succeed(["pin", "web@b"]);
    sandbox.succeed(["pin", "web@c"]);
    assert!(!proposed(&sandbox));
}

#[test]
fn pictures_are_files_of_their_own() {
    let sandbox = small();
    fs::create_dir(sandbox.path("docs")).expect("room");
    sandbox.succeed(["report", "--pictures", "docs", "-q"]);
    let tree = fs::read_to_string(sandbox.path("docs/tree.svg")).expect("it is there");
    assert!(
        tree.starts_with("<?xml")
            && tree.contains("prefers-color-scheme: dark")
            && tree.contains("web@a"),
        "{tree}"
    );
    sandbox
        .run(["report", "--pictures", "docs"])
        .expect_error(1, ".svg");
    sandbox.succeed(["report", "--pictures", "docs", "--force"]);
}
