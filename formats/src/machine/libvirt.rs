//! A domain of libvirt. Source: libvirt.org, formatdomain.
//!
//! ```text
//! <domain><name>…<uuid>…<memory unit>…<vcpu>…<os><type arch>
//!   <devices>
//!     <disk type="file|block" device="disk|lun">
//!       <driver type="qcow2"/>
//!       <source file|dev/>
//!       <backingStore type><format type/><source …/><backingStore>…    parents
//!       <target dev bus/>
//!       <readonly/> <shareable/> <transient/>
//! ```
//!
//! A network disk or a volume of a pool has no file here, and is left out.

use std::fmt::Write as _;

use roxmltree::Node;

use super::xml::{
    attribute_value, child_element, child_elements, child_text, escape_text, parse_uuid,
};
use super::{
    DescriptionError, DiskAttachment, MachineDescription, MachineMedium, MediumMode,
    description_error,
};

/// The deepest backing chain: qemu's own limit is 200.
const CHAIN_MAX: usize = 1024;
/// Letters of a disk's name: `vda`.
const LETTERS: u32 = 26;

pub(super) fn parse_domain(domain: Node) -> Result<MachineDescription, DescriptionError> {
    let mut machine = MachineDescription {
        name: child_text(domain, "name").unwrap_or_default(),
        identity: child_text(domain, "uuid").and_then(|text| parse_uuid(&text)),
        memory_mib: child_element(domain, "memory").and_then(memory_mib),
        processor_count: child_text(domain, "vcpu").and_then(|count| count.parse().ok()),
        ..MachineDescription::default()
    };
    let kind = child_element(domain, "os").and_then(|os| child_element(os, "type"));
    machine.guest_kind = kind
        .and_then(|kind| attribute_value(kind, "arch"))
        .map(str::to_owned);
    let devices = child_element(domain, "devices");
    for disk in devices
        .into_iter()
        .flat_map(|devices| child_elements(devices, "disk"))
    {
        if matches!(attribute_value(disk, "device"), None | Some("disk" | "lun")) {
            read_disk(disk, &mut machine)?;
        }
    }
    Ok(machine)
}

fn read_disk(disk: Node, machine: &mut MachineDescription) -> Result<(), DescriptionError> {
    // The chain, top first; media have parents first.
    let (mut chain, mut next) = (Vec::new(), Some(disk));
    while let Some(node) = next {
        let location = child_element(node, "source").and_then(|source| {
            attribute_value(source, "file").or_else(|| attribute_value(source, "dev"))
        });
        let Some(location) = location else {
            break;
        };
        if chain.len() >= CHAIN_MAX {
            return Err(description_error(format!(
                "a disk stands on more than {CHAIN_MAX} others"
            )));
        }
        let format = child_element(node, "driver").or_else(|| child_element(node, "format"));
        let format = format.and_then(|format| attribute_value(format, "type"));
        chain.push((location.to_owned(), format.map(str::to_owned)));
        next = child_element(node, "backingStore");
    }
    if chain.is_empty() {
        return Ok(());
    }
    let mut parent = None;
    for (location, format) in chain.into_iter().rev() {
        machine.media.push(MachineMedium {
            identity: None,
            location,
            format,
            mode: MediumMode::Normal,
            parent,
            len: None,
        });
        parent = Some(machine.media.len() - 1);
    }
    if let Some(top) = machine.media.last_mut() {
        top.mode = mode_of(disk);
    }
    let target = child_element(disk, "target");
    let name = target
        .and_then(|target| attribute_value(target, "dev"))
        .unwrap_or_default();
    let bus = target.and_then(|target| attribute_value(target, "bus"));
    machine.attachments.push(DiskAttachment {
        controller: bus.unwrap_or("virtio").to_owned(),
        port: port_of(name),
        device: 0,
        medium: machine.media.len() - 1,
    });
    Ok(())
}

fn mode_of(disk: Node) -> MediumMode {
    let has = |name| child_element(disk, name).is_some();
    if has("transient") {
        MediumMode::Immutable
    } else if has("shareable") {
        MediumMode::Shareable
    } else if has("readonly") {
        MediumMode::ReadOnly
    } else {
        MediumMode::Normal
    }
}

