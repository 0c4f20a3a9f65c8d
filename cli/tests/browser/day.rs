//! A person's day with the manager: found, read, changed, undone, brought in and taken out; and
//! what happens when the server goes away.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::driver::{BrowserDriver, BrowserWish, PATIENCE};
use crate::looks::store_of_nodes;
use crate::sandbox::{Sandbox, client_line};
use crate::served_page::{ServedPage, signed_in};

/// Bytes of the image that the day is about; half of them are not zero.
const DISK_LEN: usize = 16 << 20;

/// A guest that writes for as long as it lives.
struct WritingGuest {
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u32>>,
}

impl WritingGuest {
    fn start_writing(sandbox: &Sandbox, image: &str) -> Self {
        let socket = std::path::absolute(sandbox.path("store/nbd.sock")).expect("a folder");
        let uri = format!("nbd+unix:///{image}?socket={}", socket.display());
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut guest = Command::new("qemu-io");
            guest
                .args(["-f", "raw", &uri])
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            let mut guest = guest.spawn().expect("qemu-io is there");
            let mut input = guest.stdin.take().expect("it was asked for");
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let (pattern, at) = (rounds % 200 + 1, rounds % 500 * 4);
                writeln!(input, "write -q -P {pattern} {at}k 4k\nflush").expect("it reads");
                rounds += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(input);
            assert!(
                guest.wait().expect("it ends").success(),
                "a guest's write failed"
            );
            rounds
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }

    /// The writes that it has done.
    fn stop_writing(mut self) -> u32 {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it was started");
        thread.join().expect("no write failed")
    }
}

fn sandbox_of_a_day() -> Sandbox {
    let sandbox = Sandbox::new();
    let mut disk = vec![0; DISK_LEN];
    let mut chance = fastrand::Rng::with_seed(7);
    chance.fill(&mut disk[..DISK_LEN / 2]);
    std::fs::write(sandbox.path("disk.raw"), &disk).expect("room");
    sandbox.succeed([
        "import",
        "disk.raw",
        "web",
        "--snapshot",
        "monday",
        "--quiet",
    ]);
    chance.fill(&mut disk[..DISK_LEN / 2]);
    std::fs::write(sandbox.path("disk.raw"), &disk).expect("room");
    let update = [
        "import",
        "disk.raw",
        "web",
        "--update",
        "--snapshot",
        "tuesday",
        "--quiet",
    ];
    sandbox.succeed(update);
    store_of_nodes(&sandbox, 1000);
    std::fs::create_dir(sandbox.path("files")).expect("room");
    sandbox
}

/// Fills in a form, looks at its plan, and does it.
fn act_with(browser: &BrowserDriver, verb: &str, fields: &[(&str, &str)]) -> String {
    browser.click(&format!("#pane .actions a[href*='do={verb}']"));
    browser.await_text("#pane button.primary", "Continue");
    for (name, text) in fields {
        browser.type_text(&format!("#pane [name='{name}']"), text);
    }
    browser.click("#pane form.fields button.primary");
    let plan = browser.text_of("#pane .plan");
    browser.click("#pane form[action='/run'] button.primary");
    plan
}

fn show_node(browser: &BrowserDriver, name: &str) {
    browser.clear("#search");
    browser.type_text("#search", name);
    browser.click(&format!(
        "#tree-lines a[href='/node?name={}']",
        name.replace('@', "%40")
    ));
    browser.await_text("#pane h1", name);
}

#[test]
#[ignore = "needs a browser: make test-browser"]
fn a_persons_day() {
    let sandbox = sandbox_of_a_day();
    let files = sandbox.path("files").display().to_string();
    let words = ["serve", "--manager=0", "--manager-files", &files];
    let page = ServedPage::start_page(&sandbox, &words);
    let browser = signed_in(&sandbox, &page);
    assert!(
        !browser.address().contains("token"),
        "{}",
        browser.address()
    );

    show_node(&browser, "web");
    assert!(
        browser.text_of("#pane").contains("nbd+unix"),
        "its URI is told"
    );
    let guest = WritingGuest::start_writing(&sandbox, "web");
    snapshot_appears_elsewhere(&browser, &page);
    let writes = guest.stop_writing();
    assert!(writes > 0);
    deletion_frees_what_was_told(&browser, &sandbox);
    show_node(&browser, "web@tuesday");
    let plan = act_with(&browser, "restore", &[]);
    assert!(plan.contains("makes web as web@tuesday"), "{plan}");
    browser.await_text("#pane .told", "web is as web@tuesday now");
    upload_is_stored(&browser, &sandbox);
    downloads_are_equal(&browser, &sandbox);
    job_is_cancelled(&browser, &sandbox, &page);
    assert_eq!(browser.take_complaints(), Vec::<String>::new());
    for address in browser.take_requests() {
        let is_own = address.starts_with(&page.origin) || address.starts_with("data:");
        assert!(is_own || address.starts_with("blob:"), "{address}");
    }
    server_is_lost_and_found(&browser, &sandbox, page);
}

