//! Actions: which there are, what they ask for, and the command line that each one is. Pure: a
//! command line goes to the store's operations, which alone decide whether it can be done.

use std::collections::BTreeMap;

/// Images and snapshots that are deleted at once: about what a person picks.
const NODES_MAX: usize = 1000;
/// The longest text of a field.
const FIELD_LEN_MAX: usize = 4096;

/// The object of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
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
    pub(crate) subject: Subject,
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
    Subject,
    #[error("there is no such action")]
    Unknown,
}

/// The contents of a form.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActionInput {
    /// The images and snapshots that it is done to.
    pub(crate) nodes: Vec<String>,
    pub(crate) fields: BTreeMap<String, String>,
}

const fn text(key: &'static str, label: &'static str, hint: &'static str) -> ActionField {
    ActionField {
        key,
        label,
        kind: FieldKind::Text,
        hint,
        is_required: true,
    }
}

const fn optional(field: ActionField) -> ActionField {
    ActionField {
        is_required: false,
        ..field
    }
}

const fn of_kind(field: ActionField, kind: FieldKind) -> ActionField {
    ActionField { kind, ..field }
}

const fn check(key: &'static str, label: &'static str) -> ActionField {
    optional(of_kind(text(key, label, ""), FieldKind::Check))
}

const MODES: FieldKind = FieldKind::Choice(&[
    ("normal", "normal: one writer; snapshots"),
    ("immutable", "immutable: writes go to a scratch image"),
    (
        "writethrough",
        "writethrough: one writer; no part in snapshots",
    ),
    ("readonly", "readonly: no writer"),
    (
        "multiattach",
        "multiattach: each attachment writes to a child of its own",
    ),
    (
        "shareable",
        "shareable: several writers at once; no snapshots, no children",
    ),
]);
const AUTORESET: FieldKind = FieldKind::Choice(&[
    ("", "as it is"),
    (
        "on",
        "on: what is written goes when the guest is switched on anew",
    ),
    ("off", "off: it stays until it is reset"),
]);
const KEEPING: FieldKind = FieldKind::Choice(&[
    ("keep", "keep it as a snapshot, unless one shows it already"),
    ("save", "keep it as a snapshot of this name:"),
    ("discard", "let it go"),
]);
pub(crate) const FORMATS: &[(&str, &str)] = &[
    ("qcow2", "qcow2 (qemu, libvirt, Proxmox)"),
    ("raw", "raw (every byte)"),
    ("vdi", "VDI (VirtualBox)"),
    ("vmdk", "VMDK (VMware)"),
    ("vhdx", "VHDX (Hyper-V)"),
    ("vhd", "VHD (older Hyper-V, Azure)"),
];

const KEEP_FIELDS: &[ActionField] = &[
    optional(text("last", "Keep the newest", "a number of snapshots")),
    optional(text("daily", "of each of so many days", "")),
    optional(text("weekly", "of each of so many weeks", "")),
    optional(text("monthly", "of each of so many months", "")),
];

