//! The pages, as somebody without scripts meets them.

use sha2::{Digest, Sha256};

use crate::fake_store::{FakeManager, HOSTILE};
use crate::raw_client::{Browser, hex_text};

fn in_form(text: &str) -> String {
    hex_text(text.as_bytes(), "%")
}

fn has_markup(text: &str) -> bool {
    text.contains("<img src=x") || text.contains("</script>\"")
}

#[test]
fn markup_in_any_field_is_text() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let hostile = in_form(HOSTILE);
    let addresses = [
        "/".to_owned(),
        "/store".to_owned(),
        format!("/?search={hostile}&order={hostile}&from={hostile}&told={hostile}"),
        format!("/node?name={hostile}"),
        "/node?name=nothing".to_owned(),
        format!("/rows?search={hostile}"),
        format!("/holding?name={hostile}"),
        format!("/guest?name={hostile}"),
        format!("/strip?name={hostile}"),
        "/figures".to_owned(),
        format!("/compare?from={hostile}&to={hostile}"),
        "/backups".to_owned(),
        "/machines".to_owned(),
        format!("/machines?told={hostile}"),
        format!("/folder?path={hostile}"),
        format!("/act?do=delete&node={hostile}"),
        format!("/act?do=import&source={hostile}&name={hostile}"),
        format!("/act?do={hostile}"),
        "/keys".to_owned(),
    ];
    for address in addresses {
        let answer = browser.get(&address);
        assert!(!has_markup(&answer.text()), "{address}: {}", answer.text());
    }
    for (path, form) in [
        ("/plan", format!("do=delete&node={hostile}")),
        ("/plan", format!("do=snapshot&node=web&name={hostile}")),
        ("/plan", format!("do=create&name={hostile}&size={hostile}")),
        ("/act", format!("do=create&name={hostile}&size={hostile}")),
        ("/run", format!("do=rename&node=web&name={hostile}")),
        ("/run", "do=commit&node=web".to_owned()),
    ] {
        let answer = browser.post(path, &form);
        assert!(!has_markup(&answer.text()), "{path}: {}", answer.text());
        if let Some(next) = answer.header("location") {
            assert!(next.starts_with('/') && !next.starts_with("//"), "{next}");
            let next = browser.get(next);
            assert!(!has_markup(&next.text()), "{path}: {}", next.text());
        }
    }
    assert!(!has_markup(&browser.get("/jobs").text()));
}

#[test]
fn an_action_is_a_plan_first_and_a_command_line_then() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let form = browser.get("/act?do=delete&node=web%40monday").text();
    assert!(form.contains("action=\"/plan\"") && form.contains("web@monday"));
    let plan = browser
        .post("/plan", "do=delete&node=web%40monday&node=web")
        .text();
    assert!(plan.contains("vellum rm web@monday web"), "{plan}");
    assert_eq!(
        manager.store.commands(),
        [["rm", "-n", "web@monday", "web"]]
    );
    let done = browser.post("/run", "do=delete&node=web%40monday&node=web");
    assert_eq!(done.status, 303, "{done:?}");
    assert_eq!(manager.store.commands()[1], ["rm", "web@monday", "web"]);
    let told = browser
        .get(done.header("location").expect("a way on"))
        .text();
    assert!(told.contains("did &lt;img"), "{told}");
}

#[test]
fn a_failure_is_told_in_the_words_of_the_command() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let done = browser.post("/run", "do=commit&node=web");
    assert_eq!(done.header("location"), Some("/jobs/1"));
    let page = browser.get("/jobs/1").text();
    assert!(
        page.contains("failed") && page.contains("What now"),
        "{page}"
    );
}

