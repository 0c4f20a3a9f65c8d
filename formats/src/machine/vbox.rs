//! `VirtualBox`'s settings of a machine. Source: VirtualBox-settings.xsd, versions 1.11 to 1.19.
//!
//! ```text
//! <VirtualBox version="1.16-linux">
//!   <Machine uuid name OSType currentSnapshot>
//!     <MediaRegistry><HardDisks>
//!       <HardDisk uuid location format type>          inside another: its child
//!     <Snapshot uuid name timeStamp>                  the first one; all others are inside it
//!       <Description>…
//!       <Hardware>…<StorageControllers>…              of that state
//!       <Snapshots><Snapshot>…
//!     <Hardware><CPU count><Memory RAMSize>           the current state
//!     <StorageControllers>                            inside <Hardware> from 1.19 on
//!       <StorageController name><AttachedDevice type="HardDisk" port device><Image uuid>
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;

use roxmltree::{Document, Node};

use super::xml::{attribute_value, child_element, child_text, escape_text, parse_uuid};
use super::{
    DescriptionError, DiskAttachment, MachineDescription, MachineMedium, MediumMode,
    SnapshotDescription, description_error,
};
use crate::identity::DiskIdentity;

const MODES: [(&str, MediumMode); 6] = [
    ("Normal", MediumMode::Normal),
    ("Immutable", MediumMode::Immutable),
    ("Writethrough", MediumMode::WriteThrough),
    ("Shareable", MediumMode::Shareable),
    ("Readonly", MediumMode::ReadOnly),
    ("MultiAttach", MediumMode::MultiAttach),
];

/// The owner of an element.
#[derive(Clone, Copy)]
enum ElementOwner {
    None,
    Machine,
    Snapshot(usize),
}

/// A description under construction: elements come parents first, so each finds what it is in.
#[derive(Default)]
struct VboxReader {
    machine: MachineDescription,
    /// Numbers of media and snapshots by UUID.
    media: HashMap<DiskIdentity, usize>,
    snapshots: HashMap<DiskIdentity, usize>,
}

pub(super) fn parse_settings(document: &Document) -> Result<MachineDescription, DescriptionError> {
    let mut reader = VboxReader::default();
    let node = child_element(document.root_element(), "Machine");
    let node = node.ok_or_else(|| description_error("<VirtualBox> holds no <Machine>"))?;
    attribute_value(node, "name")
        .unwrap_or_default()
        .clone_into(&mut reader.machine.name);
    reader.machine.identity = attribute_value(node, "uuid").and_then(parse_uuid);
    reader.machine.guest_kind = attribute_value(node, "OSType").map(str::to_owned);
    reader.read_media(node)?;
    reader.read_states(node)?;
    if let Some(current) = attribute_value(node, "currentSnapshot").and_then(parse_uuid) {
        let number = reader.snapshots.get(&current).copied();
        let number = number
            .ok_or_else(|| description_error(format!("there is no current snapshot {current}")))?;
        reader.machine.current_snapshot = Some(number);
    }
    reader.machine.verify_references()?;
    Ok(reader.machine)
}

impl VboxReader {
    fn read_media(&mut self, machine: Node) -> Result<(), DescriptionError> {
        let Some(registry) = child_element(machine, "MediaRegistry") else {
            return Ok(());
        };
        let is_disk = |node: &Node| node.tag_name().name() == "HardDisk";
        for node in registry.descendants().filter(is_disk) {
            let identity = attribute_value(node, "uuid").and_then(parse_uuid);
            let identity =
                identity.ok_or_else(|| description_error("a <HardDisk> without a uuid"))?;
            let parent = node.parent_element().filter(is_disk);
            let parent = parent.and_then(|parent| parse_uuid(attribute_value(parent, "uuid")?));
            let number = self.machine.media.len();
            self.machine.media.push(MachineMedium {
                identity: Some(identity),
                location: attribute_value(node, "location")
                    .unwrap_or_default()
                    .to_owned(),
                format: attribute_value(node, "format").map(str::to_lowercase),
                mode: mode_of(attribute_value(node, "type")),
                parent: parent.and_then(|parent| self.media.get(&parent).copied()),
                len: None,
            });
            if self.media.insert(identity, number).is_some() {
                return Err(description_error(format!(
                    "the disk {identity} is there twice"
                )));
            }
        }
        Ok(())
    }

