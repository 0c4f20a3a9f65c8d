//! qemu-img, the second opinion. Tests that need it fail without it: they would prove nothing.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs qemu-img with `words`; its output, or what went wrong.
pub(crate) fn run(words: &[&str]) -> Result<String, String> {
    let mut command = Command::new("qemu-img");
    let output = command
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("qemu-img is needed here, as the oracle: install qemu-utils");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!(
            "{words:?}: {} {}",
            text(&output.stdout),
            text(&output.stderr)
        ))
    }
}

/// A path as qemu-img takes it.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().expect("a path of these tests is text")
}

/// A format's name as qemu-img has it.
pub(crate) fn name(format: vellum_formats::Format) -> &'static str {
    if format == vellum_formats::Format::Vhd {
        "vpc"
    } else {
        format.format_name()
    }
}

/// Requires that both files hold the same disk.
pub(crate) fn compare(left: (&Path, &str), right: (&Path, &str)) -> Result<(), String> {
    let words = [
        "compare",
        "-f",
        left.1,
        "-F",
        right.1,
        word(left.0),
        word(right.0),
    ];
    let told = run(&words)?;
    if told.contains("Images are identical") {
        Ok(())
    } else {
        Err(told)
    }
}

/// Requires that qemu-img finds neither errors nor leaks. Of formats that it cannot check nothing
/// is asked.
pub(crate) fn check(path: &Path, format: &str) -> Result<(), String> {
    match run(&["check", "-f", format, word(path)]) {
        Ok(told) if told.contains("No errors were found") => Ok(()),
        Ok(told) => Err(told),
        Err(told) if told.contains("does not support checks") => Ok(()),
        Err(told) => Err(told),
    }
}

/// Requires that both files hold the same disk in some pieces of 1 MiB, and are of one length: for
/// disks of which qemu-img would look at every block.
pub(crate) fn compare_pieces(
    left: (&Path, &str),
    right: (&Path, &str),
    pieces: &[u64],
) -> Result<(), String> {
    let len = |(path, format): (&Path, &str)| {
        let info = run(&["info", "--output=json", "-f", format, word(path)])?;
        let line = info
            .lines()
            .find(|line| line.starts_with("    \"virtual-size\""));
        line.map(str::to_owned).ok_or(info)
    };
    if len(left)? != len(right)? {
        return Err("their lengths differ".to_owned());
    }
    let target = right.0.with_extension("piece");
    for piece in pieces {
        let mut halves = Vec::new();
        for (path, format) in [left, right] {
            let from = format!("if={}", word(path));
            let (to, skip) = (format!("of={}", word(&target)), format!("skip={piece}"));
            let words = [
                "dd", "-f", format, "-O", "raw", "bs=1M", "count=1", &skip, &from, &to,
            ];
            run(&words)?;
            halves.push(std::fs::read(&target).expect("it wrote a file"));
        }
        if halves.first() != halves.last() {
            return Err(format!("they differ in MiB {piece}"));
        }
    }
    Ok(())
}
