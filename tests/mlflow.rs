//! `cdbench export mlflow` against a server that takes down what it is told. A real one is asked by
//! `tests/peers/logs_of_others.py`.

mod small;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use small::{cdbench, ok, small};

/// What a tracking server keeps of a run.
#[derive(Default)]
struct Run {
    cell: String,
    status: String,
    metrics: Vec<Value>,
    params: BTreeMap<String, String>,
    files: usize,
}

#[derive(Default)]
struct Server {
    runs: Vec<Run>,
    /// Answer nothing more after so many calls that write metrics.
    fails_after: Option<usize>,
}

impl Server {
    /// The answer to a call.
    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let path = path.strip_prefix("/api/2.0/").unwrap();
        let said: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        let number = |id: &str| id.trim_start_matches('r').parse::<usize>().unwrap();
        match (method, path) {
            ("GET", path) if path.starts_with("mlflow/experiments/get-by-name?") => {
                (404, json!({ "error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none" }))
            }
            ("POST", "mlflow/experiments/create") => (200, json!({ "experiment_id": "7" })),
            ("POST", "mlflow/runs/search") => {
                let filter = text("filter");
                let wanted = filter.split('\'').nth(1).unwrap();
                let info = |(i, r): (usize, &Run)| json!({ "info": { "run_id": format!("r{i}"), "status": r.status } });
                let found = self.runs.iter().enumerate();
                let found = found.filter(|(_, r)| r.cell == wanted && r.status != "deleted");
                (200, json!({ "runs": found.map(info).collect::<Vec<_>>() }))
            }
            ("POST", "mlflow/runs/create") => {
                let tags = said["tags"].as_array().unwrap();
                let cell = tags.iter().find(|t| t["key"] == "cdbench.cell").unwrap();
                let cell = cell["value"].as_str().unwrap().to_owned();
                let id = format!("r{}", self.runs.len());
                let uri = format!("mlflow-artifacts:/7/{id}/artifacts");
                self.runs.push(Run { cell, status: "RUNNING".into(), ..Run::default() });
                (200, json!({ "run": { "info": { "run_id": id, "artifact_uri": uri } } }))
            }
            ("POST", "mlflow/runs/log-batch") => {
                let metrics = said["metrics"].as_array().cloned().unwrap_or_default();
                if !metrics.is_empty() && self.fails_after == Some(0) {
                    return (500, json!({ "error_code": "INTERNAL_ERROR", "message": "full" }));
                }
                self.fails_after = self.fails_after.map(|n| n - usize::from(!metrics.is_empty()));
                let run = &mut self.runs[number(&text("run_id"))];
                run.metrics.extend(metrics);
                for param in said["params"].as_array().into_iter().flatten() {
                    let of = |key: &str| param[key].as_str().unwrap().to_owned();
                    run.params.insert(of("key"), of("value"));
                }
                (200, json!({}))
            }
            ("POST", "mlflow/runs/update") => {
                self.runs[number(&text("run_id"))].status = text("status");
                (200, json!({}))
            }
            ("POST", "mlflow/runs/delete") => {
                self.runs[number(&text("run_id"))].status = "deleted".into();
                (200, json!({}))
            }
            ("PUT", path) => {
                let id = path.split('/').nth(3).unwrap();
                assert!(path.ends_with(".png") && body.starts_with(b"\x89PNG"), "{path}");
                self.runs[number(id)].files += 1;
                (200, json!({}))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn serve(stream: TcpStream, server: &Mutex<Server>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (method, rest) = line.split_once(' ').unwrap();
    let path = rest.split(' ').next().unwrap().to_owned();
    let (method, mut length) = (method.to_owned(), 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        match header.trim().split_once(':') {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().unwrap();
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (code, answer) = server.lock().unwrap().answer(&method, &path, &body);
    let text = answer.to_string();
    let head = format!("HTTP/1.1 {code} x\r\nContent-Length: {}\r\n", text.len());
    write!(reader.into_inner(), "{head}Connection: close\r\n\r\n{text}").unwrap();
}

#[test]
fn cells_are_sent_once_and_those_cut_short_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = small(&dir.path().join("store"), &dir.path().join("report"));
    run.extend(["--filter".into(), "method=custom-diffusion".into()]);
    ok(&run);
    let server = Arc::new(Mutex::new(Server { fails_after: Some(0), ..Server::default() }));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let of_thread = Arc::clone(&server);
    std::thread::spawn(move || listener.incoming().for_each(|s| serve(s.unwrap(), &of_thread)));

    let mut export = vec!["export".to_owned(), "mlflow".into()];
    export.extend(run[1..].iter().cloned());
    export.extend(["--tracking-uri".into(), uri]);
    let failed = cdbench(&export);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(3), "{said}");
    assert!(said.contains("refused mlflow/runs/log-batch: 500 full"), "{said}");
    server.lock().unwrap().fails_after = None;

    let (out, err) = ok(&export);
    assert!(
        out.starts_with("1 runs sent, 0 were there") && err.contains("1 of them had been begun"),
        "{out}{err}"
    );
    let (out, _) = ok(&export);
    assert!(out.starts_with("0 runs sent"), "{out}");

    let server = server.lock().unwrap();
    let whole: Vec<&Run> = server.runs.iter().filter(|r| r.status == "FINISHED").collect();
    let left = server.runs.iter().filter(|r| r.status == "RUNNING").count();
    assert!(left == 0 && whole.len() == 1, "{} and {left}", whole.len());
    let own = whole.iter().find(|r| r.params["method"] == "custom-diffusion").unwrap();
    let of = |key: &str| own.metrics.iter().filter(|m| m["key"] == key).collect::<Vec<_>>();
    let steps: Vec<u64> = of("training/loss").iter().map(|m| m["step"].as_u64().unwrap()).collect();
    assert!(steps.len() > 1 && steps == (1..=steps.len() as u64).collect::<Vec<_>>(), "{steps:?}");
    assert!(of("text-alignment")[0]["value"].is_number() && own.params.contains_key("settings.lr"));
    assert!(own.metrics.iter().all(|m| m["timestamp"].as_i64().unwrap() > 1_600_000_000_000));
    assert_eq!(own.files, 2, "the first sample of each prompt");
}
