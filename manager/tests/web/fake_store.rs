//! A store of a few lines that remembers which command lines it was given.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vellum_manager::{
    ChangedCells, CommandEnd, CommandSink, CommandWatch, GuestPart, ListeningPlace, MachineFacts,
    ManagerOptions, ManagerServer, NodeFacts, NodeHolding, NodeKind, NodeLink, OperationFault,
    Operations, RemoteAccess, RepositoryFacts, ShellCommand, StoreFacts, StoreUsage, TreeLine,
};

/// A text that does harm wherever it is not escaped.
pub(crate) const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&amp;</script>";
pub(crate) const UPLOAD_LIMIT: u64 = 16 << 20;

#[derive(Default)]
pub(crate) struct FakeStore {
    pub(crate) commands: Mutex<Vec<Vec<String>>>,
    pub(crate) changes: AtomicU64,
}

/// A manager of a fake store, in a folder of its own.
pub(crate) struct FakeManager {
    pub(crate) store: Arc<FakeStore>,
    pub(crate) server: ManagerServer,
    pub(crate) announced: Arc<Mutex<Vec<String>>>,
    pub(crate) dir: tempfile::TempDir,
}

impl FakeManager {
    pub(crate) fn open() -> Self {
        Self::open_with(None)
    }

    pub(crate) fn open_with(read_only_reason: Option<&str>) -> Self {
        Self::open_for(read_only_reason, None)
    }

    /// A manager that lets in who has a password.
    pub(crate) fn open_remote(remote: RemoteAccess) -> Self {
        Self::open_for(None, Some(remote))
    }

    fn open_for(read_only_reason: Option<&str>, remote: Option<RemoteAccess>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let files = dir.path().join("files");
        std::fs::create_dir(&files).expect("room");
        std::fs::write(files.join("disk.raw"), "a disk").expect("room");
        let store = Arc::new(FakeStore::default());
        let announced: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&announced);
        let options = ManagerOptions {
            place: ListeningPlace::Address("127.0.0.1:0".parse().expect("an address")),
            remote,
            read_only_reason: read_only_reason.map(str::to_owned),
            folders: vec![files],
            spool: dir.path().join("spool"),
            upload_limit: UPLOAD_LIMIT,
            announce: Box::new(move |url| {
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(url);
            }),
        };
        let operations: Arc<dyn Operations> = Arc::clone(&store) as _;
        let server = ManagerServer::start_manager(operations, options).expect("it starts");
        Self {
            store,
            server,
            announced,
            dir,
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }
}

