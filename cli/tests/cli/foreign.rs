//! Files that nobody here made: every file of the folder that `VELLUM_FOREIGN` names (and of those
//! in it) is probed, and read whole by the command, which neither breaks off nor hangs; where
//! qemu-img reads it as well, both find the same bytes. Refusals are told, in a table with all
//! else. `make test-foreign FOREIGN=DIR` runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sandbox::{Run, Sandbox, client};

/// The longest that any program may take for one file, in seconds.
const PATIENCE_S: &str = "300";
/// Exit codes of a command that came to an end of its own: done, failed, usage, losses.
const ORDERLY: [i32; 4] = [0, 1, 2, 3];

/// Compressed files, and the programs that unpack them.
const PACKERS: [(&str, &str); 4] = [
    ("gz", "gzip"),
    ("bz2", "bzip2"),
    ("xz", "xz"),
    ("zst", "zstd"),
];

/// What was found out of one file.
struct Verdict {
    file: String,
    format: String,
    told: String,
    is_wrong: bool,
}

/// Copies the files of `folder`, unpacked and with holes, to `target`: those beside each other stay
/// so.
fn unpack(folder: &Path, target: &Path, files: &mut Vec<PathBuf>) {
    fs::create_dir_all(target).expect("room");
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().expect("an entry has a name");
        if path.is_dir() {
            unpack(&path, &target.join(name), files);
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        let packer = PACKERS.iter().find(|(packed, _)| Some(*packed) == ending);
        let file = match packer {
            Some(_) => target.join(path.file_stem().expect("a name with an ending")),
            None => target.join(name),
        };
        let mut reader = Command::new(packer.map_or("cat", |(_, program)| program));
        if packer.is_some() {
            reader.arg("-dc");
        }
        let mut reader = reader
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let unpacked = reader.stdout.take().expect("it was asked for");
        let mut writer = Command::new("dd");
        let of = format!("of={}", file.display());
        writer.args([
            "conv=sparse",
            "bs=64k",
            "iflag=fullblock",
            "status=none",
            &of,
        ]);
        let written = writer.stdin(unpacked).status().expect("it starts");
        assert!(written.success(), "{}", path.display());
        assert!(
            reader.wait().expect("it ends").success(),
            "{}",
            path.display()
        );
        files.push(file);
    }
}

/// Runs the command with a bound on its time.
fn vellum(sandbox: &Sandbox, words: &[&str]) -> Result<Run, String> {
    let words = [&[PATIENCE_S, crate::sandbox::VELLUM], words].concat();
    let run = client(sandbox, "timeout", &words);
    match run.code {
        Some(code) if ORDERLY.contains(&code) => Ok(run),
        Some(124) => Err("HANGS".to_owned()),
        code => Err(format!("BREAKS OFF with {code:?}: {}", run.stderr.trim())),
    }
}

/// The error in a program's words, without its name and the file's.
fn first_line(text: &str, file: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let line = lines.clone().find(|line| line.starts_with("error: "));
    let line = line.or_else(|| lines.next()).unwrap_or_default();
    let line = line
        .trim_start_matches("error: ")
        .trim_start_matches("qemu-img: ");
    line.trim_start_matches(file)
        .trim_start_matches(": ")
        .to_owned()
}

