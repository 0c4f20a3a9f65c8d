//! `vellum machine run-args`: what qemu or libvirt must be told to attach a machine's disks over
//! NBD.
//!
//! Names and paths come from people: in JSON, for the shell, and in XML they are escaped, each in
//! its way.

use std::io;

use serde::Serialize;
use vellum_core::tree::{Mode, NodeRef, PlanError, Tree, VirtualMachine};
use vellum_core::units::{ImageId, MachineId};

use crate::command_context::CommandContext;
use crate::failure::{CommandFailure, Outcome};
use crate::lookup;
use crate::output::Render;
use crate::output::page::TextPage;

/// Print the options with which qemu attaches a machine's disks from a server's socket
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  vellum machine run-args vm --socket /run/vellum.sock
  eval \"qemu-system-x86_64 -m 2G $(vellum machine run-args vm --socket /run/vellum.sock)\"
  vellum machine run-args vm --socket /run/vellum.sock --libvirt
  vellum machine run-args vm --vhost-user /run/vellum/guests

The words are quoted for a shell.")]
pub(super) struct Args {
    /// The machine
    machine: String,
    /// The socket that `vellum serve` listens on
    #[arg(long, value_name = "PATH", required_unless_present = "vhost_user")]
    socket: Option<String>,
    /// The folder of `vellum serve --vhost-user`, in place of a socket: the guest's memory must be
    /// shared
    #[arg(long, value_name = "DIR", conflicts_with = "socket")]
    vhost_user: Option<String>,
    /// Print the <disk> elements of a libvirt domain instead
    #[arg(long)]
    libvirt: bool,
}

/// A disk as a guest's host must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MachineDrive {
    export: String,
    read_only: bool,
    is_shared: bool,
}

/// Words of qemu's command line.
#[derive(Serialize)]
struct QemuWords {
    machine: String,
    arguments: Vec<String>,
}

/// Elements of a libvirt domain.
#[derive(Serialize)]
struct DomainElements {
    machine: String,
    xml: String,
}

/// A block device as qemu's `-blockdev` takes it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct BlockDevice<'d> {
    driver: &'static str,
    node_name: String,
    server: QemuNbdServer<'d>,
    export: &'d str,
    read_only: bool,
    discard: &'static str,
}

#[derive(Serialize)]
struct QemuNbdServer<'d> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'d str,
}

pub(super) fn run_machine_run_args(
    args: &Args,
    session: &mut CommandContext,
) -> Result<Outcome, CommandFailure> {
    let server = match (&args.vhost_user, &args.socket) {
        (Some(folder), _) => DiskServer::VhostUser(folder),
        (None, socket) => DiskServer::Nbd(socket.as_deref().unwrap_or_default()),
    };
    if server.path().chars().any(is_unprintable) {
        return Err(CommandFailure::usage_error(
            "the socket's path has characters that cannot be printed",
            "choose another path",
        ));
    }
    let store = session.open_to_read()?;
    let (machine, name) = lookup::machine_to_read(&store, &args.machine)?;
    let drives = machine_drives(&store.tree(), machine)?;
    let drives = drives.iter().enumerate();
    if args.libvirt {
        let xml = drives.map(|(nth, drive)| match server {
            DiskServer::Nbd(socket) => drive_element(nth, drive, socket),
            DiskServer::VhostUser(folder) => guest_element(nth, drive, folder),
        });
        let elements = DomainElements {
            machine: name,
            xml: xml.collect(),
        };
        session.output.print_answer(&elements)?;
    } else {
        let arguments = drives.flat_map(|(nth, drive)| match server {
            DiskServer::Nbd(socket) => drive_words(nth, drive, socket),
            DiskServer::VhostUser(folder) => guest_words(nth, drive, folder),
        });
        let words = QemuWords {
            machine: name,
            arguments: arguments.collect(),
        };
        session.output.print_answer(&words)?;
    }
    Ok(Outcome::Done)
}