    /// Every element of the machine once: whose it is follows from its parent's.
    fn read_states(&mut self, machine: Node) -> Result<(), DescriptionError> {
        let mut owners: HashMap<roxmltree::NodeId, ElementOwner> = HashMap::new();
        for node in machine.descendants().filter(Node::is_element) {
            let parent = node
                .parent_element()
                .and_then(|parent| owners.get(&parent.id()));
            let mut owner = parent.copied().unwrap_or(ElementOwner::None);
            match node.tag_name().name() {
                "Machine" => owner = ElementOwner::Machine,
                "Snapshot" => owner = ElementOwner::Snapshot(self.read_snapshot(node, owner)?),
                "AttachedDevice" if attribute_value(node, "type") == Some("HardDisk") => {
                    self.read_attachment(node, owner)?;
                }
                "CPU" if matches!(owner, ElementOwner::Machine) => {
                    let count = attribute_value(node, "count").and_then(|count| count.parse().ok());
                    self.machine.processor_count = count;
                }
                "Memory" if matches!(owner, ElementOwner::Machine) => {
                    let size = attribute_value(node, "RAMSize").and_then(|size| size.parse().ok());
                    self.machine.memory_mib = size;
                }
                _ => {}
            }
            owners.insert(node.id(), owner);
        }
        Ok(())
    }

    fn read_snapshot(
        &mut self,
        node: Node,
        owner: ElementOwner,
    ) -> Result<usize, DescriptionError> {
        let identity = attribute_value(node, "uuid").and_then(parse_uuid);
        let identity = identity.ok_or_else(|| description_error("a <Snapshot> without a uuid"))?;
        let number = self.machine.snapshots.len();
        self.machine.snapshots.push(SnapshotDescription {
            identity: Some(identity),
            name: attribute_value(node, "name").unwrap_or_default().to_owned(),
            description: child_text(node, "Description").unwrap_or_default(),
            time: attribute_value(node, "timeStamp").map(str::to_owned),
            parent: match owner {
                ElementOwner::Snapshot(parent) => Some(parent),
                _ => None,
            },
            attachments: Vec::new(),
        });
        if self.snapshots.insert(identity, number).is_some() {
            return Err(description_error(format!(
                "the snapshot {identity} is there twice"
            )));
        }
        Ok(number)
    }

    fn read_attachment(&mut self, node: Node, owner: ElementOwner) -> Result<(), DescriptionError> {
        let Some(image) = child_element(node, "Image") else {
            return Ok(());
        };
        let identity = attribute_value(image, "uuid").and_then(parse_uuid);
        let medium = identity.and_then(|identity| self.media.get(&identity).copied());
        let medium = medium.ok_or_else(|| {
            description_error(format!(
                "a controller has the disk {:?}, which the machine does not know",
                attribute_value(image, "uuid").unwrap_or_default()
            ))
        })?;
        let number = |name| attribute_value(node, name).and_then(|text| text.parse().ok());
        let controller = node
            .parent_element()
            .and_then(|parent| attribute_value(parent, "name"));
        let attachment = DiskAttachment {
            controller: controller.unwrap_or_default().to_owned(),
            port: number("port").unwrap_or(0),
            device: number("device").unwrap_or(0),
            medium,
        };
        match owner {
            ElementOwner::Snapshot(number) => {
                if let Some(snapshot) = self.machine.snapshots.get_mut(number) {
                    snapshot.attachments.push(attachment);
                }
            }
            _ => self.machine.attachments.push(attachment),
        }
        Ok(())
    }
}

fn mode_of(word: Option<&str>) -> MediumMode {
    let known = MODES.iter().find(|(name, _)| Some(*name) == word);
    known.map_or(MediumMode::Normal, |(_, mode)| *mode)
}

