//! The server of a preference study, by its socket: what raters can do, and what they cannot.

mod asked;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use asked::{options, study};
use cdbench::study::{Collected, Desk, Key, Options, Question, Side, serve};
use serde_json::{Value, json};

static NEVER: AtomicBool = AtomicBool::new(false);

/// A server in this process, which ends with it.
fn served(folder: &Path, store: &Path) -> SocketAddr {
    let desk = Arc::new(Desk::open(folder, store).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(&desk, &listener, &NEVER));
    address
}

/// Sends bytes and returns status and body.
fn send(to: SocketAddr, bytes: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // the server may have refused before all of it is there
    let _ = stream.write_all(bytes);
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    (status, answer[body + 4..].to_vec())
}

fn get(to: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    send(to, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

fn post(to: SocketAddr, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (status, body) = send(to, (head + &body).as_bytes());
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn begin(to: SocketAddr, name: &str) -> (String, usize) {
    let (status, ticket) = post(to, "/api/begin", "", &json!({ "name": name }));
    assert_eq!(status, 200, "{ticket}");
    let token = ticket["token"].as_str().unwrap().to_owned();
    assert!(token.len() == 32 && ticket["rater"] != ticket["token"]);
    (token, ticket["booklet"].as_u64().unwrap() as usize)
}

fn answer(to: SocketAddr, token: &str, trial: &str, question: &str, choice: &str) -> u16 {
    let body = json!({ "trial": trial, "question": question, "choice": choice, "ms": 900 });
    post(to, "/api/answer", token, &body).0
}

fn collected<'a>(key: &'a Key, file: &Path) -> Collected<'a> {
    let mut collected = Collected::new(key);
    collected.read(file).unwrap();
    collected
}

#[test]
fn a_rater_gives_answers_and_no_other_can_touch_them() {
    let dir = tempfile::tempdir().unwrap();
    let key = study(dir.path(), &options()).key;
    let to = served(dir.path(), dir.path());
    let (status, page) = get(to, "/");
    let page = String::from_utf8(page).unwrap();
    assert!(status == 200 && page.contains(r#"name="collect" content="yes""#));
    assert_eq!(get(to, "/index.html?booklet=2").0, 200);

    let (one, two) = (begin(to, "Kim"), begin(to, "Kim"));
    assert!(one.0 != two.0 && one.1 != two.1, "another token and another booklet");
    let trial = |booklet: usize, i: usize| key.booklets[booklet][i].id.as_str();
    assert_eq!(answer(to, &one.0, trial(one.1, 3), "text", "left"), 200);
    assert_eq!(answer(to, &one.0, trial(one.1, 3), "text", "left"), 200, "sent again");
    assert_eq!(answer(to, &one.0, trial(one.1, 3), "text", "right"), 409, "changed");
    assert_eq!(answer(to, &one.0, trial(one.1, 3), "image", "right"), 200);
    assert_eq!(answer(to, &two.0, trial(one.1, 3), "text", "right"), 400, "another's trial");
    assert_eq!(answer(to, &two.0, trial(two.1, 3), "text", "right"), 200);
    for token in ["", "0", &"0".repeat(32), "../../key.json"] {
        assert_eq!(answer(to, token, trial(one.1, 4), "text", "left"), 403, "{token}");
    }
    assert_eq!(answer(to, &one.0, "no such", "text", "left"), 400);
    assert_eq!(answer(to, &one.0, trial(one.1, 4), "taste", "left"), 400);

    let file = dir.path().join("answers.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&one.0) && !text.contains(&two.0), "the file has no token");
    let collected = collected(&key, &file);
    assert_eq!((collected.votes.len(), collected.raters.len(), collected.twice), (3, 2, 0));
    assert!(collected.raters.iter().all(|r| r.edited == 0 && r.name == "Kim"));
    let first = collected.votes[0];
    assert_eq!((first.choice, first.question, first.ms), (Side::Left, Question::Text, 900));
    // nobody else may write into the file meanwhile
    let error = Desk::open(dir.path(), dir.path()).err().unwrap();
    assert!(error.to_string().contains("another server"), "{error}");
}

#[test]
fn nothing_but_the_page_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path(), &Options { booklets: 1, pairs: Some(2), ..options() });
    std::fs::write(dir.path().join("page/images/notes.txt"), "mine").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("page/images/aa.png")).unwrap();
    let to = served(dir.path(), dir.path());
    let names = std::fs::read_dir(dir.path().join("page/images")).unwrap();
    let names: Vec<String> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let image = names.iter().find(|n| n.len() == 20).unwrap();
    let (status, bytes) = get(to, &format!("/images/{image}"));
    assert!(status == 200 && bytes.starts_with(b"\x89PNG"));
    for path in [
        "/key.json",
        "/../key.json",
        "/images/../../key.json",
        "/images/..%2f..%2fkey.json",
        "/%2e%2e/key.json",
        "//key.json",
        "/images/",
        "/images/notes.txt",
        "/images/aa.png",
        "/answers.jsonl",
        "/crowd.csv",
        "C:\\key.json",
        "*",
    ] {
        assert!(matches!(get(to, path).0, 400 | 404), "{path}");
    }
}

#[test]
fn requests_have_bounds() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path(), &Options { booklets: 1, pairs: Some(2), ..options() });
    let to = served(dir.path(), dir.path());
    let status = |bytes: &[u8]| send(to, bytes).0;
    let json = "Content-Type: application/json\r\n";
    let head = |more: &str| format!("POST /api/begin HTTP/1.1\r\n{json}{more}\r\n");
    assert_eq!(status(head("Content-Length: 9999999\r\n").as_bytes()), 413);
    let large = head("Content-Length: 100000\r\n") + &"x".repeat(100_000);
    assert_eq!(status(large.as_bytes()), 413);
    assert_eq!(status(head("Content-Length: -1\r\n").as_bytes()), 400);
    assert_eq!(status(head("Transfer-Encoding: chunked\r\n").as_bytes()), 411);
    assert_eq!(status((head("Content-Length: 3\r\n") + "nil").as_bytes()), 400);
    assert_eq!(status(b"POST /api/begin HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"), 415);
    assert_eq!(status(b"DELETE / HTTP/1.1\r\n\r\n"), 405);
    assert_eq!(status(b"\0\0\0\0 nonsense\r\n\r\n"), 400);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
    assert_eq!(status(long.as_bytes()), 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(500));
    assert_eq!(status(many.as_bytes()), 400);
    // names are short and of one line
    let name = format!("{}\n<b>", "n".repeat(500));
    begin(to, &name);
    let text = std::fs::read_to_string(dir.path().join("answers.jsonl")).unwrap();
    assert!(text.lines().count() == 1 && text.len() < 300, "{text}");
    // who says nothing, or too slowly, does not keep others waiting
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(to).unwrap()).collect();
    assert_eq!(get(to, "/").0, 200);
    let mut slow = &silent[0];
    slow.write_all(b"GET / HT").unwrap();
    let mut answer = String::new();
    let mut reader = BufReader::new(slow);
    reader.read_line(&mut answer).unwrap();
    assert!(answer.contains("408"), "{answer}");
}