/// The place where the machine's disks are offered.
#[derive(Clone, Copy)]
enum DiskServer<'a> {
    /// A socket.
    Nbd(&'a str),
    /// A folder of sockets.
    VhostUser(&'a str),
}

impl<'a> DiskServer<'a> {
    fn path(self) -> &'a str {
        match self {
            Self::Nbd(path) | Self::VhostUser(path) => path,
        }
    }
}

/// Control characters, and what no XML document can have.
fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}')
}

fn machine_drives(tree: &Tree, machine: MachineId) -> Result<Vec<MachineDrive>, CommandFailure> {
    let machine = tree.machines().get(machine).ok_or(PlanError::Gone)?;
    machine
        .disks
        .iter()
        .map(|disk| drive(tree, machine, *disk))
        .collect()
}

fn drive(
    tree: &Tree,
    machine: &VirtualMachine,
    disk: ImageId,
) -> Result<MachineDrive, CommandFailure> {
    let mode = tree.image(disk).ok_or(PlanError::Gone)?.mode;
    let mut export = tree.display_name(NodeRef::Image(disk));
    // Each machine writes to its own scratch image; the plain name is that of the first.
    let is_immutable = matches!(mode, Mode::Immutable { .. });
    if is_immutable && tree.scratch_use(disk).machine != Some(machine.id) {
        export = format!("{export}+{}", machine.name);
    }
    if export.chars().any(is_unprintable) {
        return Err(CommandFailure::with_hint(
            format!("the name {export:?} cannot be printed"),
            "`vellum rename` gives it another",
        ));
    }
    Ok(MachineDrive {
        export,
        read_only: mode == Mode::Readonly,
        is_shared: mode == Mode::Shareable,
    })
}

/// Four words: the disk, and the device that the guest sees it as.
fn drive_words(nth: usize, drive: &MachineDrive, socket: &str) -> [String; 4] {
    let block = BlockDevice {
        driver: "nbd",
        node_name: format!("vellum{nth}"),
        server: QemuNbdServer {
            kind: "unix",
            path: socket,
        },
        export: &drive.export,
        read_only: drive.read_only,
        discard: "unmap",
    };
    let block = serde_json::to_string(&block).expect("text and booleans are JSON");
    let shared = if drive.is_shared { ",share-rw=on" } else { "" };
    [
        "-blockdev".to_owned(),
        block,
        "-device".to_owned(),
        format!("virtio-blk-pci,drive=vellum{nth}{shared}"),
    ]
}

/// Four words: the disk's socket, and the device that the guest sees it as.
fn guest_words(nth: usize, drive: &MachineDrive, folder: &str) -> [String; 4] {
    // A comma ends an option's value, two are one in it.
    let path = format!("{folder}/{}.sock", drive.export).replace(',', ",,");
    [
        "-chardev".to_owned(),
        format!("socket,id=vellum{nth},path={path},reconnect=1"),
        "-device".to_owned(),
        format!("vhost-user-blk-pci,chardev=vellum{nth}"),
    ]
}

fn guest_element(nth: usize, drive: &MachineDrive, folder: &str) -> String {
    let path = escape_xml(&format!("{folder}/{}.sock", drive.export));
    let target = target_name(nth);
    format!(
        "\
<disk type='vhostuser' device='disk'>
  <driver name='qemu' type='raw'/>
  <source type='unix' path='{path}'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target dev='{target}' bus='virtio'/>
</disk>
"
    )
}

/// The element of a libvirt domain for one disk, as its first.
pub(crate) fn libvirt_element(
    export: &str,
    read_only: bool,
    is_shared: bool,
    socket: &str,
) -> String {
    let drive = MachineDrive {
        export: export.to_owned(),
        read_only,
        is_shared,
    };
    drive_element(0, &drive, socket)
}

