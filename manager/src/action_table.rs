//! The table of actions: the words of their buttons and fields. Pure.

use crate::actions::{ActionField, ActionSpec, ActionSubject, FieldKind};

const fn text_field(key: &'static str, label: &'static str, hint: &'static str) -> ActionField {
    ActionField {
        key,
        label,
        kind: FieldKind::Text,
        hint,
        is_required: true,
    }
}

const fn optional_field(field: ActionField) -> ActionField {
    ActionField {
        is_required: false,
        ..field
    }
}

const fn field_of_kind(field: ActionField, kind: FieldKind) -> ActionField {
    ActionField { kind, ..field }
}

const fn check_field(key: &'static str, label: &'static str) -> ActionField {
    optional_field(field_of_kind(text_field(key, label, ""), FieldKind::Check))
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

pub(crate) const KEEP_FIELDS: &[ActionField] = &[
    optional_field(text_field(
        "last",
        "Keep the newest",
        "a number of snapshots",
    )),
    optional_field(text_field("daily", "of each of so many days", "")),
    optional_field(text_field("weekly", "of each of so many weeks", "")),
    optional_field(text_field("monthly", "of each of so many months", "")),
];

/// All actions, in the order of their buttons.
pub(crate) const ACTIONS: &[ActionSpec] = &[
    ActionSpec {
        key: "snapshot",
        title: "Take a snapshot",
        subject: ActionSubject::Image,
        meaning: "Keeps the present state under a name, at once, also while a guest writes.",
        fields: &[text_field("name", "Name of the snapshot", "")],
        letter: Some('s'),
        is_destructive: false,
    },
    ActionSpec {
        key: "child",
        title: "New child",
        subject: ActionSubject::Node,
        meaning: "Makes an image that starts as this one is. It holds only what will differ.",
        fields: &[
            text_field("name", "Name of the new image", ""),
            optional_field(text_field(
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
        subject: ActionSubject::Snapshot,
        meaning: "Makes the image as this snapshot is. All snapshots stay.",
        fields: &[
            field_of_kind(text_field("keep", "The image's present state", ""), KEEPING),
            optional_field(text_field("save", "Name of that snapshot", "")),
        ],
        letter: Some('b'),
        is_destructive: true,
    },
    ActionSpec {
        key: "rename",
        title: "Rename",
        subject: ActionSubject::Node,
        meaning: "Gives it another name; for a snapshot the part behind the @.",
        fields: &[text_field("name", "New name", "")],
        letter: Some('r'),
        is_destructive: false,
    },
    ActionSpec {
        key: "describe",
        title: "Describe",
        subject: ActionSubject::Node,
        meaning: "Gives it a description; an empty one takes it away.",
        fields: &[optional_field(text_field("text", "Description", ""))],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "set",
        title: "Properties",
        subject: ActionSubject::Node,
        meaning: "Gives a property of yours a value; an empty one takes it away.",
        fields: &[
            text_field("property", "Property", "such as owner"),
            optional_field(text_field("value", "Value", "")),
        ],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "tag",
        title: "Tags",
        subject: ActionSubject::Node,
        meaning: "Adds and removes tags.",
        fields: &[
            optional_field(text_field("add", "Tags to add", "blanks between them")),
            optional_field(text_field(
                "remove",
                "Tags to remove",
                "blanks between them",
            )),
        ],
        letter: Some('t'),
        is_destructive: false,
    },
    ActionSpec {
        key: "pin",
        title: "Pin",
        subject: ActionSubject::Node,
        meaning: "Protects it from deletion by rules, or ends that.",
        fields: &[check_field("off", "End the protection")],
        letter: Some('p'),
        is_destructive: false,
    },
    ActionSpec {
        key: "export",
        title: "Export",
        subject: ActionSubject::Node,
        meaning: "Writes it to a new file on the server's machine.",
        fields: &[
            field_of_kind(
                text_field("file", "File", "a whole path below one of the folders"),
                FieldKind::Target,
            ),
            field_of_kind(
                text_field("format", "Format", ""),
                FieldKind::Choice(FORMATS),
            ),
        ],
        letter: Some('e'),
        is_destructive: false,
    },
    ActionSpec {
        key: "mode",
        title: "Mode",
        subject: ActionSubject::Image,
        meaning: "Says who may write to it, and where what is written goes.",
        fields: &[
            field_of_kind(text_field("mode", "Mode", ""), MODES),
            optional_field(field_of_kind(
                text_field("autoreset", "Autoreset of an immutable image", ""),
                AUTORESET,
            )),
        ],
        letter: Some('m'),
        is_destructive: false,
    },
    ActionSpec {
        key: "reset",
        title: "Reset",
        subject: ActionSubject::Image,
        meaning: "Lets go of what was written to an immutable image.",
        fields: &[],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "resize",
        title: "Resize",
        subject: ActionSubject::Image,
        meaning: "Gives the disk another length. Its file systems stay as they are.",
        fields: &[
            text_field(
                "size",
                "New size",
                "40G, or with + or - by how much it changes: +10G",
            ),
            check_field("shrink", "Let the end of the image go"),
        ],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "flatten",
        title: "Flatten",
        subject: ActionSubject::Image,
        meaning: "Makes it stand on nothing: it gets a map of its own. No data is copied.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "commit",
        title: "Commit",
        subject: ActionSubject::Image,
        meaning: "Makes the image that it was made from as it is.",
        fields: &[],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "delete",
        title: "Delete",
        subject: ActionSubject::Nodes,
        meaning: "Deletes exactly these. What stands on them stays as it is.",
        fields: &[check_field(
            "with_snapshots",
            "Delete the snapshots of images, too",
        )],
        letter: Some('d'),
        is_destructive: true,
    },
    ActionSpec {
        key: "machine-snapshot",
        title: "Snapshot of all disks",
        subject: ActionSubject::Machine,
        meaning: "Keeps the present state of all of the machine's disks, of one moment.",
        fields: &[text_field("name", "Name of the snapshot", "")],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "machine-restore",
        title: "Go back",
        subject: ActionSubject::MachineSnapshot,
        meaning: "Makes the machine's disks as this snapshot has them. All snapshots stay.",
        fields: &[
            field_of_kind(
                text_field("keep", "The machine's present state", ""),
                KEEPING,
            ),
            optional_field(text_field("save", "Name of that snapshot", "")),
        ],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "machine-delete",
        title: "Delete snapshot",
        subject: ActionSubject::MachineSnapshot,
        meaning: "Deletes the machine's snapshot, and those of its images that belong to it.",
        fields: &[],
        letter: None,
        is_destructive: true,
    },
    ActionSpec {
        key: "create",
        title: "New image",
        subject: ActionSubject::Store,
        meaning: "Makes an empty image.",
        fields: &[
            text_field("name", "Name", ""),
            text_field("size", "Size", "40G"),
        ],
        letter: Some('n'),
        is_destructive: false,
    },
    ActionSpec {
        key: "import",
        title: "Import",
        subject: ActionSubject::Store,
        meaning: "Stores a disk: raw, qcow2, VDI, VMDK, VHD, VHDX, OVA, VMA or Parallels.",
        fields: &[
            field_of_kind(text_field("source", "Disk", ""), FieldKind::Source),
            text_field("name", "Name of the image", ""),
            optional_field(text_field("snapshot", "Take a snapshot of it, named", "")),
            check_field("update", "It is the new state of an image that is there"),
        ],
        letter: Some('i'),
        is_destructive: false,
    },
    ActionSpec {
        key: "gc",
        title: "Give space back",
        subject: ActionSubject::Store,
        meaning: "Gives back what nothing needs any more. It can be stopped at any time.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "check",
        title: "Check",
        subject: ActionSubject::Store,
        meaning: "Looks whether everything is what it must be.",
        fields: &[check_field("read_data", "Read and verify all data as well")],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "keep",
        title: "Retention preview",
        subject: ActionSubject::Store,
        meaning: "Tells which snapshots such rules would let go, and what that would free.",
        fields: KEEP_FIELDS,
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "droppable",
        title: "Unused by guests",
        subject: ActionSubject::Store,
        meaning: "Reads the file systems of all images: what they call free, and is stored still.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "push",
        title: "Push everything",
        subject: ActionSubject::Repository,
        meaning: "Sends all images and machines, and sends only what is new.",
        fields: &[],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "pull",
        title: "Pull a point",
        subject: ActionSubject::Repository,
        meaning: "Brings a point back into the store.",
        fields: &[text_field(
            "point",
            "Point",
            "IMAGE, IMAGE@SNAPSHOT or the beginning of its id",
        )],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "restore-file",
        title: "Restore to a file",
        subject: ActionSubject::Repository,
        meaning: "Writes a point of the repository to a new file; the store stays as it is.",
        fields: &[
            text_field(
                "point",
                "Point",
                "IMAGE, IMAGE@SNAPSHOT or the beginning of its id",
            ),
            field_of_kind(
                text_field("file", "File", "a whole path below one of the folders"),
                FieldKind::Target,
            ),
            field_of_kind(
                text_field("format", "Format", ""),
                FieldKind::Choice(FORMATS),
            ),
        ],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "verify",
        title: "Verify",
        subject: ActionSubject::Repository,
        meaning: "Looks whether everything in the repository is what it must be.",
        fields: &[check_field("read_data", "Read all data as well")],
        letter: None,
        is_destructive: false,
    },
    ActionSpec {
        key: "forget",
        title: "Forget points",
        subject: ActionSubject::Repository,
        meaning: "Lets points of the repository go, and keeps those that a rule keeps.",
        fields: KEEP_FIELDS,
        letter: None,
        is_destructive: true,
    },
];
