//! An OVF: a machine to be given away. Source: DMTF DSP0243.
//!
//! ```text
//! <Envelope>
//!   <References><File ovf:id ovf:href ovf:size/>
//!   <DiskSection>
//!     <Disk ovf:diskId ovf:fileRef ovf:parentRef ovf:capacity ovf:capacityAllocationUnits
//!       ovf:format/>
//!   <VirtualSystem ovf:id><Name>
//!     <VirtualHardwareSection>
//!       <Item> rasd:ResourceType 3: processors, 4: memory, 17: a disk; others may be controllers
//!         rasd:InstanceID, rasd:Parent, rasd:AddressOnParent, rasd:VirtualQuantity
//!         rasd:HostResource "ovf:/disk/ID"
//! ```
//!
//! A collection of machines is refused: it is several.

use std::collections::HashMap;
use std::fmt::Write as _;

use roxmltree::Node;

use super::xml::{attribute_value, child_element, child_elements, child_text, escape_text};
use super::{
    DescriptionError, DiskAttachment, MachineDescription, MachineMedium, MediumMode,
    description_error,
};

const KIND_PROCESSOR: &str = "3";
const KIND_MEMORY: &str = "4";
const KIND_DISK: &str = "17";
const KIND_SATA: u32 = 20;
const STREAM_FORMAT: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// Instances of processor, memory and controller come before those of disks.
const CONTROLLER_INSTANCE: usize = 3;

pub(super) fn parse_envelope(envelope: Node) -> Result<MachineDescription, DescriptionError> {
    let system = child_element(envelope, "VirtualSystem").ok_or_else(|| {
        description_error(
            "it holds no <VirtualSystem>; of a <VirtualSystemCollection> take its machines one by \
             one",
        )
    })?;
    let mut machine = MachineDescription::default();
    let disks = read_disks(envelope, &mut machine)?;
    let id = attribute_value(system, "id").map(str::to_owned);
    machine.name = child_text(system, "Name").or(id).unwrap_or_default();
    let os = child_element(system, "OperatingSystemSection");
    machine.guest_kind = os.and_then(|os| child_text(os, "Description"));
    let hardware = child_element(system, "VirtualHardwareSection");
    let items = || {
        let items = hardware
            .into_iter()
            .flat_map(|hardware| hardware.children());
        items.filter(|item| matches!(item.tag_name().name(), "Item" | "StorageItem"))
    };
    let mut controllers = HashMap::new();
    for item in items() {
        let quantity = child_text(item, "VirtualQuantity");
        match child_text(item, "ResourceType").as_deref() {
            Some(KIND_PROCESSOR) => {
                machine.processor_count = quantity.and_then(|count| count.parse().ok());
            }
            Some(KIND_MEMORY) => {
                machine.memory_mib = quantity.and_then(|size| size.parse().ok());
            }
            _ => {}
        }
        if let Some(instance) = child_text(item, "InstanceID") {
            controllers.insert(
                instance,
                child_text(item, "ElementName").unwrap_or_default(),
            );
        }
    }
    for item in
        items().filter(|item| child_text(*item, "ResourceType").as_deref() == Some(KIND_DISK))
    {
        let resource = child_text(item, "HostResource").unwrap_or_default();
        let id = resource.rsplit('/').next().unwrap_or_default();
        let medium = disks.get(id).copied();
        let medium =
            medium.ok_or_else(|| description_error(format!("there is no disk {resource:?}")))?;
        let parent =
            child_text(item, "Parent").and_then(|parent| controllers.get(&parent).cloned());
        machine.attachments.push(DiskAttachment {
            controller: parent.unwrap_or_default(),
            port: child_text(item, "AddressOnParent")
                .and_then(|port| port.parse().ok())
                .unwrap_or(0),
            device: 0,
            medium,
        });
    }
    Ok(machine)
}

/// The disks' numbers by id.
fn read_disks(
    envelope: Node,
    machine: &mut MachineDescription,
) -> Result<HashMap<String, usize>, DescriptionError> {
    let references = child_element(envelope, "References");
    let files = references
        .into_iter()
        .flat_map(|references| child_elements(references, "File"));
    let files: HashMap<_, _> = files
        .filter_map(|file| Some((attribute_value(file, "id")?, attribute_value(file, "href")?)))
        .collect();
    let mut numbers = HashMap::new();
    let section = child_element(envelope, "DiskSection");
    for disk in section
        .into_iter()
        .flat_map(|section| child_elements(section, "Disk"))
    {
        let id = attribute_value(disk, "diskId")
            .ok_or_else(|| description_error("a <Disk> without a diskId"))?;
        let file = attribute_value(disk, "fileRef");
        let location = file.map(|file| {
            files.get(file).copied().ok_or_else(|| {
                description_error(format!(
                    "the disk {id:?} is in the file {file:?}, which is not listed"
                ))
            })
        });
        let parent = attribute_value(disk, "parentRef").map(|parent| {
            let number = numbers.get(parent).copied();
            number.ok_or_else(|| {
                description_error(format!(
                    "the disk {id:?} stands on {parent:?}, which does not come before it"
                ))
            })
        });
        numbers.insert(id.to_owned(), machine.media.len());
        machine.media.push(MachineMedium {
            identity: None,
            // A disk without a file is empty.
            location: location.transpose()?.unwrap_or_default().to_owned(),
            format: attribute_value(disk, "format").and_then(format_of),
            mode: MediumMode::Normal,
            parent: parent.transpose()?,
            len: capacity_bytes(disk),
        });
    }
    Ok(numbers)
}