/// Reads the disk at `file` whole, and holds it against what qemu-img finds.
fn read_whole(
    sandbox: &Sandbox,
    file: &str,
    format: &str,
    disk: Option<&str>,
) -> Result<String, String> {
    for name in ["ours.raw", "theirs.raw"] {
        let _ = fs::remove_file(sandbox.path(name));
    }
    let mut words = vec!["convert", file, "ours.raw", "-O", "raw"];
    words.extend(disk.into_iter().flat_map(|disk| ["--disk", disk]));
    let ours = vellum(sandbox, &words)?;
    let theirs = if format == "raw" || disk.is_some() {
        Err("not asked".to_owned())
    } else {
        let name = if format == "vhd" { "vpc" } else { format };
        let words = [PATIENCE_S, "qemu-img", "convert", "-f", name, "-O", "raw"];
        let run = client(
            sandbox,
            "timeout",
            &[&words[..], &[file, "theirs.raw"]].concat(),
        );
        if run.code == Some(0) {
            Ok(())
        } else {
            Err(first_line(&run.stderr, file))
        }
    };
    Ok(match (ours.code, theirs) {
        (Some(0), Ok(())) => {
            let lens = ["ours.raw", "theirs.raw"]
                .map(|name| fs::metadata(sandbox.path(name)).expect("written").len());
            if lens[0] != lens[1] {
                return Err(format!("WRONG: {} bytes, not {}", lens[0], lens[1]));
            }
            let words = [
                "compare",
                "-f",
                "raw",
                "-F",
                "raw",
                "ours.raw",
                "theirs.raw",
            ];
            let same = client(sandbox, "qemu-img", &words);
            if same.code != Some(0) {
                return Err(format!("WRONG: {}", same.stdout.trim()));
            }
            "the same as qemu-img".to_owned()
        }
        (Some(0), Err(theirs)) => format!("read; qemu-img: {theirs}"),
        (_, Ok(())) => format!(
            "refused ({}), which qemu-img reads",
            first_line(&ours.stderr, file)
        ),
        (_, Err(_)) => format!("refused by both: {}", first_line(&ours.stderr, file)),
    })
}

fn judge(sandbox: &Sandbox, path: &Path) -> Verdict {
    let inside = path
        .strip_prefix(sandbox.path(""))
        .expect("it was put there");
    let file = inside.to_str().expect("names of such files are text");
    let mut verdict = Verdict {
        file: file.trim_start_matches("files/").to_owned(),
        format: "?".to_owned(),
        told: String::new(),
        is_wrong: false,
    };
    let told = judge_as(sandbox, file, &mut verdict.format);
    verdict.is_wrong = told.is_err();
    verdict.told = told.unwrap_or_else(|fault| fault);
    verdict
}

fn judge_as(sandbox: &Sandbox, file: &str, format: &mut String) -> Result<String, String> {
    let probed = vellum(sandbox, &["probe", file, "--json"])?;
    let seen: serde_json::Value =
        serde_json::from_str(&probed.stdout).map_err(|error| format!("{error}: {probed:?}"))?;
    let Some(name) = seen["format"].as_str().map(str::to_owned) else {
        return Ok(format!("no format fits: {}", seen["signatures"]));
    };
    format.clone_from(&name);
    let info = vellum(sandbox, &["info", file, "-f", &name, "--json"])?;
    let facts: serde_json::Value = serde_json::from_str(&info.stdout).unwrap_or_default();
    if let Some(variant) = facts["variant"].as_str() {
        *format = format!("{name} {variant}");
    }
    vellum(sandbox, &["map", file, "-f", &name, "--quiet"])?;
    let disks: Vec<_> = facts["disks"].as_array().cloned().unwrap_or_default();
    if disks.is_empty() {
        return read_whole(sandbox, file, &name, None);
    }
    let mut told = Vec::new();
    for disk in disks.iter().filter_map(|disk| disk["name"].as_str()) {
        let found = read_whole(sandbox, file, &name, Some(disk))?;
        told.push(format!("{disk}: {found}"));
    }
    Ok(told.join("; "))
}

#[test]
fn foreign_files_are_read_right_or_refused() {
    let Some(folder) = std::env::var_os("VELLUM_FOREIGN") else {
        println!("foreign files: none tried; VELLUM_FOREIGN names a folder of them");
        return;
    };
    let sandbox = Sandbox::empty();
    let mut files = Vec::new();
    unpack(Path::new(&folder), &sandbox.path("files"), &mut files);
    let mut wrong = Vec::new();
    println!("{:34} {:28} result", "file", "format");
    for file in &files {
        let verdict = judge(&sandbox, file);
        println!("{:34} {:28} {}", verdict.file, verdict.format, verdict.told);
        if verdict.is_wrong {
            wrong.push(format!("{}: {}", verdict.file, verdict.told));
        }
    }
    println!("{} files tried, {} wrong", files.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}
