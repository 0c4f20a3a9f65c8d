//! A store, its manager, and a browser that is signed in.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::driver::{BrowserDriver, BrowserWish, PATIENCE};
use crate::sandbox::Sandbox;
use rustix::process::{Pid, Signal, kill_process};

/// A manager, or a server with one, until dropped.
pub(crate) struct ServedPage {
    child: Child,
    pub(crate) url: String,
    /// Where the pages are.
    pub(crate) origin: String,
}

impl ServedPage {
    /// Starts `words` in `sandbox`, and waits until it tells the URL.
    pub(crate) fn start_page(sandbox: &Sandbox, words: &[&str]) -> Self {
        let mut command = sandbox.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let output = child.stdout.take().expect("it was asked for");
        let url = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("manager: ")?.to_owned()))
            .expect("it tells the URL");
        let (origin, _) = url.split_once("/#").expect("a token follows");
        Self {
            origin: origin.to_owned(),
            child,
            url,
        }
    }

    /// The memory that it has, in bytes.
    pub(crate) fn memory_len(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }

    /// Ends it as a person does.
    pub(crate) fn stop(mut self) {
        self.interrupt();
        let begun = Instant::now();
        while self
            .child
            .try_wait()
            .expect("it was started here")
            .is_none()
        {
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn interrupt(&self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

impl Drop for ServedPage {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.child.wait();
    }
}

/// A browser whose window shows the manager's page.
pub(crate) fn signed_in(sandbox: &Sandbox, page: &ServedPage) -> BrowserDriver {
    let downloads = sandbox.path("downloads");
    std::fs::create_dir_all(&downloads).expect("room");
    let browser = BrowserDriver::start_browser(BrowserWish {
        has_scripts: true,
        downloads: &downloads,
    });
    browser.open_address(&page.url);
    browser.await_text("#pane h1", "The store");
    browser
}
