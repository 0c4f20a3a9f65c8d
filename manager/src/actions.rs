//! Actions: what they ask for, and the command line that each one is. Pure: a
//! command line goes to the store's operations, which alone decide whether it can be done.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::action_table::{ACTIONS, KEEP_FIELDS};
use crate::operations::{CommandSink, NodeFacts, Operations};

/// Images and snapshots that are deleted at once: about what a person picks.
const NODES_MAX: usize = 1000;
/// The longest text of a field.
const FIELD_LEN_MAX: usize = 4096;

/// The object of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActionSubject {
    Image,
    Snapshot,
    /// An image or a snapshot.
    Node,
    /// Several of them.
    Nodes,
    Store,
    Machine,
    MachineSnapshot,
    /// The repository that the store is pushed to.
    Repository,
}

/// The kind of a field of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Text,
    /// One of these: the value and the words for it.
    Choice(&'static [(&'static str, &'static str)]),
    Check,
    /// A file on the server's machine, or an upload.
    Source,
    /// A file that is made on the server's machine.
    Target,
}

/// A field of a form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActionField {
    pub(crate) key: &'static str,
    pub(crate) label: &'static str,
    pub(crate) kind: FieldKind,
    pub(crate) hint: &'static str,
    pub(crate) is_required: bool,
}

/// An action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActionSpec {
    pub(crate) key: &'static str,
    /// The words on its button.
    pub(crate) title: &'static str,
    pub(crate) subject: ActionSubject,
    /// The effect, in a sentence or two.
    pub(crate) meaning: &'static str,
    pub(crate) fields: &'static [ActionField],
    /// The key that begins it, in the tree.
    pub(crate) letter: Option<char>,
    /// True if it loses something.
    pub(crate) is_destructive: bool,
}

/// The command line of an action, and what is told of it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedAction {
    pub(crate) words: Vec<String>,
    /// The command line that tells the effects without having any.
    pub(crate) preview: Option<Vec<String>>,
    /// The effects that the command line does not tell itself.
    pub(crate) sentences: Vec<String>,
    /// The whole name of what is looked at next.
    pub(crate) next: Option<String>,
}

/// The answer of a command that tells the effects without having any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlanPreview {
    pub(crate) is_fine: bool,
    pub(crate) output: String,
    pub(crate) messages: String,
}

impl PlanPreview {
    /// Asks the command itself.
    pub(crate) fn run_preview(operations: &dyn Operations, words: &[String]) -> Self {
        let end = operations.run_command(words, CommandSink::Kept, &Arc::default());
        Self {
            is_fine: end.code == 0,
            output: end.output,
            messages: end.messages,
        }
    }
}

/// A fault of what was filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InputFault {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} cannot begin with '-'")]
    Dash(&'static str),
    #[error("{0} is too long")]
    TooLong(&'static str),
    #[error("{0} is none of the choices")]
    Choice(&'static str),
    #[error("{0} at once are too many")]
    TooMany(usize),
    #[error("name an image or snapshot that this can be done to")]
    ActionSubject,
    #[error("there is no such action")]
    Unknown,
}

/// The contents of a form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActionInput {
    /// The images and snapshots that it is done to.
    pub(crate) nodes: Vec<String>,
    pub(crate) fields: BTreeMap<String, String>,
}

/// The action of this key.
pub(crate) fn find_action(key: &str) -> Result<&'static ActionSpec, InputFault> {
    let found = ACTIONS.iter().find(|action| action.key == key);
    found.ok_or(InputFault::Unknown)
}

impl ActionSpec {
    /// True if it is done to the store as a whole.
    pub(crate) fn fits_store(&self) -> bool {
        matches!(
            self.subject,
            ActionSubject::Store | ActionSubject::Repository
        )
    }

    /// True if it is done to a machine, whose names are not those of images.
    pub(crate) fn fits_machine(&self) -> bool {
        matches!(
            self.subject,
            ActionSubject::Machine | ActionSubject::MachineSnapshot
        )
    }

    /// True if its answer is read, and not only seen.
    pub(crate) fn has_long_answer(&self) -> bool {
        matches!(
            self.key,
            "check" | "droppable" | "keep" | "push" | "pull" | "verify" | "forget"
        )
    }

    /// True if it can be done to an image, or to a snapshot.
    pub(crate) fn fits_node(&self, is_snapshot: bool) -> bool {
        match self.subject {
            ActionSubject::Image | ActionSubject::Machine => !is_snapshot,
            ActionSubject::Snapshot | ActionSubject::MachineSnapshot => is_snapshot,
            ActionSubject::Node | ActionSubject::Nodes => true,
            ActionSubject::Store | ActionSubject::Repository => false,
        }
    }