/// The number of `vda`, `sdb`, `hdaa`: the letters behind the first two as a number.
fn port_of(name: &str) -> u32 {
    let letters = name.get(2..).unwrap_or_default().bytes();
    let number = letters
        .filter(u8::is_ascii_lowercase)
        .try_fold(0_u32, |number, letter| {
            number
                .checked_mul(LETTERS)?
                .checked_add(u32::from(letter - b'a') + 1)
        });
    number.unwrap_or(0).saturating_sub(1)
}

/// The letters of a number, as [`port_of`] reads them.
fn letters_of(port: u32) -> String {
    let (mut letters, mut rest) = (Vec::new(), u64::from(port) + 1);
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(b'a' + (rest % u64::from(LETTERS)) as u8));
        rest /= u64::from(LETTERS);
    }
    letters.into_iter().rev().collect()
}

fn memory_mib(node: Node) -> Option<u64> {
    let count: u64 = node.text()?.trim().parse().ok()?;
    let bytes = match attribute_value(node, "unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    Some(count.checked_mul(bytes)? >> 20)
}

pub(super) fn write_domain(machine: &MachineDescription) -> String {
    let mut text = String::from("<domain type=\"kvm\">\n");
    let mut line = |indent: usize, words: String| {
        let done = writeln!(text, "{:indent$}{words}", "");
        done.expect("a text in memory takes all that is written");
    };
    line(2, format!("<name>{}</name>", escape_text(&machine.name)));
    if let Some(identity) = machine.identity {
        line(2, format!("<uuid>{identity}</uuid>"));
    }
    line(
        2,
        format!(
            "<memory unit=\"MiB\">{}</memory>",
            machine.memory_mib.unwrap_or(1024)
        ),
    );
    line(
        2,
        format!("<vcpu>{}</vcpu>", machine.processor_count.unwrap_or(1)),
    );
    let arch = machine.guest_kind.as_deref().unwrap_or("x86_64");
    line(
        2,
        format!("<os><type arch=\"{}\">hvm</type></os>", escape_text(arch)),
    );
    line(2, "<devices>".to_owned());
    for attachment in &machine.attachments {
        let mut medium = machine.media.get(attachment.medium);
        let mode = medium.map_or(MediumMode::Normal, |medium| medium.mode);
        line(4, "<disk type=\"file\" device=\"disk\">".to_owned());
        let mut depth = 0;
        while let Some(here) = medium {
            let format = escape_text(here.format.as_deref().unwrap_or("raw"));
            if depth == 0 {
                line(6, format!("<driver name=\"qemu\" type=\"{format}\"/>"));
            } else {
                line(
                    6,
                    format!("<backingStore type=\"file\"><format type=\"{format}\"/>"),
                );
            }
            line(
                6,
                format!("<source file=\"{}\"/>", escape_text(&here.location)),
            );
            depth += 1;
            medium = here.parent.and_then(|parent| machine.media.get(parent));
        }
        // The end of the chain is said, so that nobody looks for more.
        line(
            6,
            format!(
                "<backingStore/>{}",
                "</backingStore>".repeat(depth - usize::from(depth > 0))
            ),
        );
        let bus = bus_of(&attachment.controller);
        let prefix = if bus == "virtio" { "vd" } else { "sd" };
        let name = format!("{prefix}{}", letters_of(attachment.port));
        line(6, format!("<target dev=\"{name}\" bus=\"{bus}\"/>"));
        if let Some(word) = mode_word(mode) {
            line(6, word.to_owned());
        }
        line(4, "</disk>".to_owned());
    }
    line(2, "</devices>".to_owned());
    text.push_str("</domain>\n");
    text
}

fn mode_word(mode: MediumMode) -> Option<&'static str> {
    match mode {
        MediumMode::Immutable | MediumMode::MultiAttach => Some("<transient/>"),
        MediumMode::Shareable => Some("<shareable/>"),
        MediumMode::ReadOnly => Some("<readonly/>"),
        MediumMode::Normal | MediumMode::WriteThrough => None,
    }
}

/// libvirt's bus for a controller's name.
fn bus_of(controller: &str) -> &'static str {
    let name = controller.to_ascii_lowercase();
    ["virtio", "sata", "scsi", "ide", "usb"]
        .into_iter()
        .find(|bus| name.contains(bus))
        .unwrap_or("virtio")
}
