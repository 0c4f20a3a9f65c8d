//! A browser that is driven as a person would, over the WebDriver protocol, and that tells what it
//! asked for and what it complained of.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The timeout for anything that a page does on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// The key of an element in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The wish for a browser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrowserWish<'a> {
    pub(crate) has_scripts: bool,
    /// The folder into which files are downloaded.
    pub(crate) downloads: &'a Path,
}

/// A browser with one window or more, until dropped.
pub(crate) struct BrowserDriver {
    driver: Child,
    port: u16,
    session: String,
}

impl BrowserDriver {
    /// Starts one.
    pub(crate) fn start_browser(wish: BrowserWish<'_>) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("`make test-browser` installs chromium-driver");
        let output = driver.stdout.take().expect("it was asked for");
        let port = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("it tells its port");
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
        };
        let mut prefs = json!({
            "download.default_directory": wish.downloads,
            "download.prompt_for_download": false,
        });
        if !wish.has_scripts {
            prefs["profile.managed_default_content_settings.javascript"] = json!(2);
        }
        let answer = browser.call(
            "POST",
            "/session",
            &json!({"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                "goog:chromeOptions": {
                    "args": ["--headless=new", "--no-sandbox", "--disable-gpu",
                        "--disable-dev-shm-usage", "--window-size=1280,900", "--hide-scrollbars"],
                    "prefs": prefs,
                },
            }}}),
        );
        answer["sessionId"]
            .as_str()
            .expect("a session")
            .clone_into(&mut browser.session);
        browser
    }

    /// Asks the driver, and returns its answer's value.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("the driver listens");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        socket
            .write_all(request.as_bytes())
            .expect("the driver reads");
        let body = read_body(&socket);
        let body = String::from_utf8_lossy(&body);
        let value: Value = serde_json::from_str(&body).unwrap_or_default();
        let value = value["value"].clone();
        if value["error"].is_string() {
            Err(value)
        } else {
            Ok(value)
        }
    }

    fn in_session(&self, path: &str) -> String {
        format!("/session/{}{path}", self.session)
    }

    pub(crate) fn open_address(&self, address: &str) {
        self.call("POST", &self.in_session("/url"), &json!({"url": address}));
    }

    /// The address of the page.
    pub(crate) fn address(&self) -> String {
        let address = self.call("GET", &self.in_session("/url"), &Value::Null);
        address.as_str().unwrap_or_default().to_owned()
    }

    /// The value of `script`, a function's body.
    pub(crate) fn run_script(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.call("POST", &self.in_session("/execute/sync"), &body)
    }

    /// The value that `script` hands to its callback, `arguments[0]`.
    pub(crate) fn await_script(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.call("POST", &self.in_session("/execute/async"), &body)
    }

    /// Asks the browser itself.
    pub(crate) fn command_browser(&self, name: &str, params: Value) -> Value {
        let body = json!({"cmd": name, "params": params});
        self.call("POST", &self.in_session("/goog/cdp/execute"), &body)
    }

    fn find_element(&self, css: &str) -> Option<String> {
        let body = json!({"using": "css selector", "value": css});
        let found = self
            .try_call("POST", &self.in_session("/element"), &body)
            .ok()?;
        Some(found[ELEMENT].as_str()?.to_owned())
    }

    /// The element, once it is there.
    fn await_element(&self, css: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(found) = self.find_element(css) {
                return found;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "there is no {css} at {}",
                self.address()
            );
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Does something to an element, again if the page was just replaced under it.
    fn act_on(&self, css: &str, act: &str, body: &Value) -> Value {
        let begun = Instant::now();
        loop {
            let element = self.await_element(css);
            let method = if body.is_null() { "GET" } else { "POST" };
            let path = self.in_session(&format!("/element/{element}/{act}"));
            match self.try_call(method, &path, body) {
                Ok(value) => return value,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{act} {css}: {error}"),
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    pub(crate) fn click(&self, css: &str) {
        self.act_on(css, "click", &json!({}));
    }

    pub(crate) fn type_text(&self, css: &str, text: &str) {
        self.act_on(css, "value", &json!({"text": text}));
    }

    pub(crate) fn clear(&self, css: &str) {
        self.act_on(css, "clear", &json!({}));
    }

    pub(crate) fn text_of(&self, css: &str) -> String {
        let text = self.act_on(css, "text", &Value::Null);
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text of `css` has `text` in it; the whole text.
    pub(crate) fn await_text(&self, css: &str, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let found = self.text_of(css);
            if found.contains(text) {
                return found;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{text:?} is not in {css} at {}: {found}",
                self.address()
            );
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Presses keys with nothing chosen to type into.
    pub(crate) fn press(&self, keys: &str) {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                let key = key.to_string();
                [
                    json!({"type": "keyDown", "value": key}),
                    json!({"type": "keyUp", "value": key}),
                ]
            })
            .collect();
        let body = json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]});
        self.call("POST", &self.in_session("/actions"), &body);
    }

    /// Opens another window, and returns it and the present one.
    pub(crate) fn open_window(&self) -> (String, String) {
        let here = self.call("GET", &self.in_session("/window"), &Value::Null);
        let new = self.call(
            "POST",
            &self.in_session("/window/new"),
            &json!({"type": "window"}),
        );
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&new["handle"]), text(&here))
    }

    pub(crate) fn switch_window(&self, handle: &str) {
        self.call(
            "POST",
            &self.in_session("/window"),
            &json!({"handle": handle}),
        );
    }

    /// Writes a picture of the window.
    pub(crate) fn write_screenshot(&self, file: &Path) {
        let shot = self.call("GET", &self.in_session("/screenshot"), &Value::Null);
        let bytes = decode_base64(shot.as_str().unwrap_or_default());
        std::fs::write(file, bytes).expect("room for a picture");
    }

    /// A window of this size, in light or dark.
    pub(crate) fn set_view(&self, width: u32, height: u32, is_dark: bool) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command_browser("Emulation.setDeviceMetricsOverride", size);
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.command_browser("Emulation.setEmulatedMedia", features);
    }

    /// The messages of a log since the last call.
    fn take_log(&self, kind: &str) -> Vec<Value> {
        let log = self.call("POST", &self.in_session("/se/log"), &json!({"type": kind}));
        log.as_array().cloned().unwrap_or_default()
    }

    /// The complaints in the console.
    pub(crate) fn take_complaints(&self) -> Vec<String> {
        let log = self.take_log("browser").into_iter();
        let grave = log.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        grave.map(|entry| entry["message"].to_string()).collect()
    }

    /// The addresses that pages asked for.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        let log = self.take_log("performance").into_iter();
        let address = |entry: Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            let address = message["params"]["request"]["url"].as_str()?;
            is_request.then(|| address.to_owned())
        };
        log.filter_map(address).collect()
    }
}

impl Drop for BrowserDriver {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.try_call("DELETE", &self.in_session(""), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The body of an answer; the driver keeps its connections open.
fn read_body(socket: &TcpStream) -> Vec<u8> {
    socket
        .set_read_timeout(Some(2 * PATIENCE))
        .expect("a timeout");
    let mut reader = BufReader::new(socket);
    let mut len = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("the driver answers");
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = text.trim().parse().expect("a number");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).expect("the driver answers");
    body
}

fn decode_base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let values = text
        .bytes()
        .filter_map(|letter| LETTERS.iter().position(|known| *known == letter));
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for value in values {
        held = held << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}