    /// The command line for `input`.
    pub(crate) fn plan_action(&self, input: &ActionInput) -> Result<PlannedAction, InputFault> {
        self.check_subject(input)?;
        let node = input.nodes.first().map_or("", String::as_str);
        let image = node.split('@').next().unwrap_or_default();
        let mut planned = PlannedAction {
            words: Vec::new(),
            preview: None,
            sentences: Vec::new(),
            next: input.nodes.first().cloned(),
        };
        planned.words = self.command_words(input, node)?;
        planned.preview = self.preview_words(&planned.words);
        if let Some(next) = self.next_node(input, node, image)? {
            planned.next = Some(next).filter(|next| !next.is_empty());
        }
        planned.sentences = self.effect_sentences(input, node, image);
        Ok(planned)
    }

    /// The title of its job.
    pub(crate) fn job_title(&self, input: &ActionInput, next: Option<&str>) -> String {
        match (input.nodes.as_slice(), next) {
            ([], Some(next)) => format!("{}: {next}", self.title),
            ([], None) => self.title.to_owned(),
            ([node], _) => format!("{}: {node}", self.title),
            (nodes, _) => format!("{}: {} of them", self.title, nodes.len()),
        }
    }

    /// True if the action means something for the node of these facts.
    pub(crate) fn suits_node(&self, facts: &NodeFacts) -> bool {
        match self.key {
            "reset" => facts.mode == Some("immutable"),
            "commit" => facts.fields.iter().any(|(name, _)| *name == "commits to"),
            _ => {
                let is_for_nodes = !self.fits_store() && !self.fits_machine();
                is_for_nodes && self.fits_node(facts.is_snapshot)
            }
        }
    }