pub(super) fn write_settings(machine: &MachineDescription) -> Result<String, DescriptionError> {
    let mut text = String::from("<?xml version=\"1.0\"?>\n");
    text.push_str("<VirtualBox xmlns=\"http://www.virtualbox.org/\" version=\"1.16-linux\">\n");
    let current = machine
        .current_snapshot
        .and_then(|number| machine.snapshots.get(number));
    let current = match current {
        Some(snapshot) => format!(" currentSnapshot=\"{}\"", braced_uuid(snapshot.identity)?),
        None => String::new(),
    };
    write_line(
        &mut text,
        2,
        &format!(
            "<Machine uuid=\"{}\" name=\"{}\" OSType=\"{}\"{current} snapshotFolder=\"Snapshots\">",
            braced_uuid(machine.identity)?,
            escape_text(&machine.name),
            escape_text(machine.guest_kind.as_deref().unwrap_or("Other_64")),
        ),
    );
    write_line(&mut text, 4, "<MediaRegistry>");
    write_line(&mut text, 6, "<HardDisks>");
    write_media(machine, &mut text)?;
    write_line(&mut text, 6, "</HardDisks>");
    write_line(&mut text, 4, "</MediaRegistry>");
    write_snapshots(machine, &mut text)?;
    write_state(machine, &machine.attachments, &mut text)?;
    write_line(&mut text, 2, "</Machine>");
    text.push_str("</VirtualBox>\n");
    Ok(text)
}

/// Media, each inside its parent, without recursion: a stack of what is open and what comes next.
fn write_media(machine: &MachineDescription, text: &mut String) -> Result<(), DescriptionError> {
    for step in TreeWalk::new(machine.media.iter().map(|medium| medium.parent)) {
        match step {
            TreeStep::Close => write_line(text, 8, "</HardDisk>"),
            TreeStep::Open(number) => {
                let medium = machine
                    .media
                    .get(number)
                    .expect("a walk has the media's numbers");
                let mode = MODES.iter().find(|(_, mode)| *mode == medium.mode);
                write_line(
                    text,
                    8,
                    &format!(
                        "<HardDisk uuid=\"{}\" location=\"{}\" format=\"{}\" type=\"{}\">",
                        braced_uuid(medium.identity)?,
                        escape_text(&medium.location),
                        escape_text(&medium.format.as_deref().unwrap_or("vdi").to_uppercase()),
                        mode.map_or("Normal", |(name, _)| *name),
                    ),
                );
            }
        }
    }
    Ok(())
}

fn write_snapshots(
    machine: &MachineDescription,
    text: &mut String,
) -> Result<(), DescriptionError> {
    for step in TreeWalk::new(machine.snapshots.iter().map(|snapshot| snapshot.parent)) {
        match step {
            TreeStep::Close => {
                write_line(text, 6, "</Snapshots>");
                write_line(text, 4, "</Snapshot>");
            }
            TreeStep::Open(number) => {
                let snapshot = machine
                    .snapshots
                    .get(number)
                    .expect("a walk has their numbers");
                let time = snapshot.time.as_deref().unwrap_or("2000-01-01T00:00:00Z");
                write_line(
                    text,
                    4,
                    &format!(
                        "<Snapshot uuid=\"{}\" name=\"{}\" timeStamp=\"{}\">",
                        braced_uuid(snapshot.identity)?,
                        escape_text(&snapshot.name),
                        escape_text(time),
                    ),
                );
                if !snapshot.description.is_empty() {
                    write_line(
                        text,
                        6,
                        &format!(
                            "<Description>{}</Description>",
                            escape_text(&snapshot.description)
                        ),
                    );
                }
                write_state(machine, &snapshot.attachments, text)?;
                write_line(text, 6, "<Snapshots>");
            }
        }
    }
    Ok(())
}

