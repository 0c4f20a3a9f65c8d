//! The operations that the manager sees: typed questions that are answered at once, and command
//! lines that are run as jobs. Who implements it owns the store; the manager decides nothing about
//! data.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// A store as the manager sees it.
pub trait Operations: Send + Sync + 'static {
    /// The facts that stay as they are while the manager runs.
    fn store_facts(&self) -> StoreFacts;

    /// A number that is another one after each change that the tree shows. Cheap: it is asked for
    /// several times a second.
    fn change_number(&self) -> u64;

    /// The number of reads and writes that guests have asked for so far.
    fn guest_request_count(&self) -> u64;

    /// All lines of the tree, in the order in which they are drawn.
    fn tree_lines(&self) -> Vec<TreeLine>;

    /// All that is known of the image or snapshot of this whole name, without reading it.
    fn node_facts(&self, name: &str) -> Result<NodeFacts, OperationFault>;

    /// The places where `to` differs from `from`, from maps alone, in at most `cells` parts.
    fn changed_cells(
        &self,
        from: &str,
        to: &str,
        cells: usize,
    ) -> Result<ChangedCells, OperationFault>;

    /// The partitions of a disk, and what its guest's file systems hold. Reads their metadata,
    /// which takes a while.
    fn guest_parts(&self, name: &str) -> Result<Vec<GuestPart>, OperationFault>;

    /// The store's figures and what each node holds. All maps are read: slow in a large store.
    fn count_usage(&self) -> Result<StoreUsage, OperationFault>;

    /// The machines, and their snapshots.
    fn machine_facts(&self) -> Vec<MachineFacts>;

    /// The command lines of shells that this process runs for them now.
    fn shell_commands(&self) -> Vec<ShellCommand>;

    /// The repositories that are known, and what was pushed to them. May ask other machines: slow.
    fn known_repositories(&self) -> Vec<RepositoryFacts>;

    /// Runs a command line, without the program's name, until it ends. Blocks.
    fn run_command(
        &self,
        words: &[String],
        output: CommandSink,
        watch: &Arc<CommandWatch>,
    ) -> CommandEnd;

    /// `bytes` as the command line says them.
    fn format_bytes(&self, bytes: u64) -> String;
}

/// Facts about the store.
#[derive(Clone, Debug, Default)]
pub struct StoreFacts {
    /// The folder of the store.
    pub folder: String,
    /// The version of the program.
    pub version: String,
    /// The reason why nothing can be changed, if nothing can.
    pub read_only_reason: Option<String>,
}

/// The kind of a line of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// An image, which goes on changing.
    Image,
    /// A snapshot, which does not.
    Snapshot,
    /// A base without a name, which several share.
    Base,
}

/// A line of the tree.
#[derive(Clone, Debug)]
pub struct TreeLine {
    /// The whole name, or of a base its id.
    pub key: String,
    /// The name for people.
    pub title: String,
    /// The kind of it.
    pub kind: NodeKind,
    /// The number of lines that it hangs from, one from the other.
    pub depth: usize,
    /// The line that it hangs from.
    pub hangs_from: Option<usize>,
    /// The length of the disk.
    pub size: u64,
    /// Bytes of its map that are not its parent's.
    pub own_bytes: u64,
    /// Compressed bytes that were new in it, if that was noted.
    pub added_bytes: Option<u64>,
    /// The time of its making, in milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// The mode of an image.
    pub mode: Option<&'static str>,
    /// The title of what it stands on, where the drawing does not show it.
    pub stands_on: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// True if it is protected from deletion.
    pub is_pinned: bool,
    /// True if somebody has it open for writing.
    pub is_attached: bool,
    /// The machines that have it among their disks.
    pub machines: Vec<String>,
}

/// An image or snapshot in full.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The whole name.
    pub name: String,
    /// True for a snapshot.
    pub is_snapshot: bool,
    /// Names or titles of all that it stands on, the nearest first.
    pub chain: Vec<NodeLink>,
    /// The nodes that stand on it.
    pub children: Vec<NodeLink>,
    /// The snapshots of an image, the oldest first.
    pub snapshots: Vec<NodeLink>,
    /// Further facts as `vellum info` has them: a name and a value each.
    pub fields: Vec<(&'static str, String)>,
    /// The tags.
    pub tags: Vec<String>,
    /// True if it is protected from deletion.
    pub is_pinned: bool,
    /// The mode of an image.
    pub mode: Option<&'static str>,
    /// The length of the disk.
    pub size: u64,
    /// The time of its making, in milliseconds since 1970.
    pub created_ms: Option<u64>,
    /// True if a guest has it open for writing.
    pub is_attached: bool,
    /// The places where clients reach it, if it is offered.
    pub exports: Vec<ExportPlace>,
}

/// Something beside a node in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLink {
    /// The name for people.
    pub title: String,
    /// The whole name, unless it is a base.
    pub name: Option<String>,
}

/// A place where a disk is offered to guests.
#[derive(Clone, Debug)]
pub struct ExportPlace {
    /// The purpose of the text.
    pub label: &'static str,
    /// A URI or a line to copy.
    pub text: String,
}

/// The places in which two disks differ.
#[derive(Clone, Debug, Default)]
pub struct ChangedCells {
    /// The name of the first.
    pub from: String,
    /// The length of the longer one.
    pub len: u64,
    /// The bytes of disk that one cell stands for.
    pub cell_len: u64,
    /// The bytes that differ in each.
    pub cells: Vec<u64>,
}