    fn command_words(&self, input: &ActionInput, node: &str) -> Result<Vec<String>, InputFault> {
        let own = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        let option = |key: &str, option: &'static str| {
            self.is_checked(input, key).then(|| option.to_owned())
        };
        let name = || self.field(input, "name");
        Ok(match self.key {
            "snapshot" => own(&["snapshot", "take", &format!("{node}@{}", name()?)]),
            "child" => {
                let size = self.field(input, "size")?;
                let size = Some(size.as_str()).filter(|size| !size.is_empty());
                let words = ["create", &name()?].map(str::to_owned).into_iter();
                let words = words.chain(size.map(str::to_owned));
                words.chain(own(&["-b", node])).collect()
            }
            "restore" => self.restore_words(input, &["snapshot", "restore", node])?,
            "machine-restore" => {
                self.restore_words(input, &["machine", "snapshot", "restore", node])?
            }
            "machine-snapshot" => {
                let snapshot = format!("{node}@{}", name()?);
                own(&["machine", "snapshot", "take", &snapshot])
            }
            "machine-delete" => own(&["machine", "snapshot", "delete", node]),
            "rename" => own(&["rename", node, &name()?]),
            "tag" => self.tag_words(input, node)?,
            "describe" => self.describe_words(input, node)?,
            "set" => self.property_words(input, node)?,
            "pin" if self.is_checked(input, "off") => own(&["pin", "--off", node]),
            "pin" => own(&["pin", node]),
            "export" => self.file_words(input, &["export", node])?,
            "mode" => self.mode_words(input, node)?,
            "resize" => {
                let words = own(&["resize", node, &self.size_change(input)?]);
                words
                    .into_iter()
                    .chain(option("shrink", "--shrink"))
                    .collect()
            }
            "delete" => {
                let words = own(&["rm"]).into_iter();
                let words = words.chain(option("with_snapshots", "--with-snapshots"));
                words.chain(input.nodes.clone()).collect()
            }
            "create" => own(&["create", &name()?, &self.field(input, "size")?]),
            "import" => self.import_words(input)?,
            "gc" => own(&["gc"]),
            "check" => {
                let words = own(&["check"]).into_iter();
                words.chain(option("read_data", "--read-data")).collect()
            }
            "keep" => self.keep_words(input, &["report"])?,
            "droppable" => own(&["report", "droppable"]),
            "forget" => self.keep_words(input, &["backup", "forget"])?,
            "push" => own(&["backup", "push", "--all"]),
            "pull" => own(&["backup", "pull", &self.field(input, "point")?]),
            "restore-file" => {
                let point = self.field(input, "point")?;
                self.file_words(input, &["backup", "restore", &point])?
            }
            "verify" => {
                let words = own(&["backup", "verify"]).into_iter();
                words.chain(option("read_data", "--read-data")).collect()
            }
            // All that needs nothing but the name of an image.
            verb => own(&[verb, node]),
        })
    }

    /// The command line that tells the effects of `words` without having any, if there is one.
    fn preview_words(&self, words: &[String]) -> Option<Vec<String>> {
        let verb_len = match self.key {
            "delete" | "gc" => 1,
            "forget" => 2,
            _ => return None,
        };
        let mut preview = words.to_vec();
        preview.insert(verb_len, "-n".to_owned());
        Some(preview)
    }

    /// The name of what is looked at next, if it is not what it was done to; empty for nothing.
    fn next_node(
        &self,
        input: &ActionInput,
        node: &str,
        image: &str,
    ) -> Result<Option<String>, InputFault> {
        let name = || self.field(input, "name");
        Ok(match self.key {
            "snapshot" => Some(format!("{node}@{}", name()?)),
            "child" | "create" | "import" => Some(name()?),
            "restore" => Some(image.to_owned()),
            "rename" if node.contains('@') => Some(format!("{image}@{}", name()?)),
            "rename" => Some(name()?),
            "delete" | "machine-snapshot" | "machine-restore" | "machine-delete" => {
                Some(String::new())
            }
            _ => None,
        })
    }

    fn check_subject(&self, input: &ActionInput) -> Result<(), InputFault> {
        let nodes = &input.nodes;
        if nodes.len() > NODES_MAX {
            return Err(InputFault::TooMany(nodes.len()));
        }
        let is_name = |node: &String| {
            !node.is_empty()
                && !node.starts_with('-')
                && node.len() <= FIELD_LEN_MAX
                && !node.contains('\0')
        };
        let fits = match self.subject {
            ActionSubject::Store | ActionSubject::Repository => nodes.is_empty(),
            ActionSubject::Nodes => !nodes.is_empty(),
            _ => nodes.len() == 1 && nodes.iter().all(|node| self.fits_node(node.contains('@'))),
        };
        if fits && nodes.iter().all(is_name) {
            Ok(())
        } else {
            Err(InputFault::ActionSubject)
        }
    }

    fn field_spec(&self, key: &str) -> &'static ActionField {
        let spec = self.fields.iter().find(|field| field.key == key);
        spec.expect("an action asks for its own fields")
    }

    /// The text of a field: empty if it may be and is.
    fn field(&self, input: &ActionInput, key: &str) -> Result<String, InputFault> {
        let spec = self.field_spec(key);
        let text = self.raw_field(input, key)?;
        if text.starts_with('-') {
            return Err(InputFault::Dash(spec.label));
        }
        if let FieldKind::Choice(choices) = spec.kind
            && !choices.iter().any(|(value, _)| *value == text)
        {
            return Err(InputFault::Choice(spec.label));
        }
        Ok(text)
    }

    fn raw_field(&self, input: &ActionInput, key: &str) -> Result<String, InputFault> {
        let spec = self.field_spec(key);
        let text = input.fields.get(key).map_or("", |text| text.trim());
        if text.is_empty() && spec.is_required {
            return Err(InputFault::Missing(spec.label));
        }
        if text.len() > FIELD_LEN_MAX || text.contains('\0') {
            return Err(InputFault::TooLong(spec.label));
        }
        Ok(text.to_owned())
    }

    fn is_checked(&self, input: &ActionInput, key: &str) -> bool {
        let spec = self.field_spec(key);
        input
            .fields
            .get(spec.key)
            .is_some_and(|value| value == "on")
    }

    /// A size with a sign, which looks like an option and is none.
    fn size_change(&self, input: &ActionInput) -> Result<String, InputFault> {
        let text = self.raw_field(input, "size")?;
        let number = text.strip_prefix(['+', '-']).unwrap_or(&text);
        if number.starts_with(|letter: char| letter.is_ascii_digit()) {
            Ok(text)
        } else {
            Err(InputFault::Missing(self.field_spec("size").label))
        }
    }

    fn restore_words(
        &self,
        input: &ActionInput,
        words: &[&str],
    ) -> Result<Vec<String>, InputFault> {
        let option = match self.field(input, "keep")?.as_str() {
            "discard" => Some("--discard".to_owned()),
            "save" => {
                let name = self.field(input, "save")?;
                if name.is_empty() {
                    return Err(InputFault::Missing(self.field_spec("save").label));
                }
                Some(format!("--save-current-as={name}"))
            }
            _ => None,
        };
        let words = words.iter().map(|word| (*word).to_owned());
        Ok(words.chain(option).collect())
    }

    /// A command that writes a disk to a file.
    fn file_words(&self, input: &ActionInput, words: &[&str]) -> Result<Vec<String>, InputFault> {
        let (file, format) = (self.field(input, "file")?, self.field(input, "format")?);
        let words = words.iter().map(|word| (*word).to_owned());
        Ok(words.chain([file, "-O".to_owned(), format]).collect())
    }

    fn describe_words(&self, input: &ActionInput, node: &str) -> Result<Vec<String>, InputFault> {
        let text = self.field(input, "text")?;
        let words = if text.is_empty() {
            vec!["describe", "--clear", node]
        } else {
            vec!["describe", "--", node, text.as_str()]
        };
        Ok(words.into_iter().map(str::to_owned).collect())
    }

    fn property_words(&self, input: &ActionInput, node: &str) -> Result<Vec<String>, InputFault> {
        let (key, value) = (self.field(input, "property")?, self.field(input, "value")?);
        let words = if value.is_empty() {
            ["set".to_owned(), node.to_owned(), format!("--unset={key}")].to_vec()
        } else {
            let change = format!("{key}={value}");
            ["set".to_owned(), "--".to_owned(), node.to_owned(), change].to_vec()
        };
        Ok(words)
    }

    fn tag_words(&self, input: &ActionInput, node: &str) -> Result<Vec<String>, InputFault> {
        let mut words = vec!["tag".to_owned(), node.to_owned()];
        for (key, option) in [("add", "--add"), ("remove", "--remove")] {
            let tags = self.field(input, key)?;
            let tags = tags.split_whitespace();
            words.extend(tags.map(|tag| format!("{option}={tag}")));
        }
        if words.len() == 2 {
            return Err(InputFault::Missing("a tag"));
        }
        Ok(words)
    }

    fn keep_words(&self, input: &ActionInput, verb: &[&str]) -> Result<Vec<String>, InputFault> {
        let mut words: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
        for field in KEEP_FIELDS {
            let count = self.field(input, field.key)?;
            if !count.is_empty() {
                words.push(format!("--keep-{}={count}", field.key));
            }
        }
        if words.len() == verb.len() {
            return Err(InputFault::Missing("a rule"));
        }
        Ok(words)
    }

    fn mode_words(&self, input: &ActionInput, node: &str) -> Result<Vec<String>, InputFault> {
        let mode = format!("--type={}", self.field(input, "mode")?);
        let autoreset = self.field(input, "autoreset")?;
        let autoreset = (!autoreset.is_empty()).then(|| format!("--autoreset={autoreset}"));
        let words = ["modify".to_owned(), node.to_owned(), mode].into_iter();
        Ok(words.chain(autoreset).collect())
    }

    fn import_words(&self, input: &ActionInput) -> Result<Vec<String>, InputFault> {
        let mut words = vec![
            "import".to_owned(),
            self.field(input, "source")?,
            self.field(input, "name")?,
        ];
        let snapshot = self.field(input, "snapshot")?;
        if !snapshot.is_empty() {
            words.push(format!("--snapshot={snapshot}"));
        }
        if self.is_checked(input, "update") {
            words.push("--update".to_owned());
        }
        Ok(words)
    }

    /// The effects that the command itself does not tell before.
    fn effect_sentences(&self, input: &ActionInput, node: &str, image: &str) -> Vec<String> {
        let field = |key: &str| input.fields.get(key).map_or("", |text| text.trim());
        let sentence = match self.key {
            "snapshot" => format!(
                "keeps {node} as it is now under the name {node}@{}",
                field("name")
            ),
            "child" => format!("makes {}, which starts as {node} is", field("name")),
            "machine-snapshot" => {
                format!(
                    "keeps all disks of {node} as they are now as {node}@{}",
                    field("name")
                )
            }
            "machine-delete" => format!("{node} is gone then"),
            "restore" | "machine-restore" => match field("keep") {
                "discard" => format!("makes {image} as {node}; what it is now is gone then"),
                "save" => format!(
                    "makes {image} as {node}; what it is now stays as {image}@{}",
                    field("save")
                ),
                _ => format!("makes {image} as {node}; what it is now stays as a snapshot"),
            },
            "rename" => format!("calls {node} {} from then on", field("name")),
            "flatten" => format!("{node} stands on nothing then; its content stays as it is"),
            "commit" => format!("the image that {node} was made from becomes as {node} is"),
            "reset" => format!("what was written to {node} is gone then"),
            "mode" => format!("{node} is {} from then on", field("mode")),
            "resize" => format!("{node} becomes {} long", field("size")),
            "export" => format!("writes {node} to {} as {}", field("file"), field("format")),
            "create" => format!(
                "makes {}, an empty image of {}",
                field("name"),
                field("size")
            ),
            "import" => format!("stores the disk as {}", field("name")),
            "check" if self.is_checked(input, "read_data") => {
                "reads and verifies all data; changes nothing".to_owned()
            }
            "check" => "reads all records; changes nothing".to_owned(),
            "keep" => "counts; changes nothing".to_owned(),
            "droppable" => "reads the metadata of file systems; changes nothing".to_owned(),
            "push" => "sends to the repository what it has not got".to_owned(),
            "pull" => format!("brings {} into the store", field("point")),
            "restore-file" => {
                let (point, file, format) = (field("point"), field("file"), field("format"));
                format!("writes {point} of the repository to {file} as {format}")
            }
            "verify" => "reads the repository; changes nothing".to_owned(),
            _ => return Vec::new(),
        };
        vec![sentence]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(
        key: &str,
        nodes: &[&str],
        fields: &[(&str, &str)],
    ) -> Result<PlannedAction, InputFault> {
        let own = |text: &&str| (*text).to_owned();
        let input = ActionInput {
            nodes: nodes.iter().map(own).collect(),
            fields: fields
                .iter()
                .map(|(key, value)| (own(key), own(value)))
                .collect(),
        };
        find_action(key).and_then(|action| action.plan_action(&input))
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of all actions")]
    fn every_action_is_a_command_line() {
        type Row = (
            &'static str,
            &'static [&'static str],
            &'static [(&'static str, &'static str)],
            &'static str,
        );
        let rows: &[Row] = &[
            (
                "snapshot",
                &["web"],
                &[("name", "monday")],
                "snapshot take web@monday",
            ),
            (
                "child",
                &["web@monday"],
                &[("name", "trial")],
                "create trial -b web@monday",
            ),
            (
                "child",
                &["web"],
                &[("name", "t"), ("size", "80G")],
                "create t 80G -b web",
            ),
            (
                "restore",
                &["web@monday"],
                &[("keep", "keep")],
                "snapshot restore web@monday",
            ),
            (
                "restore",
                &["web@monday"],
                &[("keep", "save"), ("save", "old")],
                "snapshot restore web@monday --save-current-as=old",
            ),
            (
                "restore",
                &["web@monday"],
                &[("keep", "discard")],
                "snapshot restore web@monday --discard",
            ),
            (
                "rename",
                &["web@monday"],
                &[("name", "first")],
                "rename web@monday first",
            ),
            (
                "tag",
                &["web"],
                &[("add", "a b"), ("remove", "c")],
                "tag web --add=a --add=b --remove=c",
            ),
            (
                "describe",
                &["web"],
                &[("text", "as delivered")],
                "describe -- web as delivered",
            ),
            ("describe", &["web"], &[], "describe --clear web"),
            (
                "set",
                &["web"],
                &[("property", "owner"), ("value", "anna")],
                "set -- web owner=anna",
            ),
            (
                "set",
                &["web"],
                &[("property", "owner")],
                "set web --unset=owner",
            ),
            ("pin", &["web"], &[], "pin web"),
            ("pin", &["web"], &[("off", "on")], "pin --off web"),
            (
                "export",
                &["web"],
                &[("file", "/srv/web.vdi"), ("format", "vdi")],
                "export web /srv/web.vdi -O vdi",
            ),
            (
                "mode",
                &["web"],
                &[("mode", "immutable"), ("autoreset", "off")],
                "modify web --type=immutable --autoreset=off",
            ),
            (
                "mode",
                &["web"],
                &[("mode", "normal")],
                "modify web --type=normal",
            ),
            ("reset", &["kiosk"], &[], "reset kiosk"),
            (
                "resize",
                &["web"],
                &[("size", "-10G"), ("shrink", "on")],
                "resize web -10G --shrink",
            ),
            ("flatten", &["web"], &[], "flatten web"),
            ("commit", &["web"], &[], "commit web"),
            ("delete", &["web@a", "db"], &[], "rm web@a db"),
            (
                "delete",
                &["web"],
                &[("with_snapshots", "on")],
                "rm --with-snapshots web",
            ),
            (
                "machine-snapshot",
                &["vm"],
                &[("name", "s")],
                "machine snapshot take vm@s",
            ),
            (
                "machine-restore",
                &["vm@s"],
                &[("keep", "discard")],
                "machine snapshot restore vm@s --discard",
            ),
            (
                "machine-delete",
                &["vm@s"],
                &[],
                "machine snapshot delete vm@s",
            ),
            (
                "create",
                &[],
                &[("name", "web"), ("size", "40G")],
                "create web 40G",
            ),
            (
                "import",
                &[],
                &[("source", "/srv/a.vdi"), ("name", "a")],
                "import /srv/a.vdi a",
            ),
            (
                "import",
                &[],
                &[
                    ("source", "/srv/a.vdi"),
                    ("name", "a"),
                    ("snapshot", "s"),
                    ("update", "on"),
                ],
                "import /srv/a.vdi a --snapshot=s --update",
            ),
            ("gc", &[], &[], "gc"),
            (
                "keep",
                &[],
                &[("daily", "7"), ("last", "2")],
                "report --keep-last=2 --keep-daily=7",
            ),
            ("push", &[], &[], "backup push --all"),
            ("droppable", &[], &[], "report droppable"),
            (
                "pull",
                &[],
                &[("point", "web@monday")],
                "backup pull web@monday",
            ),
            (
                "restore-file",
                &[],
                &[
                    ("point", "web@monday"),
                    ("file", "/srv/web.vdi"),
                    ("format", "vdi"),
                ],
                "backup restore web@monday /srv/web.vdi -O vdi",
            ),
            (
                "verify",
                &[],
                &[("read_data", "on")],
                "backup verify --read-data",
            ),
            (
                "forget",
                &[],
                &[("weekly", "4")],
                "backup forget --keep-weekly=4",
            ),
            ("check", &[], &[("read_data", "on")], "check --read-data"),
        ];
        for (key, nodes, fields, words) in rows {
            let planned = planned(key, nodes, fields).expect(words);
            assert_eq!(planned.words.join(" "), *words);
        }
        let tried: std::collections::BTreeSet<_> = rows.iter().map(|row| row.0).collect();
        assert_eq!(tried.len(), ACTIONS.len(), "every action is tried");
    }

    #[test]
    fn nothing_that_is_filled_in_becomes_an_option() {
        for (key, nodes, fields) in [
            ("snapshot", &["--help"][..], &[("name", "x")][..]),
            ("delete", &["web", "--with-snapshots"], &[]),
            ("delete", &[], &[]),
            ("delete", &[""], &[]),
            ("create", &[], &[("name", "--size"), ("size", "1G")]),
            ("create", &[], &[("name", "a"), ("size", "-b")]),
            ("create", &["web"], &[("name", "a"), ("size", "1G")]),
            ("forget", &[], &[]),
            ("forget", &[], &[("last", "--prune")]),
            ("pull", &[], &[("point", "--force")]),
            ("import", &[], &[("source", "-"), ("name", "a")]),
            (
                "restore-file",
                &[],
                &[("point", "--force"), ("file", "/srv/a"), ("format", "raw")],
            ),
            ("resize", &["web"], &[("size", "--shrink")]),
            ("resize", &["web"], &[("size", "-b")]),
            ("rename", &["web"], &[("name", "-x")]),
            ("rename", &["web", "db"], &[("name", "x")]),
            ("tag", &["web"], &[("add", "")]),
            ("tag", &["web"], &[("add", "-x")]),
            ("restore", &["web"], &[("keep", "keep")]),
            ("restore", &["web@a"], &[("keep", "save")]),
            ("restore", &["web@a"], &[("keep", "--json")]),
            ("mode", &["web"], &[("mode", "normal --force")]),
            (
                "export",
                &["web"],
                &[("file", "--force"), ("format", "raw")],
            ),
            ("export", &["web"], &[("file", "/srv/a"), ("format", "exe")]),
            ("snapshot", &["web@a"], &[("name", "x")]),
            ("nothing", &["web"], &[]),
        ] {
            assert!(
                planned(key, nodes, fields).is_err(),
                "{key} {nodes:?} {fields:?}"
            );
        }
    }

    #[test]
    fn letters_are_of_one_action() {
        let mut letters: Vec<char> = ACTIONS.iter().filter_map(|action| action.letter).collect();
        letters.sort_unstable();
        let count = letters.len();
        letters.dedup();
        assert_eq!(letters.len(), count);
    }
}
