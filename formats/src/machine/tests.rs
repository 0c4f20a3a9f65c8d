//! Machines there and back, and texts that are none.

use super::*;
use MachineLanguage::{Libvirt, Ovf, Vbox};

fn identity(number: u8) -> DiskIdentity {
    DiskIdentity::Uuid([number; 16])
}

fn medium(number: u8, mode: MediumMode, parent: Option<usize>) -> MachineMedium {
    MachineMedium {
        identity: Some(identity(number)),
        location: format!("Snapshots/disk <{number}> & \"more\".vdi"),
        format: Some("vdi".to_owned()),
        mode,
        parent,
        len: None,
    }
}

fn attachment(controller: &str, port: u32, medium: usize) -> DiskAttachment {
    DiskAttachment {
        controller: controller.to_owned(),
        port,
        device: 0,
        medium,
    }
}

fn snapshot(number: u8, parent: Option<usize>, medium: usize) -> SnapshotDescription {
    SnapshotDescription {
        identity: Some(identity(number)),
        name: format!("snapshot {number} <&>"),
        description: "two\nlines".to_owned(),
        time: Some("2026-01-02T03:04:05Z".to_owned()),
        parent,
        attachments: vec![attachment("SATA", 0, medium), attachment("SATA", 1, 1)],
    }
}

/// Two disks, four snapshots in two branches, an immutable and a write-through disk.
fn machine() -> MachineDescription {
    MachineDescription {
        name: "web & <db>".to_owned(),
        identity: Some(identity(99)),
        memory_mib: Some(2048),
        processor_count: Some(4),
        guest_kind: Some("Debian_64".to_owned()),
        media: vec![
            medium(1, MediumMode::Normal, None),
            medium(2, MediumMode::WriteThrough, None),
            medium(3, MediumMode::Immutable, None),
            medium(4, MediumMode::Normal, Some(0)),
            medium(5, MediumMode::Normal, Some(3)),
            medium(6, MediumMode::Normal, Some(3)),
            medium(7, MediumMode::Normal, Some(2)),
        ],
        snapshots: vec![
            snapshot(11, None, 0),
            snapshot(12, Some(0), 3),
            snapshot(13, Some(1), 4),
            snapshot(14, Some(0), 5),
        ],
        current_snapshot: Some(2),
        attachments: vec![
            attachment("SATA", 0, 5),
            attachment("SATA", 1, 1),
            attachment("IDE", 0, 6),
        ],
    }
}

/// The same machine with media and snapshots in the order of the text: children behind parents.
fn in_text_order() -> MachineDescription {
    let mut machine = machine();
    let order = [0, 3, 4, 5, 1, 2, 6];
    let place = |number: usize| order.iter().position(|old| *old == number).expect("there");
    machine.media = order.map(|old| machine.media[old].clone()).into();
    for medium in &mut machine.media {
        medium.parent = medium.parent.map(place);
    }
    let snapshots = machine
        .snapshots
        .iter_mut()
        .map(|snapshot| &mut snapshot.attachments);
    for attachment in snapshots.chain([&mut machine.attachments]).flatten() {
        attachment.medium = place(attachment.medium);
    }
    machine
}

#[test]
fn a_tree_of_snapshots_goes_there_and_back() {
    let text = machine().write_as(Vbox).expect("written");
    let read = MachineDescription::parse(&text).expect("read");
    assert_eq!(read, in_text_order());
    assert_eq!(read.write_as(Vbox).expect("written"), text);
    assert_eq!(MachineLanguage::from_text(&text), Some(Vbox));
}

#[test]
fn the_current_state_goes_there_and_back_in_the_other_languages() {
    for language in [Libvirt, Ovf] {
        let text = machine().write_as(language).expect("written");
        let read = MachineDescription::parse(&text).expect("read");
        assert_eq!(MachineLanguage::from_text(&text), Some(language));
        assert_eq!(
            (&read.name, read.memory_mib, read.processor_count),
            (&machine().name, Some(2048), Some(4))
        );
        let chains = |machine: &MachineDescription| -> Vec<Vec<String>> {
            let chain = |attachment: &DiskAttachment| {
                let first = machine.media.get(attachment.medium);
                let next =
                    |medium: &&MachineMedium| medium.parent.map(|parent| &machine.media[parent]);
                std::iter::successors(first, next)
                    .map(|medium| medium.location.clone())
                    .collect()
            };
            machine.attachments.iter().map(chain).collect()
        };
        assert_eq!(chains(&read), chains(&machine()), "{language:?}");
        let again = read.write_as(language).expect("written");
        let read_again = MachineDescription::parse(&again).expect("read");
        assert_eq!(chains(&read_again), chains(&read), "{language:?}");
    }
}

