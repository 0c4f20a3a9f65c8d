//! Machines of other programs, with trees of snapshots, there and back: every state byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use vellum_formats::machine::{
    DiskAttachment, MachineDescription, MachineLanguage, MachineMedium, MediumMode,
    SnapshotDescription,
};
use vellum_formats::write::{Allocation, ParentLink, TargetFormat};
use vellum_formats::{DiskIdentity, Format};

use crate::delta::Delta;
use crate::sandbox::{Sandbox, client_line, client_succeeds};

const DISK_LEN: usize = 5 << 20;
/// A machine of VirtualBox under construction.
struct VirtualBox {
    description: MachineDescription,
    /// The content of each medium.
    contents: Vec<Vec<u8>>,
    seed: u64,
}

impl VirtualBox {
    /// Adds a medium, on `parent` if there is one, and its file in `dir`; its number.
    fn medium(
        &mut self,
        dir: &Path,
        location: &str,
        mode: MediumMode,
        parent: Option<usize>,
    ) -> usize {
        let number = self.contents.len();
        self.seed += 1;
        let delta = match parent {
            None => {
                let mut bytes = vec![0; DISK_LEN];
                fastrand::Rng::with_seed(self.seed).fill(&mut bytes[..3 << 20]);
                Delta::whole(bytes)
            }
            Some(parent) => Delta::over(&self.contents[parent], self.seed),
        };
        let identity = |number: usize| DiskIdentity::Uuid([number as u8 + 1; 16]);
        let link = parent.map(|parent| ParentLink {
            path: self.description.media[parent].location.clone(),
            identity: Some(identity(parent)),
            format: None,
        });
        let file = delta.file(
            TargetFormat::Vdi(Allocation::Dynamic),
            Some(identity(number)),
            link,
        );
        fs::write(dir.join(location), file).expect("room");
        self.contents.push(delta.bytes);
        self.description.media.push(MachineMedium {
            identity: Some(identity(number)),
            location: location.to_owned(),
            format: Some("vdi".to_owned()),
            mode,
            parent,
            len: None,
        });
        number
    }

    /// Freezes the attached media, as VirtualBox does when it takes a snapshot.
    fn snapshot(&mut self, name: &str, parent: Option<usize>, media: &[usize]) -> usize {
        let number = self.description.snapshots.len();
        self.description.snapshots.push(SnapshotDescription {
            identity: Some(DiskIdentity::Uuid([number as u8 + 101; 16])),
            name: name.to_owned(),
            description: format!("the state {name}"),
            time: Some(format!("2026-01-0{}T03:04:05Z", number + 1)),
            parent,
            attachments: attached(media),
        });
        number
    }
}

fn attached(media: &[usize]) -> Vec<DiskAttachment> {
    let attachment = |(port, medium): (usize, &usize)| DiskAttachment {
        controller: if port < 2 { "IDE" } else { "SATA" }.to_owned(),
        port: port as u32,
        device: 0,
        medium: *medium,
    };
    media.iter().enumerate().map(attachment).collect()
}

/// The disks of the machine, in the order in which its guest sees them.
const DISKS: [&str; 4] = ["root", "data", "kiosk", "log"];