/// A snapshot that is taken while a guest writes is in another window within a second.
fn snapshot_appears_elsewhere(browser: &BrowserDriver, page: &ServedPage) {
    let (new, here) = browser.open_window();
    browser.switch_window(&new);
    browser.open_address(&format!("{}/node?name=web", page.origin));
    browser.await_text("#pane h1", "web");
    browser.switch_window(&here);
    let plan = act_with(browser, "snapshot", &[("name", "wednesday")]);
    assert!(plan.contains("web@wednesday"), "{plan}");
    browser.await_text("#pane .told", "took web@wednesday");
    browser.switch_window(&new);
    let begun = Instant::now();
    while !browser.text_of("#tree-lines").contains("web@wednesday") {
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "it does not appear"
        );
    }
    browser.switch_window(&here);
}

/// The figure of the plan is what collecting gives back.
fn deletion_frees_what_was_told(browser: &BrowserDriver, sandbox: &Sandbox) {
    // Chunks that the guest wrote and wrote over are dead already.
    sandbox.succeed(["gc", "--quiet"]);
    show_node(browser, "web@monday");
    let plan = act_with(browser, "delete", &[]);
    assert!(plan.contains("would delete web@monday"), "{plan}");
    assert!(plan.contains("web@tuesday would stay as it is"), "{plan}");
    browser.await_text("#pane .told", "deleted web@monday");
    let told = plan.lines().find_map(|line| line.split_once("give back "));
    let told = bytes_of(told.expect("it tells how much").1);
    // Beside the space that is kept back, which follows the size of the store.
    let stored = || {
        let stats = sandbox.succeed(["stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        stats["compressed_bytes"].as_u64().expect("a number")
    };
    let before = stored();
    browser.click("header a.brand");
    browser.await_text("#pane h1", "The store");
    let plan = act_with(browser, "gc", &[]);
    assert!(plan.contains("would be given back"), "{plan}");
    browser.await_text("#pane .told", "the store took");
    let freed = before.saturating_sub(stored());
    let differs = freed.abs_diff(told);
    assert!(
        differs < told / 20 + (256 << 10),
        "{told} were told, {freed} were freed"
    );
}

/// `1.5 MiB` in bytes.
fn bytes_of(text: &str) -> u64 {
    let (number, unit) = text.trim().split_once(' ').expect("a number and a unit");
    let factors = [("B", 1.0), ("KiB", 1024.0), ("MiB", 1_048_576.0)];
    let factor = factors.iter().find(|(known, _)| *known == unit);
    let number: f64 = number.parse().expect("a number");
    (number * factor.expect("a unit").1) as u64
}

fn upload_is_stored(browser: &BrowserDriver, sandbox: &Sandbox) {
    browser.click("header a.brand");
    browser.await_text("#pane h1", "The store");
    let upload = sandbox.random_file("brought.raw", 9 << 20, 11);
    browser.click("#pane .actions a[href*='do=import']");
    browser.type_text("#upload-file", &upload.display().to_string());
    browser.await_text("#upload-text", "has arrived");
    browser.click("#pane form.fields button.primary");
    browser.click("#pane form[action='/run'] button.primary");
    browser.await_text("#pane", "imported brought");
    let compared = ["compare", "brought", "./brought.raw"];
    assert!(sandbox.succeed(compared).contains("identical"));
}

fn downloads_are_equal(browser: &BrowserDriver, sandbox: &Sandbox) {
    show_node(browser, "brought");
    browser.click("#pane a[href^='/download']");
    let raw = await_file(&sandbox.path("downloads/brought.raw"));
    let sent = std::fs::read(sandbox.path("brought.raw")).expect("it is there");
    assert!(raw == sent, "every byte of a download is equal");
    browser.click("#pane form[action='/download'] button");
    browser.click("#pane a[href$='/file']");
    await_file(&sandbox.path("downloads/brought.qcow2"));
    let compared = ["compare", "brought", "downloads/brought.qcow2"];
    assert!(sandbox.succeed(compared).contains("identical"));
}

/// The content of a file, once the browser has given it its name.
fn await_file(path: &Path) -> Vec<u8> {
    let begun = Instant::now();
    loop {
        if let Ok(bytes) = std::fs::read(path) {
            return bytes;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{} does not come",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn job_is_cancelled(browser: &BrowserDriver, sandbox: &Sandbox, page: &ServedPage) {
    // A pipe in which more is to come: its import ends by being cancelled, on any machine.
    let large = sandbox.path("files/large.raw");
    client_line(sandbox, "mkfifo files/large.raw");
    let pipe = large.clone();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut file = std::fs::File::create(pipe).expect("somebody reads it");
        let mut chunk = vec![0; 16 << 20];
        fastrand::Rng::with_seed(13).fill(&mut chunk);
        file.write_all(&chunk).expect("somebody reads it");
        let _ = ended.recv();
    });
    browser.open_address(&format!("{}/act?do=import", page.origin));
    let real = large.canonicalize().expect("it is there");
    browser.type_text("#field-source", &real.display().to_string());
    browser.type_text("#field-name", "large");
    browser.click("#pane form.fields button.primary");
    browser.click("#pane form[action='/run'] button.primary");
    browser.click("#pane form[action$='/stop'] button");
    browser.await_text("#pane .state", "cancelled");
    drop(done);
    writer.join().expect("the writer ends");
    assert!(!sandbox.names().contains(&"large".to_owned()));
}

fn server_is_lost_and_found(browser: &BrowserDriver, sandbox: &Sandbox, page: ServedPage) {
    let (_, port) = page.origin.rsplit_once(':').expect("a port");
    let place = format!("--manager={port}");
    page.stop();
    browser.await_text("#link-state", "does not answer");
    let page = ServedPage::start_page(sandbox, &["serve", &place]);
    browser.await_text("#link-state", "Open the URL");
    browser.open_address(&page.url);
    browser.await_text("#pane h1", "The store");
    assert!(browser.text_of("#tree-count").contains("lines"));
}

/// Keys of the protocol.
const DOWN: char = '\u{e015}';
const RIGHT: char = '\u{e014}';
const LEFT: char = '\u{e012}';
const END: char = '\u{e010}';
const HOME: char = '\u{e011}';
const ENTER: char = '\u{e007}';
const ESCAPE: char = '\u{e00c}';

#[test]
#[ignore = "needs a browser: make test-browser"]
fn everything_is_reached_by_keys() {
    let sandbox = sandbox_of_a_day();
    let page = ServedPage::start_page(&sandbox, &["manager", "--listen", "0"]);
    let browser = signed_in(&sandbox, &page);
    let active = || {
        let key = browser.run_script("return document.activeElement.dataset.key || ''");
        key.as_str().unwrap_or_default().to_owned()
    };
    let await_active = |key: &str| {
        let begun = Instant::now();
        while active() != key {
            assert!(
                begun.elapsed() < PATIENCE,
                "{:?} has the keys, not {key:?}",
                active()
            );
        }
    };
    browser.press("/");
    browser.type_text("#search", "web");
    browser.await_text("#tree-count", "3 of");
    browser.press(&DOWN.to_string());
    await_active("web");
    browser.press(&DOWN.to_string());
    await_active("web@monday");
    browser.press(&ENTER.to_string());
    browser.await_text("#pane h1", "web@monday");
    browser.press("c");
    browser.await_text("#pane h1", "New child");
    browser.press(&format!("trial{ENTER}"));
    browser.await_text("#pane .plan", "makes trial");
    browser.click("#pane form[action='/run'] button.primary");
    browser.await_text("#pane .told", "created trial");
    browser.press(&ESCAPE.to_string());
    browser.press("?");
    browser.await_text("#pane h1", "Keys and signs");
    browser.press("j");
    browser.await_text("#pane", "New child: web@monday");
    browser.clear("#search");
    browser.press(&ESCAPE.to_string());
    browser.await_text("#tree-count", "1005 lines");
    browser.press(&HOME.to_string());
    await_active("web");
    browser.press(&LEFT.to_string());
    browser.await_text("#tree-count", "1002 of 1005 lines");
    browser.press(&RIGHT.to_string());
    browser.await_text("#tree-lines", "web@monday");
    browser.press(&END.to_string());
    await_active("machine-0100");
    browser.press(&format!(" {HOME}"));
    await_active("web");
    browser.press(" ");
    browser.await_text("#delete-picked", "Delete 2 selected");
    browser.press("d");
    browser.await_text("#pane .subjects", "machine-0100");
    assert_eq!(browser.take_complaints(), Vec::<String>::new());
}

/// The rules of axe-core, where `make test-browser` has put it.
#[test]
#[ignore = "needs a browser: make test-browser"]
fn nothing_keeps_a_screen_reader_out() {
    let axe = std::env::var_os("VELLUM_AXE");
    let Some(axe) = axe.and_then(|axe| std::fs::read_to_string(axe).ok()) else {
        println!("skipped: VELLUM_AXE names no axe.min.js");
        return;
    };
    let sandbox = sandbox_of_a_day();
    let page = ServedPage::start_page(&sandbox, &["serve", "--manager=0"]);
    let browser = signed_in(&sandbox, &page);
    for is_dark in [false, true] {
        browser.set_view(1280, 900, is_dark);
        for path in [
            "/",
            "/store",
            "/node?name=web",
            "/node?name=web%40monday",
            "/act?do=import",
            "/act?do=mode&node=web",
            "/jobs",
            "/backups",
            "/machines",
            "/keys",
            "/compare?from=web%40monday&to=web",
        ] {
            browser.open_address(&format!("{}{path}", page.origin));
            std::thread::sleep(Duration::from_millis(300));
            browser.run_script(&axe);
            let found = browser.await_script(
                "const done = arguments[0]; axe.run().then(r => done(r.violations
                    .filter(v => ['serious', 'critical'].includes(v.impact))
                    .map(v => [v.id, v.impact, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))])));",
            );
            assert_eq!(found, serde_json::json!([]), "{path}, dark: {is_dark}");
        }
    }
}

