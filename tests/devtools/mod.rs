//! A Chromium without a window, driven over a pipe by its DevTools protocol: messages of JSON that end with
//! a zero byte. `CDBENCH_SCREENSHOTS=DIR` keeps what it shows.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Nothing takes longer than this, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program of the system is called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).flat_map(|dir| NAMES.map(|name| dir.join(name)));
    all.find(|file| file.is_file())
}

/// A browser with a profile of its own, which both end with it.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    next: u64,
    /// What happened in tabs and was not looked at.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; none, with a note, where there is none.
    pub fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("note: no Chromium is found, and nothing is tested in a browser");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let pipes = ["to", "from"].map(|name| profile.path().join(name));
        assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
        // its end of the pipes are the descriptors 3 and 4
        let script = "exec \"$@\" 3<\"$TO\" 4>\"$FROM\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-extensions"])
            .args(["--window-size=1100,850", "--remote-debugging-pipe", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .arg("about:blank")
            .env("TO", &pipes[0])
            .env("FROM", &pipes[1])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let to = File::options().write(true).open(&pipes[0]).unwrap();
        let from = BufReader::new(File::open(&pipes[1]).unwrap());
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for message in from.split(0) {
                let Ok(bytes) = message else { return };
                if sender.send(serde_json::from_slice(&bytes).unwrap_or(Value::Null)).is_err() {
                    return;
                }
            }
        });
        let events = vec![];
        Some(Browser { child, to, from: receiver, next: 0, events, _profile: profile })
    }

    /// Calls a method of the protocol, of a tab where one is named.
    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let message =
                self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: {e}"));
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// A tab with a page.
    pub fn open(&mut self, address: &str) -> Tab<'_> {
        let made = self.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let target = made["targetId"].as_str().unwrap().to_owned();
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", attach);
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let mut tab = Tab { browser: self, target, session, forgiven: vec![] };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({}));
        }
        tab.call("Page.navigate", json!({ "url": address }));
        tab.until(&format!("location.href === {address:?} && document.readyState === 'complete'"));
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tab.
pub struct Tab<'a> {
    browser: &'a mut Browser,
    target: String,
    session: String,
    forgiven: Vec<String>,
}

impl Tab<'_> {
    fn call(&mut self, method: &str, params: Value) -> Value {
        let session = self.session.clone();
        self.browser.call(Some(&session), method, params)
    }

    /// Runs a line of JavaScript, and returns what it gives.
    pub fn run(&mut self, script: &str) -> Value {
        let params = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let found = self.call("Runtime.evaluate", params);
        assert!(found["exceptionDetails"].is_null(), "{script}: {found}");
        found["result"]["value"].clone()
    }

    /// The text that a line of JavaScript gives.
    pub fn text(&mut self, script: &str) -> String {
        let found = self.run(script);
        found.as_str().unwrap_or_else(|| panic!("{script}: {found}")).to_owned()
    }

    /// Waits until a line of JavaScript is true.
    pub fn until(&mut self, script: &str) {
        let start = Instant::now();
        while self.run(script) != true {
            assert!(start.elapsed() < PATIENCE, "never: {script}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Presses a key and lets it go.
    pub fn key(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key }));
        }
    }

    /// Takes the network away, or gives it back.
    pub fn offline(&mut self, offline: bool) {
        let params = json!({
            "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        self.call("Network.emulateNetworkConditions", params);
    }

    /// A screen of this size, dark or light.
    pub fn device(&mut self, width: u32, height: u32, dark: bool) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": true });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Downloads what a line of JavaScript starts into a folder, and returns the file once it is whole: the
    /// browser makes an empty one under the last name first.
    pub fn download(&mut self, folder: &Path, script: &str) -> PathBuf {
        let params = json!({ "behavior": "allow", "downloadPath": folder, "eventsEnabled": true });
        self.browser.call(None, "Browser.setDownloadBehavior", params);
        let seen = self.browser.events.len();
        self.run(script);
        let start = Instant::now();
        loop {
            let events = &self.browser.events[seen..];
            let begun = events.iter().find(|e| e["method"] == "Browser.downloadWillBegin");
            let ended = events.iter().find(|e| {
                e["method"] == "Browser.downloadProgress" && e["params"]["state"] != "inProgress"
            });
            if let (Some(begun), Some(ended)) = (begun, ended) {
                assert_eq!(ended["params"]["state"], "completed", "{script}");
                return folder.join(begun["params"]["suggestedFilename"].as_str().unwrap());
            }
            assert!(start.elapsed() < PATIENCE, "no download by: {script}");
            std::thread::sleep(Duration::from_millis(30));
            self.run("1");
        }
    }

    /// Keeps what is to be seen, if somebody asks for it.
    pub fn screenshot(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("CDBENCH_SCREENSHOTS") else { return };
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let path = Path::new(&folder).join(format!("{name}.png"));
        std::fs::write(path, base64(shot["data"].as_str().unwrap())).unwrap();
    }

    /// Takes errors with these words for what they should be.
    pub fn forgive(&mut self, words: &str) {
        self.forgiven.push(words.into());
    }

    /// Closes the tab.
    pub fn close(self) {
        self.browser.call(None, "Target.closeTarget", json!({ "targetId": self.target }));
    }

    /// That nothing went wrong, and nothing was asked for that is not below `own`.
    pub fn check(&mut self, own: &str) {
        self.run("1");
        for event in std::mem::take(&mut self.browser.events) {
            let (method, params) = (event["method"].as_str().unwrap_or(""), &event["params"]);
            let text = params.to_string();
            if self.forgiven.iter().any(|words| text.contains(words)) {
                continue;
            }
            let wrong = match method {
                "Runtime.exceptionThrown" => true,
                "Log.entryAdded" => params["entry"]["level"] == "error",
                "Runtime.consoleAPICalled" => params["type"] == "error",
                "Network.requestWillBeSent" => {
                    let url = params["request"]["url"].as_str().unwrap_or("");
                    !url.starts_with(own) && !url.starts_with("data:") && !url.starts_with("blob:")
                }
                _ => false,
            };
            assert!(!wrong, "{method}: {text}");
        }
    }
}

/// The bytes of a text of base64.
fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut held, mut bits) = (vec![], 0u32, 0);
    for six in text.bytes().filter_map(value) {
        (held, bits) = (held << 6 | u32::from(six), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    bytes
}