/// A machine with two disks, four snapshots in two branches, an immutable and a write-through disk,
/// in `dir`; what each state's disks hold, the present state as "".
fn virtual_box(dir: &Path) -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    fs::create_dir_all(dir.join("Snapshots")).expect("room");
    let mut machine = VirtualBox {
        description: MachineDescription {
            name: "web server".to_owned(),
            identity: Some(DiskIdentity::Uuid([99; 16])),
            memory_mib: Some(2048),
            processor_count: Some(2),
            guest_kind: Some("Debian_64".to_owned()),
            ..MachineDescription::default()
        },
        contents: Vec::new(),
        seed: 7,
    };
    let modes = [
        MediumMode::Normal,
        MediumMode::Normal,
        MediumMode::Immutable,
        MediumMode::WriteThrough,
    ];
    let roots: Vec<usize> = DISKS
        .iter()
        .zip(modes)
        .map(|(name, mode)| machine.medium(dir, &format!("{name}.vdi"), mode, None))
        .collect();
    let mut nth = 0;
    // New files over those of a state; the immutable disk always has one, the write-through never.
    let mut grown = |machine: &mut VirtualBox, below: &[usize], which: &[usize]| -> Vec<usize> {
        let mut media = below.to_vec();
        for disk in which {
            nth += 1;
            let location = format!("Snapshots/{{{nth:08}}}.vdi");
            media[*disk] = machine.medium(dir, &location, MediumMode::Normal, Some(below[*disk]));
        }
        media
    };
    let first = grown(&mut machine, &roots, &[2]);
    let one = machine.snapshot("clean", None, &first);
    let second = grown(&mut machine, &first, &[0, 1, 2]);
    let two = machine.snapshot("before update", Some(one), &second);
    let third = grown(&mut machine, &second, &[0, 1, 2]);
    machine.snapshot("updated", Some(two), &third);
    let fourth = grown(&mut machine, &first, &[0, 1, 2]);
    let four = machine.snapshot("other way", Some(one), &fourth);
    let current = grown(&mut machine, &fourth, &[0, 1, 2]);
    machine.description.attachments = attached(&current);
    machine.description.current_snapshot = Some(four);
    let text = machine
        .description
        .write_as(MachineLanguage::Vbox)
        .expect("it is right");
    fs::write(dir.join("web server.vbox"), text).expect("room");
    let states = [
        ("clean", first),
        ("before update", second),
        ("updated", third),
        ("other way", fourth),
        ("", current),
    ];
    let contents = |media: Vec<usize>| {
        let content = |medium: &usize| machine.contents[*medium].clone();
        media.iter().map(content).collect()
    };
    states
        .into_iter()
        .map(|(name, media)| (name, contents(media)))
        .collect()
}

fn exported(sandbox: &Sandbox, node: &str) -> Vec<u8> {
    sandbox.succeed(["export", node, "out.raw", "--force"]);
    fs::read(sandbox.path("out.raw")).expect("it was exported")
}

/// Holds every state of the machine against what it should be.
fn check_states(sandbox: &Sandbox, states: &BTreeMap<&str, Vec<Vec<u8>>>) {
    for (state, disks) in states {
        for (disk, expected) in DISKS.iter().zip(disks) {
            let node = match (*state, *disk) {
                // Its writes are a disk of their own.
                ("", "kiosk") => "kiosk+scratch".to_owned(),
                ("", disk) | (_, disk @ "log") => disk.to_owned(),
                (state, disk) => format!("{disk}@{state}"),
            };
            assert!(exported(sandbox, &node) == *expected, "{node} of {state:?}");
        }
    }
}

/// Holds the machine against its model after it went back to each of its snapshots.
fn check_restores(sandbox: &Sandbox, states: &BTreeMap<&str, Vec<Vec<u8>>>) {
    for (state, disks) in states.iter().filter(|(state, _)| !state.is_empty()) {
        let snapshot = format!("web server@{state}");
        sandbox.succeed(["machine", "snapshot", "restore", &snapshot, "--discard"]);
        for (disk, expected) in DISKS.iter().zip(disks) {
            let node = if *disk == "kiosk" {
                "kiosk+scratch"
            } else {
                disk
            };
            assert!(
                exported(sandbox, node) == *expected,
                "{node} after {state:?}"
            );
        }
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder");
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a text");
        (name, fs::read(entry.path()).expect("a file"))
    };
    entries.map(file).collect()
}