fn format_of(uri: &str) -> Option<String> {
    ["vmdk", "vhdx", "vhd", "vdi", "qcow2", "raw"]
        .into_iter()
        .find(|format| uri.to_ascii_lowercase().contains(format))
        .map(str::to_owned)
}

/// The capacity in bytes: units are "byte * 2^30".
fn capacity_bytes(disk: Node) -> Option<u64> {
    let count: u64 = attribute_value(disk, "capacity")?.trim().parse().ok()?;
    let Some(unit) = attribute_value(disk, "capacityAllocationUnits") else {
        return Some(count);
    };
    let factor = match unit.split_once('^') {
        None => 1,
        Some((_, power)) => 1_u64.checked_shl(power.trim().parse().ok()?)?,
    };
    count.checked_mul(factor)
}

pub(super) fn write_envelope(machine: &MachineDescription) -> String {
    let mut text = String::from("<?xml version=\"1.0\"?>\n");
    let mut line = |indent: usize, words: String| {
        let done = writeln!(text, "{:indent$}{words}", "");
        done.expect("a text in memory takes all that is written");
    };
    line(
        0,
        "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
        xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
        xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/\
        CIM_ResourceAllocationSettingData\">"
            .to_owned(),
    );
    line(2, "<References>".to_owned());
    for (number, medium) in machine.media.iter().enumerate() {
        line(
            4,
            format!(
                "<File ovf:id=\"file{number}\" ovf:href=\"{}\"/>",
                escape_text(&medium.location)
            ),
        );
    }
    line(2, "</References>".to_owned());
    line(2, "<DiskSection>".to_owned());
    line(4, "<Info>Virtual disks</Info>".to_owned());
    for (number, medium) in machine.media.iter().enumerate() {
        let parent = medium.parent.map_or(String::new(), |parent| {
            format!(" ovf:parentRef=\"disk{parent}\"")
        });
        line(
            4,
            format!(
                "<Disk ovf:diskId=\"disk{number}\" ovf:fileRef=\"file{number}\"{parent} \
                 ovf:capacity=\"{}\" ovf:format=\"{}\"/>",
                medium.len.unwrap_or(0),
                uri_of(medium.format.as_deref()),
            ),
        );
    }
    line(2, "</DiskSection>".to_owned());
    let name = escape_text(&machine.name);
    line(2, format!("<VirtualSystem ovf:id=\"{name}\">"));
    line(4, "<Info>A virtual machine</Info>".to_owned());
    line(4, format!("<Name>{name}</Name>"));
    if let Some(kind) = &machine.guest_kind {
        let kind = escape_text(kind);
        line(
            4,
            format!(
                "<OperatingSystemSection ovf:id=\"1\"><Info/><Description>{kind}</Description>\
                 </OperatingSystemSection>"
            ),
        );
    }
    line(4, "<VirtualHardwareSection>".to_owned());
    line(6, "<Info>Virtual hardware</Info>".to_owned());
    hardware_items(machine)
        .into_iter()
        .for_each(|item| line(6, item));
    line(4, "</VirtualHardwareSection>".to_owned());
    line(2, "</VirtualSystem>".to_owned());
    text.push_str("</Envelope>\n");
    text
}

fn uri_of(format: Option<&str>) -> String {
    match format {
        None | Some("vmdk") => STREAM_FORMAT.to_owned(),
        Some(format) => format!("urn:{}", escape_text(format)),
    }
}

/// The items: processors, memory, a controller for each name, disks.
fn hardware_items(machine: &MachineDescription) -> Vec<String> {
    let mut items = vec![
        hardware_item(
            1,
            KIND_PROCESSOR,
            "processors",
            &format!(
                "<rasd:VirtualQuantity>{}</rasd:VirtualQuantity>",
                machine.processor_count.unwrap_or(1)
            ),
        ),
        hardware_item(
            2,
            KIND_MEMORY,
            "memory",
            &format!(
                "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>\
                 <rasd:VirtualQuantity>{}</rasd:VirtualQuantity>",
                machine.memory_mib.unwrap_or(1024)
            ),
        ),
    ];
    let mut controllers: Vec<&str> = Vec::new();
    for attachment in &machine.attachments {
        if !controllers.contains(&attachment.controller.as_str()) {
            controllers.push(&attachment.controller);
        }
    }
    for (number, name) in controllers.iter().enumerate() {
        items.push(hardware_item(
            CONTROLLER_INSTANCE + number,
            &KIND_SATA.to_string(),
            name,
            "",
        ));
    }
    let first_disk = CONTROLLER_INSTANCE + controllers.len();
    for (number, attachment) in machine.attachments.iter().enumerate() {
        let controller = controllers
            .iter()
            .position(|name| *name == attachment.controller);
        let place = format!(
            "<rasd:HostResource>ovf:/disk/disk{}</rasd:HostResource><rasd:Parent>{}</rasd:Parent>\
             <rasd:AddressOnParent>{}</rasd:AddressOnParent>",
            attachment.medium,
            CONTROLLER_INSTANCE + controller.unwrap_or_default(),
            attachment.port,
        );
        let instance = first_disk + number;
        items.push(hardware_item(
            instance,
            KIND_DISK,
            &format!("disk {number}"),
            &place,
        ));
    }
    items
}

fn hardware_item(instance: usize, kind: &str, name: &str, rest: &str) -> String {
    format!(
        "<Item><rasd:ElementName>{}</rasd:ElementName><rasd:InstanceID>{instance}</rasd:InstanceID>\
         <rasd:ResourceType>{kind}</rasd:ResourceType>{rest}</Item>",
        escape_text(name)
    )
}
