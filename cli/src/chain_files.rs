//! Names of files for images and snapshots, and the formats in which files stand on each other.

use std::collections::BTreeSet;

use vellum_core::name_maker::NameMaker;
use vellum_formats::write::{Allocation, TargetFormat};

use crate::failure::CommandFailure;

/// `format`, if a file of it can stand on another.
pub(crate) fn require_chainable(format: TargetFormat) -> Result<TargetFormat, CommandFailure> {
    match format {
        TargetFormat::Qcow2(_)
        | TargetFormat::Vdi(Allocation::Dynamic)
        | TargetFormat::Vhd(Allocation::Dynamic)
        | TargetFormat::Vhdx => Ok(format),
        other => Err(CommandFailure::usage_error(
            format!("no such {} file stands on another", other.image_format()),
            "-O qcow2, vdi, vhd or vhdx makes files that do, in their growing variants",
        )),
    }
}

/// Makes names of files of one folder, each once whatever the case of its letters.
#[derive(Default)]
pub(crate) struct FileNames {
    stems: NameMaker,
    taken: BTreeSet<String>,
}

impl FileNames {
    /// The name that comes closest to `text` and ends in `ending`.
    pub(crate) fn unique_name(&mut self, text: &str, ending: &str) -> String {
        // A colon would make a protocol of it, a quote would end it.
        let plain: String = text
            .chars()
            .map(|letter| {
                if matches!(letter, ':' | '"') {
                    '-'
                } else {
                    letter
                }
            })
            .collect();
        loop {
            let stem = self.stems.unique_name(&plain);
            if self.taken.insert(stem.as_str().to_lowercase()) {
                return format!("{stem}.{ending}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_file_means_something_else_to_its_reader() {
        let mut names = FileNames::default();
        let told: Vec<String> = ["json:{\"a\"}", "Web", "web", "a/b"]
            .iter()
            .map(|text| names.unique_name(text, "qcow2"))
            .collect();
        assert_eq!(
            told,
            ["json-{-a-}.qcow2", "Web.qcow2", "web-2.qcow2", "a-b.qcow2"]
        );
    }
}