fn drive_element(nth: usize, drive: &MachineDrive, socket: &str) -> String {
    let (export, socket, target) = (
        escape_xml(&drive.export),
        escape_xml(socket),
        target_name(nth),
    );
    let flags = match drive {
        MachineDrive {
            read_only: true, ..
        } => "  <readonly/>\n",
        MachineDrive {
            is_shared: true, ..
        } => "  <shareable/>\n",
        _ => "",
    };
    format!(
        "\
<disk type='network' device='disk'>
  <driver name='qemu' type='raw' discard='unmap'/>
  <source protocol='nbd' name='{export}'>
    <host transport='unix' socket='{socket}'/>
  </source>
  <target dev='{target}' bus='virtio'/>
{flags}</disk>
"
    )
}

/// `vda` to `vdz`, `vdaa`, and so on.
fn target_name(nth: usize) -> String {
    let letter = |nth: usize| char::from(b'a' + (nth % 26) as u8);
    let high = (nth / 26).checked_sub(1).map(letter);
    std::iter::once("vd".to_owned())
        .chain(high.map(String::from))
        .chain([letter(nth).to_string()])
        .collect()
}

/// `text` as an attribute's value.
fn escape_xml(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, character| {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
        out
    })
}

/// `text` as one word for a shell.
fn quote_for_shell(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=./,:+".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl Render for QemuWords {
    /// An option and its value a line, and all of them one command for a shell.
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        let lines: Vec<String> = self
            .arguments
            .chunks(2)
            .map(|pair| {
                pair.iter()
                    .map(|word| quote_for_shell(word))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        if lines.is_empty() {
            Ok(())
        } else {
            lines
                .join(" \\\n")
                .lines()
                .try_for_each(|line| page.write_line(line))
        }
    }
}

impl Render for DomainElements {
    fn render_page(&self, page: &mut TextPage) -> io::Result<()> {
        self.xml.lines().try_for_each(|line| page.write_line(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Units;
    use crate::output::width::PageWidth;

    const NASTY: &str = r#"it's "a", $(b) `c` & <d> \ *"#;

    fn drive(export: &str) -> MachineDrive {
        MachineDrive {
            export: export.to_owned(),
            read_only: false,
            is_shared: false,
        }
    }

    #[test]
    fn a_shell_gives_qemu_the_words_that_were_meant() {
        let drives = [
            drive("web"),
            drive(NASTY),
            MachineDrive {
                read_only: true,
                ..drive("iso")
            },
        ];
        let arguments: Vec<String> = drives
            .iter()
            .enumerate()
            .flat_map(|(nth, drive)| drive_words(nth, drive, NASTY))
            .collect();
        let mut shown = Vec::new();
        let words = QemuWords {
            machine: "vm".to_owned(),
            arguments,
        };
        words
            .render_page(&mut TextPage::new(
                &mut shown,
                Units::Iec,
                &jiff::tz::TimeZone::UTC,
                PageWidth::USUAL,
            ))
            .expect("memory takes it");
        let script = format!(
            "set -- {}; printf '%s\\n' \"$@\"",
            String::from_utf8(shown).expect("text").trim_end()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh is there");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .collect::<Vec<_>>(),
            words.arguments
        );
        let block: serde_json::Value = serde_json::from_str(&words.arguments[5]).expect("JSON");
        assert_eq!(
            (block["export"].as_str(), block["server"]["path"].as_str()),
            (Some(NASTY), Some(NASTY))
        );
    }

    #[test]
    fn names_do_not_leave_their_attribute() {
        let shown = drive_element(0, &drive(NASTY), "/run/a'b.sock");
        assert!(
            shown.contains("name='it&apos;s &quot;a&quot;, $(b) `c` &amp; &lt;d&gt; \\ *'>"),
            "{shown}"
        );
        assert!(shown.contains("socket='/run/a&apos;b.sock'/>"));
        assert_eq!(shown.matches('<').count(), 7, "{shown}");
    }

    #[test]
    fn disks_have_letters() {
        let targets = [
            (0, "vda"),
            (25, "vdz"),
            (26, "vdaa"),
            (27, "vdab"),
            (51, "vdaz"),
            (52, "vdba"),
            (255, "vdiv"),
        ];
        targets
            .iter()
            .for_each(|(nth, expected)| assert_eq!(target_name(*nth), *expected));
    }
}