#[test]
#[ignore = "needs a browser: make test-browser"]
fn a_day_without_scripts() {
    let sandbox = sandbox_of_a_day();
    let page = ServedPage::start_page(&sandbox, &["manager", "--listen", "0"]);
    let downloads = sandbox.path("downloads");
    std::fs::create_dir(&downloads).expect("room");
    let browser = BrowserDriver::start_browser(BrowserWish {
        has_scripts: false,
        downloads: &downloads,
    });
    browser.open_address(&format!("{}/", page.origin));
    let (_, token) = page.url.split_once("token=").expect("a token");
    browser.type_text("#token", token);
    browser.click("#sign-in-form button");
    browser.await_text("#pane h1", "The store");
    browser.await_text("#tree-pager", "Later lines");
    browser.type_text("#search", "web");
    browser.click("#search-form button");
    browser.await_text("#tree-count", "3 of");
    browser.click("#tree-lines a[href='/node?name=web']");
    browser.await_text("#pane h1", "web");
    act_with(&browser, "snapshot", &[("name", "by-hand")]);
    browser.await_text("#pane .told", "took web@by-hand");
    browser.click("#pane a[href^='/strip']");
    browser.await_text("#pane", "It is as web@tuesday is");
    browser.open_address(&format!("{}/node?name=web%40by-hand", page.origin));
    act_with(&browser, "delete", &[]);
    browser.await_text("#pane .told", "deleted web@by-hand");
    browser.open_address(&format!("{}/?search=web", page.origin));
    browser.await_text("#tree-count", "3 of");
    browser.click("button[value='web']");
    browser.open_address(&format!("{}/", page.origin));
    assert!(!sandbox.names().contains(&"web@by-hand".to_owned()));
    assert_eq!(browser.take_complaints(), Vec::<String>::new());
}