/// Holds a description against the machine that [`virtual_box`] makes: its branches above all.
fn check_shape(text: &str) {
    let again = MachineDescription::parse(text).expect("it was written here");
    let shape: Vec<(&str, Option<usize>)> = again
        .snapshots
        .iter()
        .map(|snapshot| (snapshot.name.as_str(), snapshot.parent))
        .collect();
    let order = ["clean", "before update", "updated", "other way"];
    let parent_of = |name: &str| {
        let found = shape.iter().find(|(found, _)| *found == name);
        found.expect("it is there").1.map(|parent| shape[parent].0)
    };
    let parents = order.map(parent_of);
    assert_eq!(
        parents,
        [None, Some("clean"), Some("before update"), Some("clean")]
    );
    assert_eq!(
        again.current_snapshot.map(|at| shape[at].0),
        Some("other way")
    );
    assert_eq!(
        (again.memory_mib, again.identity),
        (Some(2048), Some(DiskIdentity::Uuid([99; 16])))
    );
}

#[test]
fn a_virtualbox_tree_goes_in_and_out_and_in_again() {
    let sandbox = Sandbox::new();
    let states = virtual_box(&sandbox.path("vm"));
    let told = sandbox.succeed(["machine", "import", "vm/web server.vbox"]);
    assert!(
        told.contains("web server") && told.contains("other way"),
        "{told}"
    );
    check_states(&sandbox, &states);
    let tree = sandbox.succeed(["tree"]);
    for name in [
        "root@clean",
        "root@updated",
        "root@other way",
        "kiosk@clean",
        "log",
    ] {
        assert!(tree.contains(name), "{name} is not in\n{tree}");
    }
    let shown = sandbox.succeed(["list", "--json"]);
    for (image, mode) in [
        ("kiosk", "immutable"),
        ("log", "writethrough"),
        ("root", "normal"),
    ] {
        let images: Vec<serde_json::Value> = serde_json::from_str(&shown).expect("JSON");
        let found = images.iter().find(|found| found["name"] == image);
        assert_eq!(found.expect("it is listed")["mode"], mode, "{image}");
    }
    // The same again into a second store, by way of our own files.
    sandbox.succeed(["machine", "export", "web server", "out"]);
    let other = Sandbox::new();
    crate::sandbox::copy_folder(&sandbox.path("out"), &other.path("vm"));
    other.succeed(["machine", "import", "vm/web server.vbox"]);
    check_states(&other, &states);
    // And out of that, byte for byte.
    other.succeed(["machine", "export", "web server", "out"]);
    let (one, two) = (files(&sandbox.path("out")), files(&other.path("out")));
    assert!(
        one.keys().eq(two.keys()),
        "{:?} {:?}",
        one.keys(),
        two.keys()
    );
    for (name, bytes) in &one {
        assert!(two[name] == *bytes, "{name}");
    }
    check_shape(&String::from_utf8(one["web server.vbox"].clone()).expect("a text"));
    check_restores(&sandbox, &states);
    check_restores(&other, &states);
    for sandbox in [&sandbox, &other] {
        sandbox.succeed(["gc"]);
        check_restores(sandbox, &states);
        sandbox.succeed(["check", "--read-data"]);
    }
}

#[test]
fn a_disk_that_is_not_the_one_that_the_machine_names_is_refused() {
    let sandbox = Sandbox::new();
    virtual_box(&sandbox.path("vm"));
    let disk = |name: &str| sandbox.path("vm").join(name);
    fs::copy(disk("data.vdi"), disk("root.vdi")).expect("room");
    let run = sandbox.run(["machine", "import", "vm/web server.vbox"]);
    run.expect_error(1, "01010101-0101-0101-0101-010101010101");
    assert_eq!(sandbox.names(), Vec::<String>::new());
    assert_eq!(sandbox.succeed(["machine", "list", "--json"]).trim(), "[]");
}