#[test]
fn a_domain_tells_its_backing_chains_and_modes() {
    let text = "<domain><name>n</name><memory unit='GiB'>2</memory><devices>
        <disk type='file' device='disk'><driver type='qcow2'/><source file='/a/top'/>
          <backingStore type='file'><format type='raw'/><source file='/a/base'/>
            <backingStore/></backingStore>
          <target dev='sdab' bus='scsi'/><shareable/></disk>
        <disk type='file' device='cdrom'><source file='/a/x.iso'/></disk>
        <disk type='network' device='disk'><source protocol='rbd' name='p/i'/></disk>
        <disk type='block' device='disk'><source dev='/dev/vg/lv'/>
          <target dev='vdb' bus='virtio'/><transient/></disk>
        </devices></domain>";
    let machine = MachineDescription::parse(text).expect("read");
    assert_eq!(machine.memory_mib, Some(2048));
    let told: Vec<_> = machine
        .media
        .iter()
        .map(|medium| (medium.location.as_str(), medium.parent, medium.mode))
        .collect();
    let expected = [
        ("/a/base", None, MediumMode::Normal),
        ("/a/top", Some(0), MediumMode::Shareable),
        ("/dev/vg/lv", None, MediumMode::Immutable),
    ];
    assert_eq!(told, expected);
    assert_eq!(
        machine.attachments,
        [attachment("scsi", 27, 1), attachment("virtio", 1, 2)]
    );
}

#[test]
fn texts_that_describe_no_machine_are_errors() {
    let deep = |open: &str, close: &str, count: usize| open.repeat(count) + &close.repeat(count);
    let disk = "<HardDisk uuid=\"{00000000-0000-0000-0000-000000000001}\">";
    for text in [
        String::new(),
        "<".to_owned(),
        "<html/>".to_owned(),
        "<VirtualBox/>".to_owned(),
        "<Envelope/>".to_owned(),
        "<!DOCTYPE d [<!ENTITY a \"b\"><!ENTITY c SYSTEM \"/etc/hosts\">]><domain>&a;&c;</domain>"
            .to_owned(),
        deep("<domain>", "</domain>", 200_000),
        format!(
            "<VirtualBox><Machine><MediaRegistry>{disk}{disk}</HardDisk></HardDisk>\
             </MediaRegistry></Machine></VirtualBox>"
        ),
        format!(
            "<VirtualBox><Machine currentSnapshot=\"{}\"/></VirtualBox>",
            "1".repeat(32)
        ),
        "<VirtualBox><Machine><AttachedDevice type=\"HardDisk\"><Image uuid=\"x\"/>\
         </AttachedDevice></Machine></VirtualBox>"
            .to_owned(),
        "<Envelope><DiskSection><Disk diskId=\"a\" fileRef=\"b\"/></DiskSection>\
         <VirtualSystem/></Envelope>"
            .to_owned(),
    ] {
        let error = MachineDescription::parse(&text).expect_err("no machine");
        assert!(error.to_string().len() > 30, "{error}");
    }
    // Deep, but not too deep, and not on the stack.
    let chain = deep("<Snapshots>", "</Snapshots>", 2000);
    let text = format!("<VirtualBox><Machine>{chain}</Machine></VirtualBox>");
    assert!(MachineDescription::parse(&text).is_ok());
}

#[test]
fn numbers_that_lead_nowhere_are_not_written() {
    for damage in [
        |machine: &mut MachineDescription| machine.attachments[0].medium = 7,
        |machine: &mut MachineDescription| machine.media[0].parent = Some(0),
        |machine: &mut MachineDescription| machine.snapshots[1].parent = Some(3),
        |machine: &mut MachineDescription| machine.current_snapshot = Some(4),
    ] {
        let mut machine = machine();
        damage(&mut machine);
        for language in [Vbox, Libvirt, Ovf] {
            assert!(machine.write_as(language).is_err());
        }
    }
    let mut machine = machine();
    machine.media[2].identity = None;
    assert!(machine.write_as(Vbox).is_err());
    assert!(machine.write_as(Ovf).is_ok());
}