#[test]
fn a_job_that_lasts_can_be_cancelled() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let begun = browser.post("/run", "do=flatten&node=web");
    assert_eq!(begun.header("location"), Some("/jobs/1"));
    assert!(browser.get("/jobs/1").text().contains("running"));
    assert_eq!(browser.post("/jobs/1/stop", "").status, 303);
    let begun = std::time::Instant::now();
    while !browser.get("/jobs/1?live=on").text().contains("cancelled") {
        assert!(begun.elapsed().as_secs() < 10);
    }
}

#[test]
fn jobs_at_once_are_bounded() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let statuses = (0..9).map(|_| browser.post("/run", "do=flatten&node=web").status);
    let refused = statuses.filter(|status| *status == 429).count();
    assert_eq!(refused, 1);
}

#[test]
fn an_upload_comes_in_pieces_and_is_stored_once() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let begun = browser.post(
        "/uploads",
        &format!("name={}&length=11", in_form("../../disk")),
    );
    assert_eq!(begun.status, 200, "{}", begun.text());
    assert!(begun.text().contains("\"number\":1"), "{}", begun.text());
    let piece = |offset: usize, bytes: &[u8], hashed: &[u8]| {
        let hash = hex_text(&Sha256::digest(hashed), "");
        let path = format!("/uploads/1?offset={offset}&sha256={hash}");
        browser
            .post_bytes(&path, "application/octet-stream", bytes)
            .status
    };
    assert_eq!(piece(0, b"hello ", b"hello "), 200);
    assert_eq!(piece(0, b"hello ", b"hello "), 409, "it is there already");
    assert_eq!(piece(6, b"world", b"w0rld"), 400, "it changed on its way");
    assert_eq!(
        browser
            .post("/run", "do=import&name=a&source=upload:1")
            .status,
        422
    );
    assert_eq!(piece(6, b"world", b"world"), 200);
    assert_eq!(piece(11, b"!", b"!"), 400, "it is past the end");
    let done = browser.post("/run", "do=import&name=a&source=upload:1");
    assert_eq!(done.status, 303, "{}", done.text());
    let words = &manager.store.commands()[0];
    assert_eq!((words[0].as_str(), words[2].as_str()), ("import", "a"));
    assert!(words[1].starts_with(&manager.dir.path().join("spool").display().to_string()));
    assert_eq!(
        browser.get("/uploads/1").status,
        404,
        "it is stored, so it is gone"
    );
    let long = vec![0; (4 << 20) + 1];
    browser.post("/uploads", "name=a&length=10000000");
    let hash = "0".repeat(64);
    let path = format!("/uploads/2?offset=0&sha256={hash}");
    let refused = browser
        .post_bytes(&path, "application/octet-stream", &long)
        .status;
    assert!([413, 0].contains(&refused), "{refused}");
}

#[test]
fn downloads_are_whole_files() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let raw = browser.get("/download?node=web%40monday");
    assert_eq!((raw.status, raw.body), (200, vec![7; 4096]));
    assert_eq!(
        raw.head.matches("web-monday.raw").count(),
        2,
        "{}",
        raw.head
    );
    let begun = browser.post("/download", "node=web&format=qcow2");
    let job = begun.header("location").expect("a job").to_owned();
    let asked = std::time::Instant::now();
    while !browser.get(&job).text().contains("Download the file") {
        assert!(asked.elapsed().as_secs() < 10);
    }
    let made = browser.get(&format!("{job}/file"));
    assert_eq!((made.status, made.body), (200, vec![7; 4096]));
}

#[test]
fn a_page_is_small_and_asks_nobody_else() {
    let manager = FakeManager::open();
    let browser = Browser::sign_in(&manager);
    let page = browser.get("/").text();
    let mut sum = page.len();
    for path in ["/app.js", "/app.css", "/icon.svg"] {
        let text = browser.get(path).text();
        let without = text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !without.contains("http://") && !without.contains("https://"),
            "{path}"
        );
        sum += text.len();
    }
    assert!(
        !page.contains("http://") && !page.contains("style=\""),
        "{page}"
    );
    assert!(sum < 150 << 10, "{sum} bytes");
}