#[test]
fn a_machines_file_opens_nothing_outside_its_folder() {
    let sandbox = Sandbox::new();
    sandbox.random_file("secret.raw", 1 << 20, 1);
    fs::create_dir(sandbox.path("vm")).expect("room");
    let absolute = sandbox.path("secret.raw").display().to_string();
    std::os::unix::fs::symlink(&absolute, sandbox.path("vm/link.raw")).expect("a link");
    for location in [
        "../secret.raw",
        absolute.as_str(),
        "link.raw",
        "/etc/passwd",
        "a/../../secret.raw",
    ] {
        let text = format!(
            "<domain><name>web</name><devices><disk device='disk'><driver type='raw'/>\
             <source file='{location}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"
        );
        fs::write(sandbox.path("vm/web.xml"), text).expect("room");
        let run = sandbox.run(["machine", "import", "vm/web.xml"]);
        run.expect_error(1, location);
        assert!(run.stderr.contains("--backing-map"), "{run:?}");
        assert_eq!(sandbox.names(), Vec::<String>::new());
    }
    // Who trusts it says so.
    let mapping = format!("a/../../secret.raw={absolute}");
    sandbox.succeed(["machine", "import", "vm/web.xml", "--backing-map", &mapping]);
    assert_eq!(
        exported(&sandbox, "secret"),
        fs::read(&absolute).expect("there")
    );
}

/// A domain with two disks as libvirt describes it: an overlay on `base`, and a shareable one.
fn domain(base: &str) -> String {
    format!(
        "<domain type='kvm'><name>web</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>\
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
         <source file='/var/lib/libvirt/images/web.snap1'/><backingStore type='file'>\
         <format type='qcow2'/><source file='{base}'/><backingStore/></backingStore>\
         <target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='/var/lib/libvirt/images/data.img'/><target dev='vdb' bus='virtio'/>\
         <shareable/></disk></devices></domain>"
    )
}

#[test]
fn a_domain_with_overlays_goes_in_and_out() {
    let sandbox = Sandbox::new();
    sandbox.random_file("base.raw", 2 << 20, 5);
    fs::create_dir(sandbox.path("images")).expect("room");
    let images = sandbox.path("images").display().to_string();
    let base = format!("{images}/web.qcow2");
    let top = "images/web.snap1";
    for line in [
        "qemu-img convert -O qcow2 base.raw images/web.qcow2",
        &format!("qemu-img create -q -f qcow2 -b {base} -F qcow2 {top}"),
        "qemu-img create -q -f raw images/data.img 1M",
    ] {
        client_line(&sandbox, line);
    }
    let writes = [
        "-f",
        "qcow2",
        "-c",
        "write -P 7 64k 100k",
        "-c",
        "write -z 1M 64k",
        top,
    ];
    client_succeeds(&sandbox, "qemu-io", &writes);
    fs::write(sandbox.path("web.xml"), domain(&base)).expect("room");
    let folder = format!("/var/lib/libvirt/images={images}");
    let own = format!("{images}={images}");
    let mut args = vec!["machine", "import", "web.xml", "--backing-map", &own];
    let refused = sandbox.run(&args);
    refused.expect_error(1, "/var/lib/libvirt/images/web.snap1");
    args.extend(["--backing-map", &folder]);
    sandbox.succeed(&args);
    client_line(&sandbox, &format!("qemu-img convert -O raw {top} top.raw"));
    let read = |name: &str| fs::read(sandbox.path(name)).expect("there");
    assert!(exported(&sandbox, "web") == read("top.raw"));
    assert!(exported(&sandbox, "web@web") == read("base.raw"));
    sandbox.succeed(["machine", "export", "web", "out", "-O", "qcow2"]);
    let text = fs::read_to_string(sandbox.path("out/web.xml")).expect("a domain");
    let domain = MachineDescription::parse(&text).expect("it was written here");
    assert_eq!(domain.attachments.len(), 2);
    let raws = ["top.raw", "images/data.img"];
    for (attachment, raw) in domain.attachments.iter().zip(raws) {
        let medium = &domain.media[attachment.medium];
        let file = format!("out/{}", medium.location);
        assert_eq!(medium.format.as_deref(), Some(Format::Qcow2.format_name()));
        client_line(&sandbox, &format!("qemu-img check -q {file}"));
        client_line(
            &sandbox,
            &format!("qemu-img compare -f qcow2 -F raw {file} {raw}"),
        );
    }
}