/// Hardware and controllers of a state: an AHCI controller for each name.
fn write_state(
    machine: &MachineDescription,
    attachments: &[DiskAttachment],
    text: &mut String,
) -> Result<(), DescriptionError> {
    write_line(text, 6, "<Hardware>");
    let count = machine
        .processor_count
        .map_or(String::new(), |count| format!(" count=\"{count}\""));
    write_line(
        text,
        8,
        &format!("<CPU{count}><PAE enabled=\"true\"/><LongMode enabled=\"true\"/></CPU>"),
    );
    if let Some(size) = machine.memory_mib {
        write_line(text, 8, &format!("<Memory RAMSize=\"{size}\"/>"));
    }
    write_line(text, 6, "</Hardware>");
    write_line(text, 6, "<StorageControllers>");
    let mut names: Vec<&str> = Vec::new();
    for attachment in attachments {
        if !names.contains(&attachment.controller.as_str()) {
            names.push(&attachment.controller);
        }
    }
    for name in names {
        let own = || {
            attachments
                .iter()
                .filter(|attachment| attachment.controller == name)
        };
        let ports = own()
            .map(|attachment| attachment.port.saturating_add(1))
            .max();
        write_line(
            text,
            8,
            &format!(
                "<StorageController name=\"{}\" type=\"{}\" PortCount=\"{}\" \
                 useHostIOCache=\"false\" Bootable=\"true\">",
                escape_text(name),
                controller_kind(name),
                ports.unwrap_or(1),
            ),
        );
        for attachment in own() {
            let medium = machine
                .media
                .get(attachment.medium)
                .expect("numbers were verified");
            write_line(
                text,
                10,
                &format!(
                    "<AttachedDevice type=\"HardDisk\" port=\"{}\" device=\"{}\">\
                     <Image uuid=\"{}\"/></AttachedDevice>",
                    attachment.port,
                    attachment.device,
                    braced_uuid(medium.identity)?,
                ),
            );
        }
        write_line(text, 8, "</StorageController>");
    }
    write_line(text, 6, "</StorageControllers>");
    Ok(())
}

/// `VirtualBox`'s kind of a controller that goes by the usual names.
fn controller_kind(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    [
        ("ide", "PIIX4"),
        ("scsi", "LsiLogic"),
        ("sas", "LsiLogicSas"),
        ("nvme", "NVMe"),
        ("virtio", "VirtioSCSI"),
    ]
    .into_iter()
    .find(|(word, _)| name.contains(word))
    .map_or("AHCI", |(_, kind)| kind)
}

fn braced_uuid(identity: Option<DiskIdentity>) -> Result<String, DescriptionError> {
    match identity {
        Some(identity @ DiskIdentity::Uuid(_)) => Ok(format!("{{{identity}}}")),
        _ => Err(description_error(
            "VirtualBox knows machines, disks and snapshots by UUID, and one has none",
        )),
    }
}

fn write_line(text: &mut String, indent: usize, words: &str) {
    let done = writeln!(text, "{:indent$}{words}", "");
    done.expect("a text in memory takes all that is written");
}

/// A step through a forest whose parents have smaller numbers than their children.
enum TreeStep {
    Open(usize),
    Close,
}

/// A walk through a forest, children in the order of their numbers.
struct TreeWalk {
    children: Vec<Vec<usize>>,
    /// Snapshots that are still to be written, the next one last; `None` closes an element.
    open: Vec<Option<usize>>,
}

impl TreeWalk {
    fn new(parents: impl Iterator<Item = Option<usize>>) -> Self {
        let (mut children, mut roots) = (Vec::new(), Vec::new());
        for (number, parent) in parents.enumerate() {
            children.push(Vec::new());
            let siblings = parent.and_then(|parent| children.get_mut(parent));
            siblings.unwrap_or(&mut roots).push(number);
        }
        Self {
            children,
            open: roots.into_iter().rev().map(Some).collect(),
        }
    }
}

impl Iterator for TreeWalk {
    type Item = TreeStep;

    fn next(&mut self) -> Option<TreeStep> {
        let Some(number) = self.open.pop()? else {
            return Some(TreeStep::Close);
        };
        self.open.push(None);
        let children = self.children.get_mut(number).map(std::mem::take);
        let children = children.unwrap_or_default();
        self.open.extend(children.into_iter().rev().map(Some));
        Some(TreeStep::Open(number))
    }
}
