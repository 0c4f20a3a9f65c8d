//! Repositories as people meet them: in folders and in a bucket of a real S3 server, with what goes
//! wrong there.

mod copies;
mod crowd;
mod faults;
mod from;
mod hostile;
mod keys;
mod lost;
mod policies;
mod round_trip;
mod stranger;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bucket::Bucket;
use crate::sandbox::{Run, Sandbox};

const PASSWORD: &str = "correct horse";
const DISK_LEN: usize = 3 << 20;

/// A machine with a store, who knows where the repository is and what opens it.
pub(super) struct Site {
    pub(super) sandbox: Sandbox,
    environment: Vec<(String, String)>,
}

impl Site {
    /// A site with an empty store, and the repository in `place`.
    pub(super) fn new(place: &str) -> Self {
        let environment = vec![
            ("VELLUM_REPOSITORY".to_owned(), place.to_owned()),
            ("VELLUM_PASSWORD".to_owned(), PASSWORD.to_owned()),
        ];
        Self {
            sandbox: Sandbox::new(),
            environment,
        }
    }

    /// The same, for a repository that everybody can read.
    pub(super) fn without_key(place: &str) -> Self {
        let mut site = Self::new(place);
        site.environment
            .retain(|(name, _)| name != "VELLUM_PASSWORD");
        site
    }

    /// The same, with the repository in `bucket`.
    pub(super) fn at(bucket: &Bucket, place: &str) -> Self {
        let mut site = Self::new(place);
        site.environment.extend(bucket.environment.iter().cloned());
        site
    }

    pub(super) fn command(&self, words: &str) -> Command {
        let mut command = self.sandbox.command(words.split_whitespace());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(super) fn run(&self, words: &str) -> Run {
        Run::of(self.command(words).output().expect("the command starts"))
    }

    pub(super) fn succeed(&self, words: &str) -> String {
        let run = self.run(words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run.stdout
    }

    pub(super) fn json(&self, words: &str) -> serde_json::Value {
        let shown = self.succeed(&format!("{words} --json"));
        serde_json::from_str(shown.lines().last().unwrap_or_default())
            .unwrap_or_else(|error| panic!("{words}: {error}: {shown}"))
    }

    /// The JSON answer of a command that ends with `code`.
    pub(super) fn json_of(&self, words: &str, code: i32) -> serde_json::Value {
        let run = self.run(&format!("{words} --json"));
        assert_eq!(run.code, Some(code), "{words}: {run:?}");
        serde_json::from_str(run.stdout.lines().last().unwrap_or_default()).expect("JSON")
    }

    /// A machine of two disks with snapshots, an image with a child on a snapshot of it, tags, pins
    /// and modes.
    pub(super) fn grow_tree(&self, seed: u64) {
        let sandbox = &self.sandbox;
        for (name, seed) in [("root", seed), ("web", seed + 1)] {
            sandbox.random_file(format!("{name}.raw"), DISK_LEN, seed);
            sandbox.succeed([
                "import",
                &format!("{name}.raw"),
                name,
                "--snapshot",
                "first",
            ]);
        }
        sandbox.random_file("data.raw", DISK_LEN, seed + 2);
        sandbox.succeed(["import", "data.raw", "data"]);
        sandbox.succeed(["modify", "data", "--type", "writethrough"]);
        sandbox.random_file("other.raw", DISK_LEN / 2, seed + 9);
        let mut changed = std::fs::read(sandbox.path("web.raw")).expect("it was made");
        changed[1 << 20..(1 << 20) + 9000].fill(7);
        std::fs::write(sandbox.path("web.raw"), changed).expect("room");
        sandbox.succeed([
            "import",
            "web.raw",
            "web",
            "--update",
            "--snapshot",
            "second",
        ]);
        sandbox.succeed(["create", "child", "-b", "web@first"]);
        sandbox.succeed([
            "import",
            "other.raw",
            "child",
            "--update",
            "--snapshot",
            "own",
        ]);
        sandbox.succeed(["tag", "web@first", "+golden"]);
        sandbox.succeed(["describe", "web@first", "as it was delivered"]);
        sandbox.succeed(["set", "web", "owner=anna"]);
        sandbox.succeed(["pin", "web@first"]);
        sandbox.succeed(["machine", "create", "vm"]);
        sandbox.succeed(["machine", "add-disk", "vm", "root", "data"]);
        std::fs::write(sandbox.path("vm.xml"), "<domain/>").expect("room");
        sandbox.succeed(["machine", "config", "vm", "vm.xml"]);
        sandbox.succeed(["machine", "snapshot", "take", "vm@monday"]);
    }

    /// Every image and snapshot with the hash of its bytes, and the tree without its times.
    pub(super) fn contents(&self) -> Vec<(String, u64)> {
        let mut names = self.sandbox.names();
        names.sort();
        names
            .into_iter()
            .map(|name| {
                (
                    name.clone(),
                    hash(
                        &self.sandbox.run(["export", &name, "out.raw", "--force"]),
                        &self.sandbox.path("out.raw"),
                    ),
                )
            })
            .collect()
    }

    /// The tree and the machines, without times.
    pub(super) fn shape(&self) -> Vec<String> {
        let listings = [
            "tree --json",
            "machine list --json",
            "machine show vm --json",
            "machine show vm@monday --json",
        ];
        listings
            .into_iter()
            .map(|words| without_times(self.run(words).stdout))
            .collect()
    }
}

fn without_times(text: String) -> String {
    let Ok(mut value) = serde_json::from_str::<serde_json::Value>(&text) else {
        return text;
    };
    let entries: Vec<&mut serde_json::Value> = match &mut value {
        serde_json::Value::Array(entries) => entries.iter_mut().collect(),
        one => vec![one],
    };
    for entry in entries {
        if let Some(fields) = entry.as_object_mut() {
            fields.remove("created");
            // As it happens to be compressed, beside what came before.
            fields.remove("added_bytes");
        }
    }
    // The order of trees follows numbers that each store gives anew.
    if let serde_json::Value::Array(entries) = &mut value {
        entries.sort_by_key(ToString::to_string);
    }
    value.to_string()
}

fn hash(run: &Run, path: &Path) -> u64 {
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hasher::write(&mut hasher, &std::fs::read(path).expect("it was written"));
    std::hash::Hasher::finish(&hasher)
}

/// All files below `folder`, but the room that a repository keeps back.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if !path.ends_with(".reserve") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