/// A partition or logical volume of a disk, or what lies between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestPart {
    /// `partition 2`, `logical volume group/root`, …
    pub name: String,
    /// Its content: `ext4`, `LUKS`, `unknown content`, …
    pub kind: String,
    /// Its length.
    pub len: u64,
    /// Bytes that its file system does not use, if that can be told.
    pub free: Option<u64>,
    /// The reason why it cannot be told.
    pub remark: Option<String>,
}

/// The holdings of a store and its nodes.
#[derive(Clone, Debug, Default)]
pub struct StoreUsage {
    /// The figures of the whole store: a name, a text and a meaning each.
    pub totals: Vec<(String, String, String)>,
    /// Bytes on disk that belong to nothing any more.
    pub dead_bytes: u64,
    /// The holdings of each image and snapshot.
    pub nodes: Vec<NodeHolding>,
    /// Pictures as whole SVG documents: a title and a document each.
    pub pictures: Vec<(String, String)>,
}

/// The bytes on disk that a node holds.
#[derive(Clone, Debug, Default)]
pub struct NodeHolding {
    /// The whole name.
    pub name: String,
    /// Alone: deleting it frees these.
    pub alone: u64,
    /// With what it stands on and what stands on it.
    pub with_lineage: u64,
    /// With others of its image.
    pub with_siblings: u64,
    /// With other images.
    pub with_others: u64,
}

/// A machine: images that change as one.
#[derive(Clone, Debug, Default)]
pub struct MachineFacts {
    /// The name.
    pub name: String,
    /// The names of its disks.
    pub disks: Vec<String>,
    /// True if it was switched on.
    pub is_running: bool,
    /// Its snapshots, the oldest first: the whole name, and the time in milliseconds since 1970.
    pub snapshots: Vec<(String, u64)>,
}

/// A command that somebody runs in a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellCommand {
    /// The command line.
    pub line: String,
    /// The time of its beginning, in milliseconds since 1970.
    pub began_ms: u64,
}

/// A repository that is known here.
#[derive(Clone, Debug, Default)]
pub struct RepositoryFacts {
    /// The place.
    pub place: String,
    /// The last push from here that left nothing out, in milliseconds since 1970.
    pub pushed_ms: Option<u64>,
    /// The last verification from here that found nothing wrong.
    pub verified_ms: Option<u64>,
    /// The last one that read all data.
    pub read_ms: Option<u64>,
    /// The points of it, the newest first.
    pub points: Vec<BackupPoint>,
    /// The images and snapshots of the store, and the newest point of each.
    pub local: Vec<LocalBackup>,
    /// Errors and hints, if it could not be read.
    pub messages: String,
}

/// A state in a repository.
#[derive(Clone, Debug)]
pub struct BackupPoint {
    /// The name that it was pushed under.
    pub name: String,
    /// The time of its making, in milliseconds since 1970.
    pub taken_ms: u64,
    /// True if the store has an image or snapshot of that name.
    pub is_local: bool,
}

/// An image or snapshot of the store, beside its backup.
#[derive(Clone, Debug)]
pub struct LocalBackup {
    /// The whole name.
    pub name: String,
    /// The time of the newest point of that name, in milliseconds since 1970, if there is one.
    pub taken_ms: Option<u64>,
}

/// The failure of a question, in the command line's words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct OperationFault {
    /// The reason.
    pub message: String,
    /// Advice on the next step.
    pub hint: Option<String>,
}

/// The place where a command's answer goes.
#[derive(Debug)]
pub enum CommandSink {
    /// Into [`CommandEnd::output`].
    Kept,
    /// Into a pipe or file.
    Stream(OwnedFd),
}

/// The end of a command.
#[derive(Clone, Debug, Default)]
pub struct CommandEnd {
    /// The exit code.
    pub code: u8,
    /// The beginning of the answer, if it was kept.
    pub output: String,
    /// Errors, hints and warnings.
    pub messages: String,
}

/// Messages of a command without lines that lead to help on the command line.
pub(crate) fn message_lines(messages: &str) -> impl Iterator<Item = &str> {
    let is_for_shells = |line: &str| {
        line.is_empty() || line.starts_with("For more information") || line.starts_with("Usage: ")
    };
    messages.lines().filter(move |line| !is_for_shells(line))
}

/// The progress of a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProgressNote {
    /// The line for people: amounts, rate and the time that is left.
    pub text: String,
    /// Done so far.
    pub done: u64,
    /// The amount that there will be, if that is known.
    pub total: Option<u64>,
}

/// Watches a command, and stops it.
#[derive(Default)]
pub struct CommandWatch {
    inner: Mutex<WatchedRun>,
}

#[derive(Default)]
struct WatchedRun {
    is_stopped: bool,
    stop: Option<Box<dyn Fn() + Send>>,
    progress: Option<ProgressNote>,
}

impl CommandWatch {
    /// Asks the command to stop, now or as soon as it has begun.
    pub fn stop_command(&self) {
        let mut run = self.lock_run();
        run.is_stopped = true;
        if let Some(stop) = &run.stop {
            stop();
        }
    }

    /// Takes the call that stops the command, and makes it if that was asked for already.
    pub fn set_stop(&self, stop: impl Fn() + Send + 'static) {
        let mut run = self.lock_run();
        if run.is_stopped {
            stop();
        }
        run.stop = Some(Box::new(stop));
    }

    /// True once a stop was asked for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock_run().is_stopped
    }

    /// Notes how far the command is.
    pub fn note_progress(&self, note: ProgressNote) {
        self.lock_run().progress = Some(note);
    }

    /// The last note of progress.
    #[must_use]
    pub fn last_progress(&self) -> Option<ProgressNote> {
        self.lock_run().progress.clone()
    }

    fn lock_run(&self) -> std::sync::MutexGuard<'_, WatchedRun> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