/// All actions, in the order of their buttons.
pub(crate) const ACTIONS: &[ActionSpec] = &[
    ActionSpec {
        key: "snapshot",
        title: "Take a snapshot",
        subject: Subject::Image,
        meaning: "Keeps the present state under a name, at once, also while a guest writes.",
        fields: &[text("name", "Name of the snapshot", "")],
        letter: Some('s'),
        is_destructive: false,
    },
    ActionSpec {
        key: "child",
        title: "New child",
        subject: Subject::Node,
        meaning: "Makes an image that starts as this one is. It holds only what will differ.",
        fields: &[
            text("name", "Name of the new image", ""),
            optional(text(
                "size",
                "Size",
                "as its parent, unless it is to be larger: 40G",
            )),
        ],
        letter: Some('c'),
        is_destructive: false,
    },
    ActionSpec {
        key: "restore",
        title: "Go back to this",
        subject: Subject::Snapshot,
        meaning: "Makes the image as this snapshot is. All snapshots stay.",
        fields: &[
            of_kind(text("keep", "The image's present state", ""), KEEPING),
            optional(text("save", "Name of that snapshot", "")),
        ],
        letter: Some('b'),
        is_destructive: true,
    },
    ActionSpec {
        key: "rename",
        title: "Rename",
        subject: Subject::Node,
        meaning: "Gives it another name; for a snapshot the part behind the @.",
        fields: &[text("name", "New name", "")],
        letter: Some('r'),
        is_destructive: false,
    },
    ActionSpec {
        key: "tag",
        title: "Tags",
        subject: Subject::Node,
        meaning: "Adds and removes tags.",
        fields: &[
            optional(text("add", "Tags to add", "blanks between them")),
            optional(text("remove", "Tags to remove", "blanks between them")),
        ],
        letter: Some('t'),
        is_destructive: false,
    },
    ActionSpec {
        key: "pin",
        title: "Pin",
        subject: Subject::Node,
        meaning: "Protects it from deletion by rules, or ends that.",
        fields: &[check("off", "End the protection")],
        letter: Some('p'),
        is_destructive: false,
    },
    ActionSpec {
        key: "export",
        title: "Export",
        subject: Subject::Node,
        meaning: "Writes it to a new file on the server's machine.",
        fields: &[
            of_kind(
                text("file", "File", "a whole path below one of the folders"),
                FieldKind::Target,
            ),
            of_kind(text("format", "Format", ""), FieldKind::Choice(FORMATS)),
        ],
        letter: Some('e'),
        is_destructive: false,
    },
    ActionSpec {
        key: "mode",
        title: "Mode",
        subject: Subject::Image,
        meaning: "Says who may write to it, and where what is written goes.",
        fields: &[
            of_kind(text("mode", "Mode", ""), MODES),
            optional(of_kind(
                text("autoreset", "Autoreset of an immutable image", ""),
                AUTORESET,
            )),
        ],
        letter: Some('m'),
        is_destructive: false,
    },
    ActionSpec {
        key: "reset",
        title: "Reset",
        subject: Subject::Image,
        meaning: "Lets go of what was written to an immutable image.",
        fields: &[],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "resize",
        title: "Resize",
        subject: Subject::Image,
        meaning: "Gives the disk another length. Its file systems stay as they are.",
        fields: &[
            text(
                "size",
                "New size",
                "40G, or with + or - by how much it changes: +10G",
            ),
            check("shrink", "Let the end of the image go"),
        ],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "flatten",
        title: "Flatten",
        subject: Subject::Image,
        meaning: "Makes it stand on nothing: it gets a map of its own. No data is copied.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "commit",
        title: "Commit",
        subject: Subject::Image,
        meaning: "Makes the image that it was made from as it is.",
        fields: &[],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "delete",
        title: "Delete",
        subject: Subject::Nodes,
        meaning: "Deletes exactly these. What stands on them stays as it is.",
        fields: &[check(
            "with_snapshots",
            "Delete the snapshots of images, too",
        )],
        letter: Some('d'),
        is_destructive: true,
    },
    ActionSpec {
        key: "machine-snapshot",
        title: "Snapshot of all disks",
        subject: Subject::Machine,
        meaning: "Keeps the present state of all of the machine's disks, of one moment.",
        fields: &[text("name", "Name of the snapshot", "")],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "machine-restore",
        title: "Go back",
        subject: Subject::MachineSnapshot,
        meaning: "Makes the machine's disks as this snapshot has them. All snapshots stay.",
        fields: &[
            of_kind(text("keep", "The machine's present state", ""), KEEPING),
            optional(text("save", "Name of that snapshot", "")),
        ],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "machine-delete",
        title: "Delete snapshot",
        subject: Subject::MachineSnapshot,
        meaning: "Deletes the machine's snapshot, and those of its images that belong to it.",
        fields: &[],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "create",
        title: "New image",
        subject: Subject::Store,
        meaning: "Makes an empty image.",
        fields: &[text("name", "Name", ""), text("size", "Size", "40G")],
        letter: Some('n'),
        is_destructive: false,
    },
    ActionSpec {
        key: "import",
        title: "Import",
        subject: Subject::Store,
        meaning: "Stores a disk: raw, qcow2, VDI, VMDK, VHD, VHDX, OVA, VMA or Parallels.",
        fields: &[
            of_kind(text("source", "Disk", ""), FieldKind::Source),
            text("name", "Name of the image", ""),
            optional(text("snapshot", "Take a snapshot of it, named", "")),
            check("update", "It is the new state of an image that is there"),
        ],
        letter: Some('i'),
        is_destructive: false,
    },
    ActionSpec {
        key: "gc",
        title: "Give space back",
        subject: Subject::Store,
        meaning: "Gives back what nothing needs any more. It can be stopped at any time.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "check",
        title: "Check",
        subject: Subject::Store,
        meaning: "Looks whether everything is what it must be.",
        fields: &[check("read_data", "Read and verify all data as well")],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "keep",
        title: "Retention preview",
        subject: Subject::Store,
        meaning: "Tells which snapshots such rules would let go, and what that would free.",
        fields: KEEP_FIELDS,
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "push",
        title: "Push everything",
        subject: Subject::Repository,
        meaning: "Sends all images and machines, and sends only what is new.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "pull",
        title: "Pull a point",
        subject: Subject::Repository,
        meaning: "Brings a point back into the store.",
        fields: &[text(
            "point",
            "Point",
            "IMAGE, IMAGE@SNAPSHOT or the beginning of its id",
        )],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "verify",
        title: "Verify",
        subject: Subject::Repository,
        meaning: "Looks whether everything in the repository is what it must be.",
        fields: &[check("read_data", "Read all data as well")],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "forget",
        title: "Forget points",
        subject: Subject::Repository,
        meaning: "Lets points of the repository go, and keeps those that a rule keeps.",
        fields: KEEP_FIELDS,
        letter: None,
        is_destructive: true,
    },
];

