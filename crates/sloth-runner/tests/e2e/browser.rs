//! A headless Chromium, driven over the protocol of W3C WebDriver.

use crate::fleet::{PATIENCE, Running, needs, until};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// It and its driver end with this.
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _running: Running,
    _profile: TempDir,
}

impl Browser {
    pub fn is_here() -> bool {
        let found = |name: &str| {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&paths).any(|path| path.join(name).is_file())
        };
        let here = found("chromium") && found("chromedriver");
        needs("Chromium with its driver (Debian: apt-get install chromium chromium-driver)", here)
    }

    pub fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0");
        let running = Running::start(command, Stdio::null());
        let line = running.out.line("started successfully on port");
        let port: u16 = line.rsplit(' ').next().unwrap().trim_end_matches('.').parse().unwrap();
        let driver = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = TempDir::new().unwrap();
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}}}});
        let answer = call(driver, "POST", "/session", &wanted).unwrap();
        let session = answer["sessionId"].as_str().unwrap().to_owned();
        Self { driver, session, _running: running, _profile: profile }
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        call(self.driver, method, &path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({"url": url}));
    }

    /// What a script in the page returns, a promise's result included.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Once a condition in the page holds.
    #[track_caller]
    pub fn until(&self, condition: &str) {
        until(&format!("{condition} in the page:\n{}", self.text()), || {
            (self.run(&format!("return Boolean({condition})")) == true).then_some(())
        });
    }

    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Keys, as a keyboard gives them to what has the focus.
    pub fn press(&self, keys: &str) {
        let strokes = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        let strokes: Vec<_> = strokes.collect();
        self.call("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}));
    }

    /// What the browser complained of, such as what the policy of the page kept out.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.call("POST", "/se/log", &json!({"type": "browser"}));
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// A command of the developer tools.
    pub fn tools(&self, command: &str, params: Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    /// How it looks: CSS pixels, light or dark.
    pub fn look(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.tools("Emulation.setDeviceMetricsOverride", size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.tools("Emulation.setEmulatedMedia", features);
    }

    pub fn picture(&self, file: &Path) {
        let shot = self.tools("Page.captureScreenshot", json!({"format": "png"}));
        std::fs::write(file, unbase64(shot["data"].as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = call(self.driver, "DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

fn call(driver: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(driver).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {driver}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let mut part = [0; 65536];
    // It tells the length, and may leave the connection open.
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(usize::MAX) {
                let value: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
                let value = value["value"].clone();
                return match value.get("error") {
                    Some(error) if !error.is_null() => Err(format!("{error}: {}", value["message"])),
                    _ => Ok(value),
                };
            }
        }
        match stream.read(&mut part).map_err(|error| error.to_string())? {
            0 => return Err(format!("the driver broke off after {text}")),
            read => answer.extend_from_slice(&part[..read]),
        }
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|byte| *byte != b'=').map(value).collect();
    let group = |four: &[u8]| {
        let bits = four.iter().fold(0u32, |bits, six| bits << 6 | u32::from(*six)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    letters.chunks(4).flat_map(group).collect()
}
