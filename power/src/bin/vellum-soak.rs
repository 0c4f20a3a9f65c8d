//! `vellum-soak`: histories of everything at once, until the time is over.
//!
//! Usage: `vellum-soak VELLUM [--minutes N] [--seed N] [--histories N] [--cuts N] [--on ext4,xfs]
//! [--script] [--no-trouble]`. `--seed` with `--histories 1` repeats one history's decisions. The
//! exit code is 0 if nothing was found, 1 if something was, 2 if it could not run.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use vellum_power::file_system::FileSystem;
use vellum_power::soak::{SoakOptions, SoakTally, contained, impossible, soak};

/// Set in the process that does the work.
const INSIDE: &str = "VELLUM_SOAK_INSIDE";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vellum-soak: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the soak test; true if nothing was found.
fn run() -> Result<bool, String> {
    let options = options(std::env::args().skip(1))?;
    if let Some(why) = impossible() {
        return Err(why);
    }
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let ended = contained(&program)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .status()
            .map_err(|error| format!("unshare: {error}"))?;
        return match ended.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(format!("it ended with {ended}")),
        };
    }
    println!("seed {}", options.seed);
    let begun = Instant::now();
    let mut told = 0;
    let tally = soak(&options, |tally| tell(tally, begun, &mut told))?;
    println!("{tally}");
    println!("operations: {:?}", tally.operations);
    println!("{} s", begun.elapsed().as_secs());
    Ok(tally.violations.is_empty())
}

/// One line for each history, and each violation as soon as it is found.
fn tell(tally: &SoakTally, begun: Instant, told: &mut usize) {
    println!(
        "{:>5} s: {} histories, {} cuts, {} kills, {} violations",
        begun.elapsed().as_secs(),
        tally.histories,
        tally.all_cuts(),
        tally.kills(),
        tally.violations.len()
    );
    for violation in &tally.violations[*told..] {
        println!("VIOLATION: {violation}");
    }
    *told = tally.violations.len();
}

fn options(mut words: impl Iterator<Item = String>) -> Result<SoakOptions, String> {
    let vellum = words.next().ok_or("name the vellum command first")?;
    let mut options = SoakOptions {
        vellum: std::path::absolute(vellum).map_err(|error| error.to_string())?,
        seed: fastrand::u64(1..1 << 32),
        file_systems: FileSystem::ALL.to_vec(),
        limit: Duration::from_mins(5),
        histories: u64::MAX,
        cuts: 6,
        script: false,
        trouble: true,
        goes_on: true,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("{text} is no number"))
        };
        match word.as_str() {
            "--minutes" => options.limit = Duration::from_secs(60 * number(value()?)?),
            "--seed" => options.seed = number(value()?)?,
            "--histories" => options.histories = number(value()?)?,
            "--cuts" => options.cuts = number(value()?)?,
            "--script" => options.script = true,
            "--no-trouble" => options.trouble = false,
            "--on" => {
                let kind = |name: &str| {
                    FileSystem::of_name(name).ok_or_else(|| format!("{name} is not known"))
                };
                options.file_systems = value()?.split(',').map(kind).collect::<Result<_, _>>()?;
            }
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(options)
}