/// The program, serving.
struct Program(Child, SocketAddr);

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_end_matches('/');
        Program(child, address.parse().unwrap_or_else(|_| panic!("{line}")))
    }

    fn new(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cdbench"));
        command.args(["study", "serve"]).arg(folder).args(["--listen", "127.0.0.1:0"]);
        Program::start(command)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn nothing_that_was_confirmed_is_lost_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let key = study(dir.path(), &options()).key;
    let file = dir.path().join("answers.jsonl");
    let program = Program::new(dir.path());
    let (token, booklet) = begin(program.1, "");
    let trial = |i: usize| key.booklets[booklet][i].id.as_str();
    for i in 0..5 {
        assert_eq!(answer(program.1, &token, trial(i), "text", "left"), 200);
    }
    program.kill();
    assert_eq!(collected(&key, &file).votes.len(), 5);
    // as if it had been killed in the middle of a line
    let mut text = std::fs::read_to_string(&file).unwrap();
    text += "{\"study\":\"";
    std::fs::write(&file, &text).unwrap();

    // the page of a day ago goes on with its token
    let program = Program::new(dir.path());
    assert_eq!(answer(program.1, &token, trial(4), "text", "right"), 409);
    assert_eq!(answer(program.1, &token, trial(5), "text", "right"), 200);
    assert_ne!(begin(program.1, "").1, booklet, "the booklet that nobody has yet");
    program.kill();
    let found = collected(&key, &file);
    assert_eq!((found.votes.len(), found.raters[0].edited), (6, 0));
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("}\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_to_the_rater_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = study(dir.path(), &options()).key;
    let full = served(dir.path(), Path::new("/dev/full"));
    let (status, said) = post(full, "/api/begin", "", &json!({ "name": "" }));
    assert!(status == 507 && said["error"].as_str().unwrap().contains("researcher"), "{said}");

    // a disk with room for four kilobytes, and half of an answer
    let mut command = Command::new("bash");
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_cdbench"), "study", "serve"]);
    command.arg(dir.path()).args(["--listen", "127.0.0.1:0"]);
    let program = Program::start(command);
    let (token, booklet) = begin(program.1, "");
    let statuses: Vec<u16> = (0..30)
        .map(|i| answer(program.1, &token, &key.booklets[booklet][i].id, "text", "left"))
        .collect();
    let kept = statuses.iter().filter(|s| **s == 200).count();
    assert!(kept > 3 && statuses[29] == 507, "{statuses:?}");
    program.kill();
    let file = dir.path().join("answers.jsonl");
    assert_eq!(collected(&key, &file).votes.len(), kept);
    assert!(std::fs::read_to_string(&file).unwrap().ends_with("}\n"), "no half of a line");
    // with room again, the page sends the rest
    let program = Program::new(dir.path());
    assert_eq!(answer(program.1, &token, &key.booklets[booklet][29].id, "text", "left"), 200);
    program.kill();
    assert_eq!(collected(&key, &file).votes.len(), kept + 1);
}

#[test]
fn what_cannot_be_served_says_why() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path(), &options());
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_cdbench")).args(["study"]).args(args).output();
        let out = out.unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let here = dir.path().to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(&["serve", here, "--listen", &address]);
    assert!(code == Some(3) && said.contains("another address or port"), "{said}");
    let (code, said) = run(&["serve", "/no/such/study"]);
    assert!(code == Some(4) && said.contains("key.json"), "{said}");
    std::fs::write(dir.path().join("answers.jsonl"), "{\"a\": 1}\n").unwrap();
    let (code, said) = run(&["serve", here]);
    assert!(code == Some(3) && said.contains("answers.jsonl: line 1"), "{said}");
    let (code, said) = run(&["analyze", here]);
    assert!(code == Some(3) && said.contains("answers.jsonl: line 1"), "{said}");
    // a file of somebody else stays what it is
    let notes = dir.path().join("notes.txt");
    std::fs::write(&notes, "not an answer").unwrap();
    let (code, said) = run(&["serve", here, "--store", notes.to_str().unwrap()]);
    assert!(code == Some(3) && said.contains("notes.txt"), "{said}");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "not an answer");
}