impl FakeStore {
    pub(crate) fn commands(&self) -> Vec<Vec<String>> {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn line(key: &str, kind: NodeKind, hangs_from: Option<usize>) -> TreeLine {
    TreeLine {
        key: key.to_owned(),
        title: key.to_owned(),
        kind,
        depth: usize::from(hangs_from.is_some()),
        hangs_from,
        size: 1 << 30,
        own_bytes: 4096,
        added_bytes: Some(100),
        created_ms: Some(1_700_000_000_000),
        mode: Some("normal"),
        stands_on: Some(HOSTILE.to_owned()),
        tags: vec![HOSTILE.to_owned()],
        is_pinned: true,
        is_attached: true,
        machines: vec![HOSTILE.to_owned()],
    }
}

impl Operations for FakeStore {
    fn store_facts(&self) -> StoreFacts {
        StoreFacts {
            folder: format!("/srv/{HOSTILE}"),
            version: HOSTILE.to_owned(),
            read_only_reason: None,
        }
    }

    fn change_number(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn guest_request_count(&self) -> u64 {
        0
    }

    fn tree_lines(&self) -> Vec<TreeLine> {
        vec![
            line("web", NodeKind::Image, None),
            line("web@monday", NodeKind::Snapshot, Some(0)),
            line(HOSTILE, NodeKind::Image, None),
            line("layer/7", NodeKind::Base, Some(0)),
        ]
    }

    fn node_facts(&self, name: &str) -> Result<NodeFacts, OperationFault> {
        if !self.tree_lines().iter().any(|line| line.key == name) {
            return Err(OperationFault {
                message: format!("there is no {name}"),
                hint: Some(HOSTILE.to_owned()),
            });
        }
        let link = |name: &str| NodeLink {
            title: name.to_owned(),
            name: Some(name.to_owned()),
        };
        Ok(NodeFacts {
            name: name.to_owned(),
            is_snapshot: name.contains('@'),
            chain: vec![link(HOSTILE)],
            children: vec![link(HOSTILE)],
            snapshots: vec![link(HOSTILE)],
            fields: vec![("format", HOSTILE.to_owned())],
            tags: vec![HOSTILE.to_owned()],
            size: 4096,
            ..NodeFacts::default()
        })
    }

    fn changed_cells(&self, from: &str, _: &str, _: usize) -> Result<ChangedCells, OperationFault> {
        Ok(ChangedCells {
            from: from.to_owned(),
            len: 10_000,
            cell_len: 4096,
            cells: vec![0, 4096, 1],
        })
    }

    fn guest_parts(&self, _: &str) -> Result<Vec<GuestPart>, OperationFault> {
        Ok(vec![GuestPart {
            name: HOSTILE.to_owned(),
            kind: HOSTILE.to_owned(),
            len: 4096,
            free: None,
            remark: Some(HOSTILE.to_owned()),
        }])
    }

    fn count_usage(&self) -> Result<StoreUsage, OperationFault> {
        let holding = |name: &str| NodeHolding {
            name: name.to_owned(),
            alone: 1,
            with_lineage: 2,
            with_siblings: 3,
            with_others: 4,
        };
        Ok(StoreUsage {
            totals: vec![(HOSTILE.to_owned(), HOSTILE.to_owned(), HOSTILE.to_owned())],
            dead_bytes: 0,
            nodes: vec![holding("web"), holding(HOSTILE)],
            pictures: vec![(HOSTILE.to_owned(), "<svg/>".to_owned())],
        })
    }

    fn machine_facts(&self) -> Vec<MachineFacts> {
        vec![MachineFacts {
            name: HOSTILE.to_owned(),
            disks: vec![HOSTILE.to_owned()],
            is_running: true,
            snapshots: vec![(HOSTILE.to_owned(), 0)],
        }]
    }

    fn shell_commands(&self) -> Vec<ShellCommand> {
        vec![ShellCommand {
            line: HOSTILE.to_owned(),
            began_ms: 0,
        }]
    }

    fn known_repositories(&self) -> Vec<RepositoryFacts> {
        vec![RepositoryFacts {
            place: HOSTILE.to_owned(),
            messages: format!("error: {HOSTILE}\nhint: {HOSTILE}\n"),
            ..RepositoryFacts::default()
        }]
    }

    /// Remembers it. An export gives bytes; `flatten` lasts until it is stopped.
    fn run_command(
        &self,
        words: &[String],
        output: CommandSink,
        watch: &Arc<CommandWatch>,
    ) -> CommandEnd {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.push(words.to_vec());
        drop(commands);
        let mut end = CommandEnd::default();
        match words[0].as_str() {
            "flatten" => {
                while !watch.is_stopped() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                end.code = 130;
            }
            "export" => match output {
                CommandSink::Stream(pipe) => {
                    // A reader that has gone is found out by the manager.
                    let _ = std::fs::File::from(pipe).write_all(&[7; 4096]);
                }
                CommandSink::Kept => std::fs::write(&words[2], [7; 4096]).expect("room"),
            },
            "commit" => {
                end.code = 1;
                end.messages = format!("error: {HOSTILE}\nhint: {HOSTILE}\n");
            }
            _ => {
                end.output = format!("did {HOSTILE}\n");
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
        }
        end
    }

    fn format_bytes(&self, bytes: u64) -> String {
        format!("{bytes} B")
    }
}
