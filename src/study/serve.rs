//! Serves a study's page on this machine, and keeps the answers as they come.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::answers::Question;
use super::http::{Request, Response, read, respond};
use super::key::{Key, Side};
use super::ledger::{Ledger, Refusal};
use super::page::COLLECT;
use crate::{Error, Result, process, readfile};

/// Connections that are answered at the same time: a lab's, with those that browsers open and do not use.
const WORKERS: usize = 64;
/// Of a file of the page.
const LARGEST: u64 = 1 << 30;

/// All that is served.
pub struct Desk {
    ledger: Mutex<Ledger>,
    index: Vec<u8>,
    /// The images by their names: nothing else of the disk can be asked for.
    images: HashMap<String, PathBuf>,
}

/// The body of a request to begin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    #[serde(default)]
    name: String,
}

/// The body of an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    trial: String,
    question: Question,
    choice: Side,
    ms: u64,
}

impl Desk {
    /// The study in `folder`, with its answers in `store`, a file or a folder for one.
    ///
    /// # Errors
    /// No study there, or answers that cannot be kept.
    pub fn open(folder: &Path, store: &Path) -> Result<Self> {
        let key = Key::read(folder)?;
        let page = folder.join("page/index.html");
        let text = readfile::text(&page, LARGEST)?;
        if !text.contains(COLLECT[0]) || !text.contains(&key.study) {
            return Err(Error::input_hint(
                format!("{}: not the page of the study {}", page.display(), key.study),
                "make the study again: cdbench study make",
            ));
        }
        let index = text.replacen(COLLECT[0], COLLECT[1], 1).into_bytes();
        let place = folder.join("page/images");
        let mut images = HashMap::new();
        for entry in std::fs::read_dir(&place).map_err(Error::io(&place))? {
            let entry = entry.map_err(Error::io(&place))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let plain = name.strip_suffix(".png").is_some_and(|stem| {
                !stem.is_empty() && stem.chars().all(|c| c.is_ascii_alphanumeric())
            });
            if plain && entry.file_type().map_err(Error::io(&place))?.is_file() {
                images.insert(format!("/images/{name}"), entry.path());
            }
        }
        let store = if store.is_dir() { store.join(Ledger::FILE) } else { store.to_owned() };
        Ok(Desk { ledger: Mutex::new(Ledger::open(&store, &key)?), index, images })
    }

    /// How many raters began, and how many answers there are.
    pub fn counts(&self) -> (usize, usize) {
        self.ledger().counts()
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        // a line is written whole or not at all, whatever a thread that held it ended with
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request) -> std::result::Result<Response, Refusal> {
        let ok = |kind, lasting, body| Ok(Response { status: 200, kind, lasting, body });
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/" | "/index.html") => {
                ok("text/html; charset=utf-8", false, self.index.clone())
            }
            ("GET", path) => {
                let file = self.images.get(path);
                let file = file.ok_or_else(|| Refusal::new(404, "there is no such page"))?;
                let lost = |_| Refusal::new(500, "the image cannot be read");
                ok("image/png", true, readfile::bytes(file, LARGEST).map_err(lost)?)
            }
            // no form of another page can send this type
            ("POST", _) if !request.json => Err(Refusal::new(415, "send JSON")),
            ("POST", "/api/begin") => {
                let begin: Begin = parse(&request.body)?;
                let ticket = self.ledger().begin(&begin.name, now())?;
                let body = serde_json::to_vec(&ticket).expect("strings and numbers");
                ok("application/json", false, body)
            }
            ("POST", "/api/answer") => {
                let given: Given = parse(&request.body)?;
                let Given { trial, question, choice, ms } = given;
                let times = [ms, now()];
                self.ledger().answer(&request.token, &trial, question, choice, times)?;
                ok("application/json", false, b"{}".to_vec())
            }
            ("POST", _) => Err(Refusal::new(404, "there is no such page")),
            _ => Err(Refusal::new(405, "use GET or POST")),
        }
    }

    fn attend(&self, stream: &mut TcpStream) {
        let response = match read(stream) {
            Ok(None) => return,
            Ok(Some(request)) => self.answer(&request).unwrap_or_else(Response::from),
            Err(refusal) => refusal.into(),
        };
        if let Err(e) = respond(stream, &response) {
            tracing::debug!("a rater went away: {e}");
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> std::result::Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::new(400, format!("the body: {e}")))
}

/// Milliseconds since 1970.
fn now() -> u64 {
    process::since_1970().as_millis() as u64
}

/// Serves until `stop` is set. What a rater was told is kept is on disk by then.
///
/// # Errors
/// A listener that does not listen.
pub fn serve(desk: &Arc<Desk>, listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    let failed = |e: std::io::Error| Error::input(format!("cannot serve: {e}"));
    for _ in 0..WORKERS {
        let (desk, listener) = (desk.clone(), listener.try_clone().map_err(failed)?);
        std::thread::spawn(move || {
            loop {
                match listener.accept() {
                    Ok((mut stream, _)) => desk.attend(&mut stream),
                    // out of file descriptors, say, which passes
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
    }
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