/// The action of this key.
pub(crate) fn find_action(key: &str) -> Result<&'static ActionSpec, InputFault> {
    let found = ACTIONS.iter().find(|action| action.key == key);
    found.ok_or(InputFault::Unknown)
}

impl ActionSpec {
    /// True if it is done to the store as a whole.
    pub(crate) fn fits_store(&self) -> bool {
        matches!(self.subject, Subject::Store | Subject::Repository)
    }

    /// True if it is done to a machine, whose names are not those of images.
    pub(crate) fn fits_machine(&self) -> bool {
        matches!(self.subject, Subject::Machine | Subject::MachineSnapshot)
    }

    /// True if its answer is read, and not only seen.
    pub(crate) fn has_long_answer(&self) -> bool {
        matches!(
            self.key,
            "check" | "keep" | "push" | "pull" | "verify" | "forget"
        )
    }

    /// True if it can be done to an image, or to a snapshot.
    pub(crate) fn fits_node(&self, is_snapshot: bool) -> bool {
        match self.subject {
            Subject::Image | Subject::Machine => !is_snapshot,
            Subject::Snapshot | Subject::MachineSnapshot => is_snapshot,
            Subject::Node | Subject::Nodes => true,
            Subject::Store | Subject::Repository => false,
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
            "pin" => {
                let words = own(&["pin"]).into_iter().chain(option("off", "--off"));
                words.chain(own(&[node])).collect()
            }
            "export" => {
                let (file, format) = (self.field(input, "file")?, self.field(input, "format")?);
                own(&["export", node, &file, "-O", &format])
            }
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
            "forget" => self.keep_words(input, &["backup", "forget"])?,
            "push" => own(&["backup", "push", "--all"]),
            "pull" => own(&["backup", "pull", &self.field(input, "point")?]),
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
            Subject::Store | Subject::Repository => nodes.is_empty(),
            Subject::Nodes => !nodes.is_empty(),
            _ => nodes.len() == 1 && nodes.iter().all(|node| self.fits_node(node.contains('@'))),
        };
        if fits && nodes.iter().all(is_name) {
            Ok(())
        } else {
            Err(InputFault::Subject)
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
            "push" => "sends to the repository what it has not got".to_owned(),
            "pull" => format!("brings {} into the store", field("point")),
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
            (
                "pull",
                &[],
                &[("point", "web@monday")],
                "backup pull web@monday",
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