#[test]
fn an_appliance_goes_out_and_in() {
    let sandbox = Sandbox::new();
    let states = virtual_box(&sandbox.path("vm"));
    sandbox.succeed(["machine", "import", "vm/web server.vbox"]);
    sandbox.succeed(["machine", "export", "web server", "web.ova", "-O", "ova"]);
    let names: Vec<_> = fs::read_dir(sandbox.path("")).expect("a folder").collect();
    let is_part = |name: &std::io::Result<fs::DirEntry>| {
        let name = name.as_ref().expect("an entry").file_name();
        name.to_string_lossy().contains("part")
    };
    assert!(!names.iter().any(is_part), "{names:?}");
    let listed = client_succeeds(&sandbox, "tar", &["-tf", "web.ova"]);
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        [
            "web server.ovf",
            "root.vmdk",
            "data.vmdk",
            "kiosk.vmdk",
            "log.vmdk"
        ]
    );
    client_succeeds(&sandbox, "tar", &["-xf", "web.ova"]);
    let root = &states[""][0];
    fs::write(sandbox.path("root.raw"), root).expect("room");
    let compare = [
        "compare",
        "-f",
        "raw",
        "-F",
        "vmdk",
        "root.raw",
        "root.vmdk",
    ];
    client_succeeds(&sandbox, "qemu-img", &compare);
    let other = Sandbox::new();
    fs::copy(sandbox.path("web.ova"), other.path("web.ova")).expect("room");
    other.succeed(["machine", "import", "web.ova", "--name", "again"]);
    for (disk, expected) in DISKS
        .iter()
        .zip(&states[""])
        .filter(|(disk, _)| **disk != "kiosk")
    {
        assert!(exported(&other, disk) == *expected, "{disk}");
    }
    let again = sandbox.run(["machine", "export", "web server", "web.ova", "-O", "ova"]);
    again.expect_error(1, "is there already");
}

#[test]
fn a_multiattach_disk_keeps_its_base_and_its_child_apart() {
    let sandbox = Sandbox::new();
    let dir = sandbox.path("vm");
    fs::create_dir(&dir).expect("room");
    let mut machine = VirtualBox {
        description: MachineDescription {
            name: "one".to_owned(),
            identity: Some(DiskIdentity::Uuid([98; 16])),
            ..MachineDescription::default()
        },
        contents: Vec::new(),
        seed: 40,
    };
    let base = machine.medium(&dir, "base.vdi", MediumMode::MultiAttach, None);
    let kept = machine.medium(&dir, "kept.vdi", MediumMode::Normal, Some(base));
    let own = machine.medium(&dir, "own.vdi", MediumMode::Normal, Some(kept));
    let one = machine.snapshot("s", None, &[kept]);
    machine.description.attachments = attached(&[own]);
    machine.description.current_snapshot = Some(one);
    let text = machine.description.write_as(MachineLanguage::Vbox);
    fs::write(dir.join("one.vbox"), text.expect("it is right")).expect("room");
    let check = |sandbox: &Sandbox| {
        for (node, medium) in [("base", base), ("base+one", own), ("base+one@s", kept)] {
            assert!(
                exported(sandbox, node) == machine.contents[medium],
                "{node}"
            );
        }
    };
    sandbox.succeed(["machine", "import", "vm/one.vbox"]);
    check(&sandbox);
    sandbox.succeed(["machine", "export", "one", "out"]);
    let other = Sandbox::new();
    crate::sandbox::copy_folder(&sandbox.path("out"), &other.path("vm"));
    other.succeed(["machine", "import", "vm/one.vbox"]);
    check(&other);
}
